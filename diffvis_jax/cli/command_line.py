"""What the scripts' command lines have in common. Imports nothing slow: --help must be quick."""

import argparse
import difflib
import errno
import io
import json
import math
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import diffvis_jax
from diffvis_jax.errors import CheckpointError
from diffvis_jax.utils.cache_directory import cache_directory

_LONGEST = 1000  # letters of an error


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, with the flag that may be meant; knows the options
    that all commands have."""

    def __init__(self, **options: Any):
        super().__init__(**options, allow_abbrev=False)
        version = f"diffvis_jax {diffvis_jax.__version__}"
        self.add_argument("--version", action="version", version=version)
        self.add_argument(
            "--device",
            choices=("cpu", "gpu", "tpu"),
            help="where it runs (default: the fastest that JAX finds)",
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        found = super().parse_args(args, namespace)
        if found.device:
            os.environ["JAX_PLATFORMS"] = "cuda" if found.device == "gpu" else found.device
            if jax := sys.modules.get("jax"):
                jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
        return found

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[^ =]+)", message)
        near = unknown and difflib.get_close_matches(unknown[1], self._option_string_actions, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        self.exit(2, f"error: {message}{meant} (see --help)\n")


def number(low: float, high: float, what: str) -> Callable[[str], float]:
    """A type for `add_argument`: a number in low-high, called `what` in errors."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
        return value

    return parse


def whole(low: int, high: int, what: str) -> Callable[[str], int]:
    """A type for `add_argument`: a whole number in low-high, called `what` in errors."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
        return value

    return parse


def sides(text: str) -> int | tuple[int, int]:
    """A type for `add_argument`: pixels along both sides, or HEIGHTxWIDTH."""
    parts = text.split("x")
    if not 1 <= len(parts) <= 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"expected pixels, as 1024 or 728x1316, got {text!r}")
    found = [int(part) for part in parts]
    return found[0] if len(found) == 1 else (found[0], found[1])


def run_script(run: Callable[[], int]) -> int:
    """The exit status; whatever goes wrong is told in one line.

    With `DIFFVIS_TRACEBACK=1` in the environment Python's traceback comes before it.
    """
    keep_programs()
    print_anything()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _tell_warning
            return run()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # nobody reads on, as behind `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python still flushes
        return 141
    except Exception as error:
        clear_line()
        if os.environ.get("DIFFVIS_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2


def print_anything() -> None:
    """Names of files, and answers, may hold what the terminal cannot show: it is written out."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _tell_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    tell(f"warning: {_shortened(str(message))}")


def keep_programs(folder: Path | None = None) -> None:
    """What is compiled is kept, and the next run of any command need not compile it again.

    JAX tells programs apart by their content, its version, its flags and what the processor can do.
    A folder that the user has named (`JAX_COMPILATION_CACHE_DIR`) is left at that.

    Args:
      folder: where; None = in the cache directory. Where nothing can be written, nothing is kept,
        and a line says so.
    """
    name = "JAX_COMPILATION_CACHE_DIR"
    if name in os.environ:
        return
    try:
        folder = folder or cache_directory() / "programs"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"cannot write to '{folder}'")
    except (CheckpointError, OSError) as error:
        tell(f"compiled programs are not kept ({one_line(error)}): DIFFVIS_CACHE names a place")
        return
    os.environ[name] = str(folder)  # read when JAX is imported
    if jax := sys.modules.get("jax"):
        jax.config.update(name.lower(), str(folder))


def one_line(error: BaseException) -> str:
    """What an error says, and what to do where the system's words do not say it."""
    # Those of other libraries go on for pages.
    text = _shortened(str(error))
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text += ": make room where results are written, or name another place"
    if isinstance(error, MemoryError) or text.startswith("RESOURCE_EXHAUSTED"):
        return f"out of memory: do less at a time (size, batch), or in bfloat16 ({text or 'host'})"
    if _from_backend(error):
        return (
            f"JAX cannot start on JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}; on this "
            f"machine there is {_platforms()} ({text or type(error).__name__})"
        )
    # The library's own errors are ValueErrors; an ImportError names the extra that is missing.
    if isinstance(error, ValueError | OSError | ImportError):
        return text
    return f"{type(error).__name__}: {text} (DIFFVIS_TRACEBACK=1 shows where)"


def _shortened(text: str) -> str:
    """In one line that people will read."""
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} .."


def _from_backend(error: BaseException) -> bool:
    """Whether JAX found no device of the platform that was asked for: it raises what it likes."""
    frames = traceback.extract_tb(error.__traceback__)
    place = Path(frames[-1].filename).parts[-3:] if frames else ()
    return place == ("jax", "_src", "xla_bridge.py")


def _platforms() -> str:
    """The platforms that JAX can start on."""
    import jax

    jax.config.update("jax_platforms", "")
    return ", ".join(sorted({device.platform for device in jax.devices()}))


def check_file(flag: str, file: Path) -> None:
    """Raises OSError if a result cannot be written there."""
    if file.is_dir():
        raise IsADirectoryError(f"{flag} names a directory: '{file}'")
    if not file.absolute().parent.is_dir():
        raise NotADirectoryError(f"{flag}: no such directory: '{file.parent}'")
    if not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise PermissionError(f"{flag}: cannot write '{file}'")


def check_directory(flag: str, directory: Path) -> None:
    """Raises OSError if results cannot be written into it; it need not exist yet."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise NotADirectoryError(f"{flag}: not a directory: '{place}'")
    if not os.access(place, os.W_OK):
        raise PermissionError(f"{flag}: cannot write to '{place}'")


def write_json(file: Path, content: Any) -> None:
    """Writes a document; an existing file is replaced in one go."""
    from diffvis_jax.utils.atomic_file import write_whole

    write_whole(file, json.dumps(content, indent=1) + "\n")


def tell(text: str) -> None:
    """A line about what goes on, beside the results."""
    clear_line()
    print(text, file=sys.stderr, flush=True)


def clear_line() -> None:
    """Takes the progress bar away, where there is one, before a line is printed."""
    if sys.stderr.isatty():
        print("\r" + " " * 100 + "\r", end="", file=sys.stderr, flush=True)
