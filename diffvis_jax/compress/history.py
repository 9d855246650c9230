"""Streaming compression in time: one token for as long as a patch shows the same.

A *run* is what one patch showed from one step to another. A history holds the runs of a stream in
order of arrival: the present whole, the past as long as there is room, and nothing twice. Idle
frames add nothing. Cf. run-length tokenization (arXiv 2411.05222), which drops before a tower.

B streams, M slots, N patches (tokens of a frame), D token width, E width of what goes along.
"""

import dataclasses
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.compress.token_set import TokenSet
from diffvis_jax.errors import CacheError, ConfigError
from diffvis_jax.utils.validation import checked, unchecked

Criterion = Literal["tokens", "pixels", "either"]
CRITERIA: tuple[Criterion, ...] = ("tokens", "pixels", "either")


@flax.struct.dataclass(kw_only=True)
class History:
    """The runs of some streams. A slot's number is its order of arrival.

    Attributes:
      tokens: of each run; zeros beyond `length`.
      reference: of each patch, its own token when its run began: what a frame is compared with.
      along: what was made of the token and goes along with it, such as its projection into a
        language model; None = nothing.
      patch: whose run it is, in raster order; the first of several that share it; -1 beyond
        `length`.
      first, last: steps that the run stands for, both included.
      weight: frames x patches that the run stands for.
      drift: the largest squared whitened distance of a frame's token from its reference.
      open: slot of each patch's present run; -1 before its first.
      length: slots used.
      lost: frames x patches that were given up for lack of room.
      clock: steps seen.
    """

    tokens: jax.Array  # float32 or bfloat16 [B, M, D]
    reference: jax.Array  # float32 [B, N, D]
    along: jax.Array | None  # float32 [B, M, E]
    patch: jax.Array  # int32 [B, M]
    first: jax.Array  # int32 [B, M]
    last: jax.Array  # int32 [B, M]
    weight: jax.Array  # float32 [B, M]
    drift: jax.Array  # float32 [B, M]
    open: jax.Array  # int32 [B, N]
    length: jax.Array  # int32 [B]
    lost: jax.Array  # float32 [B]
    clock: jax.Array  # int32 [B]


@flax.struct.dataclass(kw_only=True)
class HistoryReport:
    """What an update did, one entry per stream.

    Attributes:
      added: new runs.
      corrections: those of patches whose pixels did not change: a stale token that was computed
        anew, or context that moved.
      freed: runs given up.
      length: runs there are.
      drift: the largest squared whitened distance between a token of this frame and its run's.
      not_finite: tokens with a number that is none; they begin runs.
    """

    added: jax.Array  # int32 [B]
    corrections: jax.Array  # int32 [B]
    freed: jax.Array  # int32 [B]
    length: jax.Array  # int32 [B]
    drift: jax.Array  # float32 [B]
    not_finite: jax.Array  # int32 [B]


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class HistoryPolicy:
    """When a run ends. The numbers are traced, the criterion is static.

    Attributes:
      criterion: a run ends where the "tokens" moved, the "pixels" changed, or "either". Pixels
        suit towers in which a patch's token keeps its bits while its surroundings change; where all
        tokens move with a large change (FastViTHD), keeping them is worse than forgetting.
      tolerance: squared whitened distance, mean over the channels, above which a token moved from
        what it was when its *run* began, so that slow drift adds up; 0 = a bit differs.
      keep: share of the tokens that move in a frame that begin runs of their own; the others join
        the one that they resemble, and share its run (`soft_matching`). 1 = all of them.
      keyframe_above: where more than this share of the patches moved, all begin a new run.
      spare: share of the slots that is freed at once when there is no room.
    """

    criterion: Criterion = "tokens"
    tolerance: Any = 0.1
    keep: Any = 1.0
    keyframe_above: Any = 1.0
    spare: Any = 0.25

    def __post_init__(self):
        if self.criterion not in CRITERIA:
            raise ConfigError(f"criterion must be one of {CRITERIA}, got {self.criterion!r}")
        for name in _NUMBERS:
            most = np.inf if name == "tolerance" else 1
            object.__setattr__(self, name, checked(name, getattr(self, name), np.float32, most))

    def tree_flatten_with_keys(self):
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in _NUMBERS]
        return leaves, self.criterion

    @classmethod
    def tree_unflatten(cls, criterion, leaves):
        values = dict(zip(_NUMBERS, leaves, strict=True))
        return unchecked(cls, {**values, "criterion": criterion})


_NUMBERS = ("tolerance", "keep", "keyframe_above", "spare")


def init_history(
    patches: int,
    width: int,
    *,
    slots: int,
    batch: int = 1,
    along: int | None = None,
    dtype: str = "float32",
) -> History:
    """An empty history.

    Args:
      patches: N.
      width: D.
      slots: M, at least 2 N, so that there always is room for a new screen.
      batch: B.
      along: E; None = nothing goes along.
      dtype: of the tokens, "float32" or "bfloat16".

    Raises:
      ConfigError: fewer slots than 2 N, or a number below 1.
    """
    numbers = {"patches": patches, "width": width, "batch": batch}
    if wrong := [f"{name} = {n}" for name, n in numbers.items() if n < 1]:
        raise ConfigError(f"a history needs numbers from 1 up, got {', '.join(wrong)}")
    if slots < 2 * patches:
        raise ConfigError(
            f"a history of {patches} patches needs at least {2 * patches} slots, got {slots}"
        )
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"dtype must be float32 or bfloat16, got {dtype!r}")

    def full(shape: tuple[int, ...], value: float, dtype: Any) -> jax.Array:
        return jnp.full((batch, *shape), value, dtype)

    return History(
        tokens=full((slots, width), 0, dtype),
        reference=full((patches, width), 0, jnp.float32),
        along=None if along is None else full((slots, along), 0, jnp.float32),
        patch=full((slots,), -1, jnp.int32),
        first=full((slots,), 0, jnp.int32),
        last=full((slots,), 0, jnp.int32),
        weight=full((slots,), 0, jnp.float32),
        drift=full((slots,), 0, jnp.float32),
        open=full((patches,), -1, jnp.int32),
        length=full((), 0, jnp.int32),
        lost=full((), 0, jnp.float32),
        clock=full((), 0, jnp.int32),
    )


def restart_history(history: History, which: Any) -> History:
    """Empties the histories of some streams, bool `[B]`."""
    which = jnp.asarray(which, bool)
    if which.shape != history.length.shape:
        raise CacheError(f"which must be bool [{len(history.length)}], got {list(which.shape)}")

    def emptied(values: jax.Array, empty: int = 0) -> jax.Array:
        at = which.reshape(-1, *(1,) * (values.ndim - 1))
        return jnp.where(at, jnp.asarray(empty, values.dtype), values)

    return dataclasses.replace(
        jax.tree.map(emptied, history),
        patch=emptied(history.patch, -1),
        open=emptied(history.open, -1),
    )


def history_set(history: History, boxes: Any) -> TokenSet:
    """The runs as tokens, in order of arrival; `boxes` are those of the patches, `[N, 4]`."""
    used = jnp.arange(history.patch.shape[1])[None] < history.length[:, None]
    box = jnp.asarray(boxes, jnp.float32)[jnp.maximum(history.patch, 0)]
    return TokenSet(
        tokens=history.tokens.astype(jnp.float32),
        size=jnp.where(used, history.weight, 0),
        box=jnp.where(used[..., None], box, 0),
        time=jnp.where(used, history.first, 0),
        count=history.length,
    )


def current_tokens(history: History) -> jax.Array:
    """What the last frame looked like: float32 `[B, N, D]`; zeros of patches without a run."""
    inside = jnp.maximum(history.open, 0)[..., None]
    tokens = jnp.take_along_axis(history.tokens, inside, axis=1).astype(jnp.float32)
    return jnp.where((history.open >= 0)[..., None], tokens, 0)


def tokens_at(history: History, step: Any) -> tuple[jax.Array, jax.Array]:
    """What an earlier frame looked like.

    Args:
      step: int32, one for all streams or `[B]`, counted from the start.

    Returns:
      float32 `[B, N, D]`, zeros where it was given up; which are known, bool `[B, N]`. Of patches
      that shared a run the first one alone is known.
    """
    batch, number = history.open.shape
    step = jnp.asarray(step, jnp.int32).reshape(-1, 1)
    used = jnp.arange(history.patch.shape[1])[None] < history.length[:, None]
    there = used & (history.first <= step) & (step <= history.last)
    patch = jnp.where(there, history.patch, number)
    stream = jnp.arange(batch)[:, None]
    # Others may go on with a run that its first patch has left: the later one counts.
    begun = jnp.full((batch, number + 1), -1, jnp.int32).at[stream, patch].max(history.first)
    latest = history.first == jnp.take_along_axis(begun, patch, axis=1)
    patch = jnp.where(latest, patch, number)
    empty = jnp.zeros((batch, number, history.tokens.shape[-1]), jnp.float32)
    tokens = empty.at[stream, patch].set(history.tokens.astype(jnp.float32), mode="drop")
    known = jnp.zeros((batch, number), bool).at[stream, patch].set(True, mode="drop")
    return tokens, known
