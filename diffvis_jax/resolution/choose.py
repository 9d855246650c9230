"""Chooses the size of the frames from a profile and a budget of time."""

import dataclasses
import math
import warnings
from typing import Any

from diffvis_jax.core.policy import Policy
from diffvis_jax.core.policy_file import policy_fields
from diffvis_jax.errors import ConfigError
from diffvis_jax.evaluation.summary import FULL
from diffvis_jax.model import Model
from diffvis_jax.resolution.profile import (
    STATISTICS,
    Profile,
    Row,
    checksum,
    this_machine,
)
from diffvis_jax.resolution.sizes import size_text


@dataclasses.dataclass(frozen=True)
class Choice:
    """A size, and why.

    Attributes:
      row: what was measured at that size.
      why: a sentence for people.
    """

    row: Row
    why: str

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return self.row.size


def choose_size(
    profile: Profile,
    budget_ms: float,
    statistic: str = "p95",
    min_score: float | None = None,
    *,
    policy: str | None = None,
) -> Choice:
    """The largest size whose encodes take no longer than a budget.

    Args:
      profile: of the machine that will encode.
      budget_ms: milliseconds of an encode.
      statistic: which of the encodes must keep it: "p50", "p90", "p95" or "max". The first frame of
        an episode is none of them: it is a full encode.
      min_score: least F1 or share of clicks (`Row.score`), 0-1; None = any.
      policy: name of a policy of the profile; None = the only one there is besides full encodes.

    Raises:
      ConfigError: no size fits: names the cheapest. Or a budget, statistic, score or policy that
        makes no sense.
    """
    _check(budget_ms, statistic, min_score)
    if policy is None:
        if len(profile.policies) != 1:
            raise ConfigError(f"which policy? The profile has {', '.join(profile.policies)}")
        policy = next(iter(profile.policies))
    rows = profile.of(policy)
    if min_score is not None:
        if all(row.score is None for row in rows):
            raise ConfigError("min_score: the profile has no scores (no targets, or no head)")
        good = [row for row in rows if row.score is not None and row.score >= min_score]
        if not good:
            best = max(rows, key=lambda row: row.score or 0.0)
            raise ConfigError(
                f"no size scores {min_score:g}: the best, {size_text(best.size)}, scores "
                f"{best.score:.3f}"
            )
        rows = tuple(good)

    def took(row: Row) -> str:
        return f"{size_text(row.size)} takes {row.ms[statistic]:.0f} ms ({statistic}, {policy})"

    fitting = [row for row in rows if row.ms[statistic] <= budget_ms]
    if not fitting:
        cheapest = min(rows, key=lambda row: row.ms[statistic])
        needed = "" if min_score is None else f" with a score of {min_score:g}"
        raise ConfigError(
            f"no size{needed} fits into {budget_ms:g} ms: the cheapest, {took(cheapest)}"
        )
    chosen = max(fitting, key=lambda row: row.pixels)
    larger = [row for row in rows if row.pixels > chosen.pixels]
    rest = f"; {took(larger[0])}" if larger else "; it is the largest that was measured"
    return Choice(chosen, f"{took(chosen)}, within {budget_ms:g} ms{rest}")


def _check(budget_ms: float, statistic: str, min_score: float | None) -> None:
    if not (isinstance(budget_ms, int | float) and math.isfinite(budget_ms) and budget_ms > 0):
        raise ConfigError(f"budget_ms must be a number of milliseconds above 0, got {budget_ms!r}")
    if statistic not in STATISTICS:
        raise ConfigError(f"statistic must be one of {STATISTICS}, got {statistic!r}")
    if min_score is not None and not 0 <= min_score <= 1:
        raise ConfigError(f"min_score must lie in 0-1, got {min_score!r}")


def policy_name(profile: Profile, policy: Policy | None) -> str:
    """The name of a policy in the profile; None = full encodes.

    Raises:
      ConfigError: it was not measured.
    """
    if policy is None:
        return FULL
    fields = policy_fields(policy)
    for name, each in profile.policies.items():
        if each == fields:
            return name
    raise ConfigError(
        "the profile was not measured under this policy: it knows "
        f"{', '.join((FULL, *profile.policies))}"
    )


def check_profile(profile: Profile, model: Model) -> None:
    """Checks that a profile is of this model; warns if it is of another machine.

    Raises:
      ConfigError: it is of other weights or settings.
    """
    try:
        found = checksum(model, profile.rows[0])
    except (ConfigError, TypeError) as error:  # such as another kind of tower
        found = f"none ({error})"
    if found != profile.checkpoint:
        raise ConfigError(
            f"the profile is of {profile.model} with checksum {profile.checkpoint}, not of "
            f"{model.name} with {found} (weights, dtype, settings): measure it again with diffvis "
            "profile"
        )
    now = this_machine()
    other = {
        name: (value, now.get(name))
        for name, value in profile.machine.items()
        if now.get(name) != value
    }
    if other:
        warnings.warn(f"the profile's times are of another machine: {_listed(other)}", stacklevel=2)


def _listed(differing: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} {there} (here {here})" for name, (there, here) in differing.items())
