"""Answers given before, in SQLite.

An agent that is stuck on a screen gets the same answer again, as it would at temperature 0; after
`max_repeats` times it is computed anew.
"""

import dataclasses
import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from diffvis_jax.errors import ConfigError

log = logging.getLogger(__name__)

_VERSION = 1
_TABLE = """
create table if not exists answers (
    key blob primary key, made real, used real, repeats integer, bytes integer, value text
)"""


@dataclasses.dataclass(frozen=True)
class Kept:
    """An answer from before.

    Attributes:
      text, finish: what it said, and why it ended.
      prompt_tokens, completion_tokens: positions of the prompt, and ids of the answer.
      settled: whether its tokens were those of full encodes.
      age_s: seconds since it was made.
    """

    text: str
    finish: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    settled: bool
    age_s: float = 0.0


class AnswerCache:
    """Answers by key; old ones go, and of too many the least recently used.

    Only answers at temperature 0 belong here: who calls sees to that. A damaged file is put aside,
    and a new one begun. When it cannot be written (a full disk) it is off until the next start.

    Attributes:
      hits, misses: since it was opened.
      off: why it does nothing any more; empty = it works.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = ":memory:",
        *,
        ttl_s: float = 300.0,
        max_entries: int = 100,
        max_bytes: int = 4_000_000,
        max_repeats: int = 3,
        clock: Callable[[], float] = time.time,
    ):
        """Args:
          path: of the file, which its owner alone may read.
          ttl_s: seconds that an answer is good for.
          max_entries, max_bytes: of all texts.
          max_repeats: times an answer is given in a row.

        Raises:
          ConfigError: no such numbers.
        """
        numbers = {"ttl_s": ttl_s, "max_entries": max_entries, "max_bytes": max_bytes}
        for name, value in {**numbers, "max_repeats": max_repeats}.items():
            if not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value}")
        self._ttl, self._most, self._bytes, self._repeats = *numbers.values(), max_repeats
        self._clock, self.hits, self.misses, self.off = clock, 0, 0, ""
        self._path = str(path)
        self._base = self._open()

    def _open(self) -> sqlite3.Connection | None:
        file = Path(self._path)
        try:
            return self._connected()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                self._turn_off(error)
                return None
        aside = file.with_name(f"{file.name}.damaged-{int(self._clock())}")
        file.rename(aside)
        log.warning("kept answers: '%s' is damaged, put aside as '%s'", file, aside.name)
        return self._connected()

    def _connected(self) -> sqlite3.Connection:
        if self._path != ":memory:":
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            Path(self._path).chmod(0o600)
        # Several threads ask; SQLite itself lets one in at a time.
        base = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        base.execute("pragma journal_mode = wal")
        if base.execute("pragma user_version").fetchone()[0] not in (0, _VERSION):
            base.execute("drop table if exists answers")
        base.execute(_TABLE)
        base.execute(f"pragma user_version = {_VERSION}")
        return base

    def get(self, key: bytes) -> Kept | None:
        """The answer; None = there is none, it is too old, or was given often enough."""
        row = self._run("select made, repeats, value from answers where key = ?", key)
        now = self._clock()
        if row is None or now - row[0] > self._ttl or row[1] >= self._repeats:
            self.misses += 1
            return None
        self._run("update answers set used = ?, repeats = repeats + 1 where key = ?", now, key)
        self.hits += 1
        return Kept(**{**json.loads(row[2]), "age_s": now - row[0]})

    def put(self, key: bytes, answer: Kept) -> bool:
        """Keeps an answer that came to its end; whether it could."""
        fields = {**dataclasses.asdict(answer), "age_s": 0.0}
        value, now = json.dumps(fields), self._clock()
        given = key, now, now, len(value), value
        self._run("insert or replace into answers values (?, ?, ?, 0, ?, ?)", *given)
        self._run("delete from answers where made < ?", now - self._ttl)
        # The sum of what was used since: what lies beyond the bounds goes.
        self._run(
            "delete from answers where key in (select key from (select key, row_number() over "
            "(order by used desc) as place, sum(bytes) over (order by used desc) as size from "
            "answers) where place > ? or size > ?)",
            self._most,
            self._bytes,
        )
        return not self.off

    def __len__(self) -> int:
        row = self._run("select count(*) from answers")
        return 0 if row is None else row[0]

    def close(self) -> None:
        """Closes the file."""
        if self._base is not None:
            self._base.close()
            self._base = None

    def _run(self, command: str, *values: object) -> tuple | None:
        if self._base is None or self.off:
            return None
        try:
            return self._base.execute(command, values).fetchone()
        except sqlite3.Error as error:
            self._turn_off(error)
            return None

    def _turn_off(self, error: Exception) -> None:
        self.off = str(error)
        log.warning("kept answers are off until the next start: %s", error)
