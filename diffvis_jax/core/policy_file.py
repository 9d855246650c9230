"""Policies as small JSON files: written by `scripts/calibrate.py`, or by hand."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.core.policy import Policy
from diffvis_jax.errors import ConfigError
from diffvis_jax.utils.atomic_file import write_whole

FORMAT = "diffvis_jax policy 1"


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
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"'{path}' cannot be read as a policy: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ConfigError(f'\'{path}\' is no policy: its "format" is not "{FORMAT}"')
    given = content.get("policy")
    known = {field.name for field in dataclasses.fields(Policy)}
    if not isinstance(given, dict) or not given.keys() <= known:
        wrong = sorted(given.keys() - known) if isinstance(given, dict) else given
        raise ConfigError(f"'{path}': no fields of a policy: {wrong}; there are {sorted(known)}")
    if "margin" in given:
        given = {**given, "margin": _margin(given["margin"], path)}
    try:
        return Policy(**given)
    except ConfigError as error:
        raise ConfigError(f"'{path}': {error}") from None


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
    if not isinstance(value, list):
        return value
    if not all(part is None or isinstance(part, int | float) for part in value):
        raise ConfigError(f"'{path}': margin must be numbers or null, got {value}")
    return [math.inf if part is None else part for part in value]
