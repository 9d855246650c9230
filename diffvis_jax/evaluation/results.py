"""Results on disk: a line for each finished stream, and the run they belong to.

A directory holds one run: `run.json` describes it, `results-P.jsonl` holds the streams that
process P has finished. An interrupted run is resumed by any number of processes.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from diffvis_jax.errors import DiffvisError
from diffvis_jax.utils.atomic_file import write_whole

FORMAT = "diffvis_jax evaluation 2"
RUN = "run.json"
_SHOWN = 4  # differences that an error names


class ResultsError(DiffvisError, ValueError):
    """A directory of another run, or a damaged file in it."""


def open_run(directory: Path, run: Mapping[str, Any]) -> None:
    """Makes the directory of a run, or checks that it is this run's.

    Args:
      directory: new, empty, or of the same run.
      run: plain data that describes models, policies and data; not the machine.

    Raises:
      ResultsError: it holds something else, or another run; names the differences.
    """
    file = directory / RUN
    wanted = json.loads(json.dumps({"format": FORMAT, **run}))
    if file.is_file():
        try:
            there = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ResultsError(f"'{file}' cannot be read: {error}") from error
        old, new = _flat(there), _flat(wanted)
        changed = [n for n in sorted({*old, *new}) if old.get(n) != new.get(n)]
        if changed:
            shown = "; ".join(
                f"{n}: {_short(old, n)} there, {_short(new, n)} now" for n in changed[:_SHOWN]
            )
            raise ResultsError(
                f"'{directory}' holds another run ({shown}): take another directory, "
                "or the arguments of that run"
            )
        return
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ResultsError(f"'{directory}' is not empty, and holds no {RUN}: take another")
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(wanted, indent=1) + "\n")


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested objects as one, their names joined by points."""
    if not isinstance(value, dict):
        return {name: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{name}.{key}" if name else key)
    return flat


def _short(values: Mapping[str, Any], name: str) -> str:
    text = json.dumps(values[name]) if name in values else "nothing"
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_results(directory: Path) -> list[dict[str, Any]]:
    """All lines of all processes. A last line that was cut off is left out.

    Raises:
      ResultsError: a line that is damaged; names it.
    """
    rows = []
    for path in sorted(directory.glob("results-*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], 1):  # the last part has no line end: cut off
            try:
                rows.append(json.loads(line))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise ResultsError(f"'{path}' line {number} is damaged: {error}") from error
    return rows


@contextlib.contextmanager
def open_results(directory: Path, process: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Opens the file of one process; yields a function that appends a line.

    The line is on the disk when that function returns.
    """
    with (directory / f"results-{process}.jsonl").open("ab+") as file:
        # The partial line of a killed process would spoil the next one.
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)

        def add(line: Mapping[str, Any]) -> None:
            file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

        yield add
