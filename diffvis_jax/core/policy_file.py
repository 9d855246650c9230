"""Policies as small JSON files: written by `diffvis calibrate`, or by hand."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.core.policy import PRESETS, Policy
from diffvis_jax.errors import ConfigError
from diffvis_jax.utils.atomic_file import write_whole
from diffvis_jax.utils.json_file import JsonError, read_json

FORMAT = "diffvis_jax policy 1"
_FORMER = ("attending", "tolerance")


def save_policy(policy: Policy, path: str | Path, *, about: dict[str, Any] | None = None) -> None:
    """Writes a policy; an existing file is replaced in one go.

    Args:
      policy: with concrete values, not traced ones.
      path: of the file.
      about: what it was chosen for and what was measured, for people to read.
    """
    content = {"format": FORMAT, "policy": policy_fields(policy), "about": about or {}}
    write_whole(Path(path), json.dumps(content, indent=1) + "\n")


def load_policy(path: str | Path) -> Policy:
    """Reads a policy. Fields that are left out have their defaults.

    Raises:
      ConfigError: no such file, or none that is a policy; says what is wrong with it.
    """
    path = Path(path)
    try:
        content = read_json(path)
    except JsonError as error:
        raise ConfigError(f"'{path}' {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f'\'{path}\' is no policy: its "format" is not "{FORMAT}"')
    if beside := sorted(content.keys() - {"format", "policy", "about"}):
        raise ConfigError(f"'{path}': unknown beside \"policy\": {', '.join(beside)}")
    given = content.get("policy")
    known = {field.name for field in dataclasses.fields(Policy)}
    if isinstance(given, dict):  # fields that there were, at the value that left them out
        given = {k: v for k, v in given.items() if k not in _FORMER or v != 0}
    if not isinstance(given, dict) or not given.keys() <= known:
        wrong = sorted(given.keys() - known) if isinstance(given, dict) else given
        raise ConfigError(f"'{path}': no fields of a policy: {wrong}; there are {sorted(known)}")
    if "margin" in given:
        given = {**given, "margin": _margin(given["margin"], path)}
    try:
        with np.errstate(over="raise"):  # 1e308 would be unlimited in float32
            return Policy(**given)
    except ConfigError as error:
        raise ConfigError(f"'{path}': {error}") from error
    except (TypeError, ValueError, ArithmeticError) as error:  # numbers that no array holds
        raise ConfigError(f"'{path}': no values of a policy ({error})") from error


def policy_fields(policy: Policy) -> dict[str, Any]:
    """The fields as plain numbers; an unlimited margin is None, alone or in a list."""

    def plain(value: Any) -> Any:
        if np.ndim(value):
            return [plain(part) for part in np.asarray(value)]
        if isinstance(value, np.floating | np.ndarray) and np.isinf(value):
            return None
        # float32 0.003 is 0.003 in words, though not in float64.
        return float(str(value)) if isinstance(value, np.floating) else np.asarray(value).tolist()

    fields = {
        field.name: plain(getattr(policy, field.name)) for field in dataclasses.fields(policy)
    }
    limit = Policy().max_changed_patches  # how "never" is kept
    return {
        name: None if name == "max_changed_patches" and value == limit else value
        for name, value in fields.items()
    }


def _margin(value: Any, path: Path) -> Any:
    if value in PRESETS:
        return value
    if isinstance(value, list) and any(isinstance(row, list) for row in value):  # of each stream
        return [_margin(row, path) for row in value]
    parts = value if isinstance(value, list) else [value]
    # A bool is an int to Python: true would be taken for 1.
    numbers = (isinstance(part, int | float) and not isinstance(part, bool) for part in parts)
    if not all(part is None or number for part, number in zip(parts, numbers, strict=True)):
        raise ConfigError(
            f"'{path}': margin must be numbers, null or one of {PRESETS}, got {json.dumps(value)}"
        )
    return [math.inf if part is None else part for part in value] if value is parts else value
