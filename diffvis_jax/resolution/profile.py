"""What frames of each size cost and find: the measurements, and their file."""

import dataclasses
import json
import math
import zlib
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

import diffvis_jax
from diffvis_jax.errors import ConfigError
from diffvis_jax.evaluation.processes import machine
from diffvis_jax.model import Model
from diffvis_jax.resolution.sizes import size_text
from diffvis_jax.towers import VisionConfig, with_size
from diffvis_jax.utils.atomic_file import write_whole
from diffvis_jax.utils.json_file import JsonError, read_json

FORMAT = "diffvis_jax profile 1"
STATISTICS = ("p50", "p90", "p95", "max")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One size under one policy, over all frames of the sessions after the first of each.

    Attributes:
      size: (height, width) of a frame in pixels.
      bounds: (min_pixels, max_pixels) that make such frames, where frames keep the shape of the
        screen; None = squares.
      policy: name of the policy; `evaluation.summary.FULL` = every frame in full.
      macs: multiply-accumulates of a full encode.
      tokens: of an image, all of which the first prompt reads.
      cache_bytes: of a stream; 0 for full encodes.
      steps: frames that were measured.
      ms: milliseconds of an encode, by `STATISTICS`; without reading the picture and without head.
      recomputed: mean share of `macs` that was done.
      prefill_tokens: mean image tokens that an exact differential prefill reads anew.
      missed: of a change, at the tokens whose own pixels changed ("p50", "p90", "max"; None =
        nothing changed); 0 for full encodes.
      queries: targets that were asked for.
      click, iou: share of them that a click would hit, and whose box is found with an IoU of 0.5;
        None without a head or targets.
      f1: of all elements, where the data names them all.
    """

    size: tuple[int, int]
    bounds: tuple[int, int] | None
    policy: str
    macs: int
    tokens: int
    cache_bytes: int
    steps: int
    ms: dict[str, float]
    recomputed: float
    prefill_tokens: float
    missed: dict[str, float | None]
    queries: int
    click: float | None
    iou: float | None
    f1: float | None

    @property
    def score(self) -> float | None:
        """F1 where all elements are known, else the share of clicks that hit."""
        return self.click if self.f1 is None else self.f1

    @property
    def pixels(self) -> int:
        return math.prod(self.size)

    def config(self, config: VisionConfig) -> VisionConfig:
        """The config of the same tower at this size."""
        if self.bounds:
            least, most = self.bounds
            config = dataclasses.replace(config, min_pixels=least, max_pixels=most)
        return with_size(config, self.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes under policies, on one machine with one checkpoint.

    Attributes:
      model: its name, for people.
      checkpoint: `checksum` of the model.
      machine, versions: where, and with which packages, times were measured.
      sessions: names of the sessions.
      policies: name -> fields, see `core.policy_file.policy_fields`.
      rows: one for each size and policy, `FULL` among them; sizes ascending.
    """

    model: str
    checkpoint: str
    machine: dict[str, Any]
    versions: dict[str, str]
    sessions: tuple[str, ...]
    policies: dict[str, dict[str, Any]]
    rows: tuple[Row, ...]

    def of(self, policy: str) -> tuple[Row, ...]:
        """The rows of a policy, by ascending size.

        Raises:
          ConfigError: it was not measured.
        """
        found = tuple(row for row in self.rows if row.policy == policy)
        if not found:
            names = dict.fromkeys(row.policy for row in self.rows)
            raise ConfigError(f"no policy '{policy}' in the profile: there are {', '.join(names)}")
        return found


def checksum(model: Model, row: Row) -> str:
    """CRC-32 of tower, head and settings, whatever the size of the model's frames is."""
    value = zlib.crc32(repr(row.config(model.config)).encode())
    head = None if model.head is None else model.head.params
    for path, leaf in jax.tree_util.tree_leaves_with_path((model.params, head)):
        value = zlib.crc32(f"{jax.tree_util.keystr(path)} {leaf.dtype}".encode(), value)
        content = np.ascontiguousarray(np.asarray(leaf))
        value = zlib.crc32(content.reshape(-1).view(np.uint8).data, value)
    return f"{value:08x}"


def this_machine() -> dict[str, Any]:
    """What times hang on: the devices, and the processor."""
    return {**machine(), "processor": _processor()}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def these_versions() -> dict[str, str]:
    """Of the packages that times and scores hang on."""
    packages = ("jax", "jaxlib", "flax", "numpy", "pillow")
    return {
        "diffvis_jax": diffvis_jax.__version__,
        **{name: version(name) for name in packages},
    }


# ---- the file ---------------------------------------------------------------------------------


def save_profile(profile: Profile, path: str | Path) -> None:
    """Writes a profile as JSON; an existing file is replaced in one go."""
    content = {"format": FORMAT, **dataclasses.asdict(profile)}
    write_whole(Path(path), json.dumps(content, indent=1) + "\n")


def load_profile(path: str | Path) -> Profile:
    """Reads a profile that `save_profile` wrote.

    Raises:
      ConfigError: no such file, or none that is a profile; says what is wrong with it.
    """
    path = Path(path)
    try:
        content = read_json(path)
    except JsonError as error:
        raise ConfigError(f"'{path}' {error}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ConfigError(f'\'{path}\' is no profile of sizes: its "format" is not "{FORMAT}"')
    try:
        rows = content.pop("rows")
        _check_names(Profile, content, {"rows"})
        content["sessions"] = tuple(content["sessions"])
        profile = Profile(**content, rows=tuple(map(_row, rows)))
        if not profile.rows:
            raise ValueError("no rows")
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ConfigError(f"'{path}' is no profile of sizes ({what})") from error
    return profile


def _row(content: dict[str, Any]) -> Row:
    _check_names(Row, content)
    size, bounds = content["size"], content["bounds"]
    for pair in (size, bounds):
        if pair is not None and not (len(pair) == 2 and all(_is_whole(side, 1) for side in pair)):
            raise ValueError(f"two whole numbers of pixels are needed, got {pair}")
    row = Row(**{**content, "size": tuple(size), "bounds": bounds and tuple(bounds)})
    for name in ("macs", "tokens", "cache_bytes", "steps", "queries"):
        if not _is_whole(getattr(row, name), 0):
            raise ValueError(f"{name} must be a whole number, got {getattr(row, name)!r}")
    _check_numbers(f"{size_text(row.size)}: ms", (row.ms[name] for name in STATISTICS), math.inf)
    _check_numbers("recomputed", [row.recomputed], math.inf)
    shares = (row.click, row.iou, row.f1)
    _check_numbers("a score", (share for share in shares if share is not None), 1)
    return row


def _check_names(cls: type, content: dict[str, Any], without: Iterable[str] = ()) -> None:
    wanted = {field.name for field in dataclasses.fields(cls)} - set(without)
    if wrong := sorted(wanted ^ content.keys()):
        raise ValueError(f"missing or unknown: {', '.join(wrong)}")


def _check_numbers(name: str, values: Iterable[Any], most: float) -> None:
    for value in values:
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if not good or not 0 <= value <= most or math.isinf(value):
            raise ValueError(f"{name} must be numbers from 0 up, got {value!r}")


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
