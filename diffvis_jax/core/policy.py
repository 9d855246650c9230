"""When to re-encode what: the policy of the differential step."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.change import METRICS, Metric
from diffvis_jax.errors import ConfigError
from diffvis_jax.towers.base import Tower
from diffvis_jax.utils.validation import checked, concrete, unchecked

PRESETS = ("faithful", "fast")

_UNLIMITED = 2**30


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class Policy:
    """What a step may leave out. All but `metric`, `scroll` and a preset's name are traced:
    sweeping them compiles nothing.

    (`make_step` gives every policy a margin for each stage. In a jitted function of your own one
    number, five, and a preset's name are three structures, each with a compilation.)

    Every number may also be an array `[B]` of one for each stream, a margin `[B, stages]` or
    `[B, 1]`. A policy with other shapes is another compilation, whatever its values are.

    Attributes:
      metric: how a patch is compared with its reference: the "max" of the absolute differences,
        their "mean", or "p99", which 99 % of them do not exceed (for noisy cameras).
      change_threshold: a patch changed if it differs by more than this, 0-1; 0 = at all.
      max_changed_patches: more changed patches than this: a full encode; None = as the name in
        `margin` says, without a name never for that reason (what would cost nearly everything is
        done in full anyway).
      skip_small_patches: at most this many changed patches: leave the frame for later. The
        reference keeps its old pixels, so the change is not lost. 0 = never.
      margin: patches around a changed patch that may be recomputed: one number, or one for each
        stage of the tower; None = unlimited; "faithful" or "fast": what the tower says
        (`build(config).presets`). What lies beyond stays out of date until it is settled.
      settle: share of a full encode's multiply-accumulates that an idle step (no patch to act on)
        may spend on what is out of date; 0 = never settle, 1 = all at once. The head comes on top.
      budget: share of a full encode's multiply-accumulates that any step may spend, above 0; 1 =
        no bound. Margins become narrower until a step fits; where even margins of 0 do not, the
        changed patches take turns, those in `focus` and those that wait for longest first. At
        least one patch is done, and the one out of date for longest besides. A first frame and a
        keyframe are encoded in full all the same, a frame of many changed patches is not.
      refresh_patches: so many patches, those out of date for longest, are recomputed in all layers
        by every step besides.
      scroll: whether what moved by whole patches is moved in the cache instead of recomputed;
        static. For towers of windows without a halo (Qwen2.5-VL's).
      keyframe_every: a full encode after that many steps without one; 0 = never.

    Raises:
      ConfigError: a value out of range; names the field. (Not when JAX rebuilds a policy: then
        anything may stand in a field.)
    """

    metric: Metric = "max"
    change_threshold: Any = 0.0
    max_changed_patches: Any = None
    skip_small_patches: Any = 0
    margin: Any = "faithful"
    settle: Any = 0.25
    budget: Any = 1.0
    refresh_patches: Any = 0
    keyframe_every: Any = 0
    scroll: bool = False

    def __post_init__(self):
        if self.metric not in METRICS:
            raise ConfigError(f"metric must be one of {METRICS}, got {self.metric!r}")
        if not isinstance(self.scroll, bool):
            raise ConfigError(f"scroll must be True or False, got {self.scroll!r}")
        if self.max_changed_patches is None:
            object.__setattr__(self, "max_changed_patches", np.int32(_UNLIMITED))
        for name in ("change_threshold", "settle"):
            self._check(name, np.float32, 1)
        self._check("budget", np.float32, 1)
        budget = concrete(self.budget)
        if budget is not None and not (budget > 0).all():
            raise ConfigError(f"budget must be above 0, got {self.budget!r}")
        whole = ("max_changed_patches", "skip_small_patches", "refresh_patches", "keyframe_every")
        for name in whole:
            self._check(name, np.int32, _UNLIMITED)
        self._check_margin()

    def _check(self, name: str, dtype: type, high: float) -> None:
        value = getattr(self, name)
        if isinstance(value, list | tuple):
            with contextlib.suppress(ValueError):  # of no shape: `checked` says what is wrong
                value = np.asarray(value)
        value = checked(name, value, dtype, high)
        if np.ndim(value) and not (np.ndim(value) == 1 and np.size(value)):
            raise ConfigError(
                f"{name} must be one number, or one for each stream, got {np.shape(value)}"
            )
        object.__setattr__(self, name, value)

    def _check_margin(self) -> None:
        if isinstance(self.margin, str) and self.margin in PRESETS:
            return
        margin = math.inf if self.margin is None else self.margin
        wrong = ConfigError(
            f"margin must be None, one of {PRESETS}, one number of patches >= 0, one for each "
            f"stage, or [B, stages]; got {self.margin!r}"
        )
        if isinstance(margin, Sequence | Mapping | Set | int | float | np.ndarray | np.generic):
            try:
                margin = np.asarray(margin, np.float32)
            except (TypeError, ValueError):
                raise wrong from None
        if getattr(margin, "ndim", 0) > 2:
            raise wrong
        object.__setattr__(self, "margin", margin)
        values = concrete(margin)
        if values is not None and not (values.size and (values >= 0).all()):
            raise wrong

    def tree_flatten_with_keys(self):
        traced = [name for name in _FIELDS if self._is_number(name)]
        static = tuple((n, getattr(self, n)) for n in _FIELDS if n not in traced)
        keyed = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in traced]
        return keyed, (tuple(traced), static)

    @classmethod
    def tree_unflatten(cls, aux, children):
        traced, static = aux
        return unchecked(Policy, {**dict(zip(traced, children, strict=True)), **dict(static)})

    def margins(self, tower: Tower) -> jax.Array:
        """The margin of each stage, float32 `[stages]`, or of each stream, too: `[B, stages]`.

        Raises:
          ConfigError: another number of entries than the tower has stages.
        """
        margin = self.margin
        if isinstance(margin, str):
            margin = np.array(tower.presets[margin].margins, np.float32)
        margin = jnp.asarray(margin, jnp.float32)
        return jnp.broadcast_to(margin, _margin_shape(margin.shape, tower))

    def fields_by_stream(self) -> dict[str, bool]:
        """Whether each number is one for each stream; without the names, which are of all."""
        numbers = [name for name in _FIELDS if self._is_number(name)]
        return {name: np.ndim(getattr(self, name)) > (name == "margin") for name in numbers}

    def _is_number(self, name: str) -> bool:
        return name != "scroll" and not isinstance(getattr(self, name), str)

    def check_streams(self, batch: int) -> None:
        """Raises a ConfigError that names a field with entries for another number of streams."""
        for name, each in self.fields_by_stream().items():
            shape = np.shape(getattr(self, name))
            if each and shape[0] != batch:
                raise ConfigError(
                    f"{name} has {' x '.join(map(str, shape))} entries for {batch} streams: give "
                    "one number, or one for each stream"
                )

    def repeated(self, count: int) -> "Policy":
        """The policy of each stream `count` times: for caches that each stream has several of."""
        values = {name: getattr(self, name) for name in _FIELDS}
        for name, each in self.fields_by_stream().items():
            values[name] = values[name].repeat(count, 0) if each else values[name]
        return unchecked(Policy, values)

    def most_changed(self, tower: Tower) -> jax.Array | np.ndarray:
        """The changed patches above which a frame is encoded in full, int32 [] or `[B]`."""
        own = self.max_changed_patches
        share = tower.presets[self.margin].full_above if isinstance(self.margin, str) else 1.0
        if share >= 1:
            return own
        where: Any = np.where if isinstance(own, np.ndarray | np.generic) else jnp.where
        return where(own == _UNLIMITED, np.int32(max(1, share * tower.cells)), own)

    def resolved(self, tower: Tower) -> "Policy":
        """The same with numbers in place of a name, and a margin for each stage, so that all
        policies of a metric share a compilation."""
        if isinstance(self.margin, np.ndarray) and self.margin.shape[-1:] == (tower.stages,):
            return self
        if isinstance(self.margin, jax.Array):
            margin = self.margins(tower)
        else:  # without a trip to the device
            margin = self.margin
            if isinstance(margin, str):
                margin = tower.presets[margin].margins
            margin = np.asarray(margin, np.float32)
            margin = np.broadcast_to(margin, _margin_shape(margin.shape, tower))
        values = {name: getattr(self, name) for name in _FIELDS}
        most = self.most_changed(tower)
        return unchecked(Policy, {**values, "margin": margin, "max_changed_patches": most})

    @classmethod
    def exact(cls, **changes: Any) -> "Policy":
        """Tokens equal `encode(reference)`, to rounding."""
        return cls(**{"margin": None, **changes})

    @classmethod
    def faithful(cls, **changes: Any) -> "Policy":
        """The default: the tower's margins at which next to nothing of a change is late
        (docs/fidelity.md)."""
        return cls(**changes)

    @classmethod
    def fast(cls, **changes: Any) -> "Policy":
        """The tower's narrower margins: less work, and more of a change is late. How much on your
        weights, `diffvis calibrate` says (docs/fidelity.md)."""
        return cls(**{"margin": "fast", **changes})

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


def _margin_shape(shape: tuple[int, ...], tower: Tower) -> tuple[int, ...]:
    """Of a margin, with one for each stage; raises a ConfigError where there are others."""
    if shape[-1:] not in ((), (tower.stages,)) and shape[1:] != (1,):
        raise ConfigError(
            f"margin has {' x '.join(map(str, shape))} entries for a tower of {tower.stages} "
            "stages: give one number, or one for each stage"
        )
    return *shape[:-1], tower.stages


_FIELDS = tuple(field.name for field in dataclasses.fields(Policy))
