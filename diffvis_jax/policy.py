"""When to re-encode what: the knobs of the differential step."""

import math
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.change import METRICS, Metric
from diffvis_jax.errors import ConfigError

# Chosen on trained weights (docs/fidelity.md): the last two stages attend globally, and there a
# change travels to every token; a step that keeps them local misses most of it.
FAITHFUL_MARGIN = (1.0, 1.0, 4.0, 32.0, 32.0)
FAST_MARGIN = (1.0, 1.0, 2.0, 32.0, 32.0)

_UNLIMITED = 2**30


@flax.struct.dataclass
class Policy:
    """What a step may leave out. All but `metric` are traced: sweeping them compiles nothing.

    Attributes:
      metric: how a patch is compared with its reference, "max" or "mean" (absolute difference).
      change_threshold: a patch changed if it differs by more than this, 0-1; 0 = at all.
      max_changed_patches: more changed patches than this: a full encode; None = never for that
        reason (layers take their dense path by themselves where that is cheaper).
      skip_small_patches: at most this many changed patches: leave the frame for later. The
        reference keeps its old pixels, so the change is not lost. 0 = never.
      margin: patches around a changed patch that may be recomputed: one number, or one for each
        stage of the tower; None = unlimited. What lies beyond stays pending.
      attending: share of the cells, 0-1, that are recomputed beyond the margin from the first
        attention layer on: those that attend most to what changed, there. 0 = none.
      tolerance: how much a cell's output may move, relative to its layer's RMS, and still be kept
        as it was (the comparison is with the value last sent on, so small moves add up).
      settle: share of a full encode's MACs that an idle step (no patch changed) may spend on
        pending cells; 0 = never settle, 1 = all at once.
      refresh_patches: patches whose pending cells each step recomputes besides, oldest first.
      keyframe_every: a full encode after that many steps without one; 0 = never.
    """

    metric: Metric = flax.struct.field(pytree_node=False, default="max")
    change_threshold: Any = 0.0
    max_changed_patches: Any = None
    skip_small_patches: Any = 0
    margin: Any = FAITHFUL_MARGIN
    attending: Any = 0.0
    tolerance: Any = 0.0
    settle: Any = 0.25
    refresh_patches: Any = 0
    keyframe_every: Any = 0

    def __post_init__(self):
        if self.metric not in METRICS:
            raise ConfigError(f"metric must be one of {METRICS}, got {self.metric!r}")
        self._number("change_threshold", np.float32, 0, 1)
        self._number("tolerance", np.float32, 0, math.inf)
        self._number("attending", np.float32, 0, 1)
        self._number("settle", np.float32, 0, 1)
        for name in ("max_changed_patches", "skip_small_patches", "refresh_patches"):
            self._number(name, np.int32, 0, _UNLIMITED, none=_UNLIMITED)
        self._number("keyframe_every", np.int32, 0, _UNLIMITED)
        margin = self.margin
        if margin is None:
            margin = math.inf
        if isinstance(margin, Sequence | int | float | np.ndarray | np.generic):
            try:
                margin = np.asarray(margin, np.float32)
            except (TypeError, ValueError):
                raise ConfigError(f"margin must be numbers, got {self.margin!r}") from None
            if margin.ndim > 1 or not margin.size or np.isnan(margin).any() or (margin < 0).any():
                raise ConfigError(
                    "margin must be None, one number of patches >= 0, or one for each stage; got "
                    f"{self.margin!r}"
                )
            object.__setattr__(self, "margin", margin)

    def _number(self, name: str, dtype: type, low: float, high: float, none: int | None = None):
        """Checks a concrete field and gives it its dtype; tracers and placeholders pass."""
        value = getattr(self, name)
        if value is None and none is not None:
            value = none
        if isinstance(value, np.ndarray) and not value.ndim:
            value = value[()]
        if not isinstance(value, int | float | np.generic | str) and value is not None:
            return
        if isinstance(value, str) or value is None or not low <= float(value) <= high:
            raise ConfigError(f"{name} must be a number in {low:g}-{high:g}, got {value!r}")
        if dtype is np.int32 and float(value) != int(value):
            raise ConfigError(f"{name} must be a whole number, got {value!r}")
        object.__setattr__(self, name, dtype(value))

    def margins(self, stages: int) -> jax.Array:
        """The margin of each stage, float32 `[stages]`.

        A tower with fewer stages (CLIP has one) takes the first entries.

        Raises:
          ConfigError: fewer entries than stages.
        """
        margin = jnp.asarray(self.margin, jnp.float32)
        if margin.ndim == 0:
            return jnp.broadcast_to(margin, (stages,))
        if margin.shape[0] < stages:
            raise ConfigError(
                f"margin has {margin.shape[0]} entries for a tower of {stages} stages"
            )
        return margin[:stages]

    @classmethod
    def exact(cls, **changes: Any) -> "Policy":
        """Tokens equal `encode(reference)`, to rounding."""
        return cls(**{"margin": None, **changes})

    @classmethod
    def faithful(cls, **changes: Any) -> "Policy":
        """The default: margins that grow with depth; 0.01 of a small change is late."""
        return cls(**changes)

    @classmethod
    def fast(cls, **changes: Any) -> "Policy":
        """Narrower margins where the tower convolves: 0.05 of a small change is late, more where
        changes follow each other (docs/fidelity.md)."""
        return cls(**{"margin": FAST_MARGIN, **changes})

    @classmethod
    def classic(cls, **changes: Any) -> "Policy":
        """As this technique was first described: mean difference over 0.05, isolated patches,
        a full encode above 50 of them. It misses most of what changes while typing."""
        return cls(
            **{
                "metric": "mean",
                "change_threshold": 0.05,
                "max_changed_patches": 50,
                "margin": 0,
                "settle": 0,
                **changes,
            }
        )
