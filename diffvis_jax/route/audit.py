"""A line for everything that leaves this machine, before it leaves; no content.

JSON lines, appended, readable by their owner alone. What was sent is told by a keyed digest, so
that equal pictures can be recognised, and pictures that are guessed cannot.
"""

import contextlib
import hashlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

from diffvis_jax.providers.chat import Cleared, Part, Picture, Text
from diffvis_jax.route.decide import Decision
from diffvis_jax.route.labels import Sensitivity, StaysHere


class Audit:
    """An open log."""

    def __init__(self, file: Path):
        """Appends to `file`; beside it lies the key of the digests, made the first time. Raises
        OSError."""
        flags = os.O_APPEND | os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW
        self._file = os.open(file, flags, 0o600)
        os.fchmod(self._file, 0o600)
        self._key = _key(file.with_name(f"{file.name}.key"))

    def intent(
        self, request: str, cleared: Cleared, decision: Decision, sensitivity: Sensitivity
    ) -> None:
        """What is about to be sent; it is on the disk when this returns. Raises StaysHere where it
        cannot be written, so that nothing may be sent."""
        parts = cleared.chat.parts
        sent = [_bytes(part) for part in parts]
        entry = {
            "event": "intent",
            "id": request,
            "target": decision.target,
            "send": decision.send,
            "sensitivity": sensitivity.name.lower(),
            "reasons": decision.reasons,
            "bytes": sum(map(len, sent)),
            "pictures": sum(not isinstance(part, Text) for part in parts),
            "marks": len(cleared.marks),
            "masked": round(cleared.share_masked, 4),
            "digests": [hashlib.blake2b(x, key=self._key).hexdigest()[:32] for x in sent],
        }
        try:
            self._write(entry)
        except OSError:
            raise StaysHere("the audit log cannot be written") from None

    def outcome(self, request: str, status: str, seconds: float) -> None:
        """How it went; raises OSError."""
        ms = round(1e3 * seconds)
        self._write({"event": "outcome", "id": request, "status": status, "ms": ms})

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps({"time": round(time.time(), 3), **entry}).encode() + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("a part of a line was written")
        os.fsync(self._file)


def _bytes(part: Part) -> bytes:
    if isinstance(part, Text):
        return part.text.encode()
    return part.png if isinstance(part, Picture) else part.array.tobytes()


def _key(file: Path) -> bytes:
    def private(path: str, flags: int) -> int:
        return os.open(path, flags, 0o600)

    with contextlib.suppress(FileExistsError), open(file, "xb", opener=private) as made:
        made.write(secrets.token_bytes(32))
    key = file.read_bytes()
    if len(key) != 32:
        raise OSError(f"{file} is no key of 32 bytes: remove it, and one is made")
    return key
