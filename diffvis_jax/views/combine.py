"""From the tokens of several views to one vector, or to one sequence.

A agents, V views of each, N tokens of a view, D token width. Pure functions, for use inside jit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.geometry import placement
from diffvis_jax.towers.registry import build, with_size

How = Literal["mean", "max", "attention"]
HOWS: tuple[How, ...] = ("mean", "max", "attention")


def pool(tokens: jax.Array, mask: jax.Array | np.ndarray | None = None) -> jax.Array:
    """The mean over tokens.

    Args:
      tokens: `[.., N, D]`.
      mask: bool `[N]` or `[.., N]`, tokens that count (`shown_tokens`); None = all. The others do
        not enter, whatever they hold; of none the mean is zero.

    Returns:
      `[.., D]`.

    Raises:
      FrameError: a mask of another shape or dtype.
    """
    if mask is None:
        return tokens.mean(-2)
    mask = jnp.asarray(mask)
    if mask.dtype != bool or mask.shape not in (tokens.shape[-2:-1], tokens.shape[:-1]):
        raise FrameError(
            f"mask must be bool {list(tokens.shape[:-1])}, one entry for each token; got "
            f"{mask.dtype} {list(mask.shape)}"
        )
    mask = jnp.broadcast_to(mask, tokens.shape[:-1])[..., None]
    count = jnp.maximum(mask.sum(-2, dtype=tokens.dtype), 1)
    return jnp.where(mask, tokens, 0).sum(-2) / count


def shown_tokens(width: int, height: int, config: Any) -> np.ndarray:
    """The tokens in whose square there is anything of a picture, and not only padding; bool `[N]`.

    Args:
      width, height: of the picture in pixels, as `placement` takes them.
      config: of the tower.
    """
    place = placement(width, height, config)
    tower = build(with_size(config, (place.frame_height, place.frame_width)))
    left, top, right, bottom = place.box_to_model((0, 0, width, height))
    rows, columns = (np.arange(n) * tower.token for n in tower.token_grid)
    inside_rows = (rows < bottom) & (rows + tower.token > top)
    inside_columns = (columns < right) & (columns + tower.token > left)
    return np.outer(inside_rows, inside_columns).reshape(-1)


def init_view_attention(key: jax.Array, width: int, hidden: int = 64) -> dict[str, Any]:
    """Parameters of `aggregate(how="attention")`; until they are trained it is the mean.

    Args:
      key: of JAX's random numbers.
      width: D.
      hidden: of the layer that scores a view.
    """
    kernel = jax.random.normal(key, (width, hidden), jnp.float32) * width**-0.5
    return {"kernel": kernel, "bias": jnp.zeros(hidden), "score": jnp.zeros(hidden)}


def aggregate(
    features: jax.Array,
    present: jax.Array | np.ndarray,
    how: How = "mean",
    params: Mapping[str, Any] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """One vector of all views that are present; their order does not matter.

    Args:
      features: `[A, V, D]`, such as `ViewSet.join` of pooled tokens.
      present: bool `[A, V]`; the weights of those are renormalised, and what absent views hold
        does not enter.
      how: "mean"; "max", channel by channel; "attention": weights by a small network that looks at
        each view (Ilse et al., arXiv 1802.04712), `softmax(score . tanh(features kernel + bias))`.
      params: of the attention, from `init_view_attention`.

    Returns:
      `[A, D]`, zero where no view is present, and bool `[A]`, where any is.

    Raises:
      FrameError: features or a mask of another shape.
      ConfigError: an unknown way, or an attention without parameters for this width.
    """
    features, present = jnp.asarray(features), jnp.asarray(present)
    if features.ndim != 3:
        raise FrameError(f"features must be [A, V, D], got {list(features.shape)}")
    _check_present(present, features.shape[:2])
    if how not in HOWS:
        raise ConfigError(f"how must be one of {HOWS}, got {how!r}")
    there = present[..., None]
    features, valid = jnp.where(there, features, 0), present.any(1)
    if how == "max":
        most = jnp.where(there, features, -jnp.inf).max(1)
        return jnp.where(valid[:, None], most, 0), valid
    weights = present.astype(features.dtype)
    if how == "attention":
        if params is None or params["kernel"].shape[0] != features.shape[-1]:
            raise ConfigError(
                f"attention over features of {features.shape[-1]} channels needs parameters: make "
                "some with init_view_attention"
            )
        hidden = jnp.tanh(features @ params["kernel"] + params["bias"])
        scores = jnp.where(present, hidden @ params["score"], -1e30)
        weights = weights * jax.nn.softmax(scores, -1)
    weights = weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-30)
    return (weights[..., None] * features).sum(1), valid


def concatenate(tokens: jax.Array, present: jax.Array | np.ndarray) -> tuple[jax.Array, jax.Array]:
    """The tokens of all views as one sequence, and which of them count.

    Args:
      tokens: `[A, V, N, D]`.
      present: bool `[A, V]`.

    Returns:
      `[A, V * N, D]`, zero where a view is absent, and bool `[A, V * N]`.

    Raises:
      FrameError: tokens or a mask of another shape.
    """
    if tokens.ndim != 4:
        raise FrameError(f"tokens must be [A, V, N, D], got {list(tokens.shape)}")
    return _one_sequence([tokens[:, v] for v in range(tokens.shape[1])], present)


def to_prefix(
    tokens: Mapping[str, jax.Array],
    present: jax.Array | np.ndarray,
    order: Sequence[str] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`concatenate` of views by name, which may have different numbers of tokens: the image part
    of a prompt, as openpi's policies take it.

    Args:
      tokens: `[A, N, D]` by name, as a `ViewEncoder` gives them.
      present: bool `[A, V]`, in the order of `tokens`.
      order: of the views in the sequence; None = that of `tokens`. It is to stay for an episode,
        views that rarely change first (`order_views`): a prefill is reused up to the first change.

    Raises:
      FrameError: a mask of another shape, or an order that does not name every view once.
    """
    names = list(tokens)
    order = names if order is None else list(order)
    if sorted(order) != sorted(names):
        raise FrameError(f"the order must name each of {names} once, got {order}")
    agents = next(iter(tokens.values())).shape[0]
    _check_present(jnp.asarray(present), (agents, len(names)))
    at = np.array([names.index(name) for name in order])
    return _one_sequence([tokens[name] for name in order], jnp.asarray(present)[:, at])


def _one_sequence(tokens: Sequence[jax.Array], present: Any) -> tuple[jax.Array, jax.Array]:
    present = jnp.asarray(present)
    _check_present(present, (tokens[0].shape[0], len(tokens)))
    valid = [jnp.broadcast_to(present[:, v, None], own.shape[:2]) for v, own in enumerate(tokens)]
    shown = [jnp.where(ok[..., None], own, 0) for own, ok in zip(tokens, valid, strict=True)]
    return jnp.concatenate(shown, 1), jnp.concatenate(valid, 1)


def _check_present(present: jax.Array, shape: tuple[int, ...]) -> None:
    if present.dtype != bool or present.shape != shape:
        raise FrameError(
            f"present must be bool {list(shape)}, one entry for each view of each agent; got "
            f"{present.dtype} {list(present.shape)}"
        )
