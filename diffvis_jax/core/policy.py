"""When to re-encode what: the knobs of the differential step."""

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.change import METRICS, Metric
from diffvis_jax.errors import ConfigError
from diffvis_jax.utils.validation import checked, concrete

# The last two stages attend globally, so a change reaches every token. On trained weights little of
# it does, but enough that detections differ elsewhere where it is left out (docs/fidelity.md):
# faithful recomputes those stages for every token, fast where most of the change is.
FAITHFUL_MARGIN = (1.0, 1.0, 4.0, 32.0, 32.0)
FAST_MARGIN = (1.0, 1.0, 2.0, 3.0, 4.0)

_UNLIMITED = 2**30


@flax.struct.dataclass
class Policy:
    """What a step may leave out. All but `metric` are traced: sweeping them compiles nothing.

    (`make_step` gives every policy a margin for each stage. In a jitted function of your own one
    number and five are two shapes, each with a compilation.)

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
        pending cells; 0 = never settle, 1 = all at once. Keys and values of attention, and the
        readout, come on top.
      refresh_patches: so many patches, those that have waited longest, have their pending cells
        recomputed by every step besides.
      keyframe_every: a full encode after that many steps without one; 0 = never.

    Raises:
      ConfigError: a value out of range; names the field.
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
        if self.max_changed_patches is None:
            object.__setattr__(self, "max_changed_patches", np.int32(_UNLIMITED))
        for name in ("change_threshold", "attending", "settle"):
            self._check(name, np.float32, 1)
        self._check("tolerance", np.float32, math.inf)
        whole = ("max_changed_patches", "skip_small_patches", "refresh_patches", "keyframe_every")
        for name in whole:
            self._check(name, np.int32, _UNLIMITED)
        self._check_margin()

    def _check(self, name: str, dtype: type, high: float) -> None:
        object.__setattr__(self, name, checked(name, getattr(self, name), dtype, high))

    def _check_margin(self) -> None:
        margin = math.inf if self.margin is None else self.margin
        wrong = ConfigError(
            "margin must be None, one number of patches >= 0, or one for each stage; got "
            f"{self.margin!r}"
        )
        if isinstance(margin, Sequence | Mapping | Set | int | float | np.ndarray | np.generic):
            try:
                margin = np.asarray(margin, np.float32)
            except (TypeError, ValueError):
                raise wrong from None
            if margin.ndim > 1:
                raise wrong
            object.__setattr__(self, "margin", margin)
        values = concrete(margin)
        if values is not None and not (values.size and (values >= 0).all()):
            raise wrong

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
                f"margin has {margin.shape[0]} entries for a tower of {stages} stages: give one "
                "number, or one for each"
            )
        return margin[:stages]

    @classmethod
    def exact(cls, **changes: Any) -> "Policy":
        """Tokens equal `encode(reference)`, to rounding."""
        return cls(**{"margin": None, **changes})

    @classmethod
    def faithful(cls, **changes: Any) -> "Policy":
        """The default: margins that grow with depth. On trained weights 0.003 of a small change
        is late (median; docs/fidelity.md)."""
        return cls(**changes)

    @classmethod
    def fast(cls, **changes: Any) -> "Policy":
        """Narrower margins, for a third of what faithful costs. On the bundled weights 0.14 of a
        small change is late at the tokens that changed (median), and most of what it does to the
        others; how much on other weights, scripts/calibrate.py says (docs/fidelity.md)."""
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
