"""A budget as a calibrated promise: the fewest tokens whose error will be small enough.

What a frame loses at each rung of a ladder of budgets (sizes of a frame, counts of tokens) is
foretold from what is cheap to know of it. The foretold number is one that the true error exceeds in
a tenth of the cases: a quantile regression, moved by what it missed on frames that it was not
fitted to (split conformal prediction, arXiv 1905.03222).

B frames, n frames to fit to, F features, K rungs.
"""

import json
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from diffvis_jax.errors import ConfigError
from diffvis_jax.utils.atomic_file import write_whole
from diffvis_jax.utils.json_file import JsonError, read_json

LEAST = 30  # frames to fit to
PROMISE = 0.9  # share of the frames whose error is at most the foretold one
_SMALL = 1e-4  # errors are foretold as logarithms; below it, one is as good as none
_ARRAYS = ("tokens", "ms", "mean", "std", "weights", "offset")


@flax.struct.dataclass(kw_only=True)
class Controller:
    """What foretells the error of each rung, cheapest first.

    Attributes:
      names: of the rungs; static.
      features: what is known of a frame; static.
      tokens: that each rung costs, rising.
      ms: milliseconds that it costs.
      mean, std: of the features.
      weights: of the features, and a constant, for the logarithm of the error.
      offset: what is added to that to keep the promise.
    """

    names: tuple[str, ...] = flax.struct.field(pytree_node=False)
    features: tuple[str, ...] = flax.struct.field(pytree_node=False)
    tokens: jax.Array  # int32 [K]
    ms: jax.Array  # float32 [K]
    mean: jax.Array  # float32 [F]
    std: jax.Array  # float32 [F]
    weights: jax.Array  # float32 [K, F + 1]
    offset: jax.Array  # float32 [K]


def fit_controller(
    features: Any,
    errors: Any,
    *,
    rungs: dict[str, tuple[int, float]],
    names: tuple[str, ...],
    seed: int = 0,
) -> Controller:
    """Fits to one half of some frames, and learns from the other what to add.

    Args:
      features: float `[n, F]`, n at least `LEAST`.
      errors: float `[n, K]`, at least 0: what each rung lost.
      rungs: name -> tokens and milliseconds; tokens rise.
      names: of the features.
      seed: of the halves.

    Raises:
      ConfigError: too few frames, arrays of other shapes, numbers that are not finite, or a ladder
        that does not rise.
    """
    features, errors = np.asarray(features, np.float32), np.asarray(errors, np.float32)
    tokens = [count for count, _ in rungs.values()]
    if features.ndim != 2 or len(features) < LEAST:
        raise ConfigError(
            f"a controller is fitted to at least {LEAST} frames, got {features.shape}"
        )
    wanted = (len(features), len(names)), (len(features), len(rungs))
    if (features.shape, errors.shape) != wanted:
        raise ConfigError(
            f"features and errors must be {wanted[0]} and {wanted[1]}, got {features.shape} and "
            f"{errors.shape}"
        )
    if not (np.isfinite(features).all() and np.isfinite(errors).all() and (errors >= 0).all()):
        raise ConfigError("features and errors must be finite, and errors at least 0")
    if tokens != sorted(set(tokens)):
        raise ConfigError(f"the tokens of the rungs must rise, got {tokens}")
    order = np.random.default_rng(seed).permutation(len(features))
    ours, others = np.split(order, [len(order) // 2])
    mean, std = features.mean(0), features.std(0)
    std = np.where(std > 0, std, 1)
    rows = _rows(jnp.asarray(features), mean, std)
    target = jnp.log(jnp.maximum(jnp.asarray(errors), _SMALL))
    weights = _quantile_fit(rows[ours], target[ours])
    missed = np.asarray(target[others] - rows[others] @ weights.T)
    # Of m misses the quantile that the next one keeps below with the promised probability.
    rank = min(len(missed), int(np.ceil((len(missed) + 1) * PROMISE)))
    return Controller(
        names=tuple(rungs),
        features=tuple(names),
        tokens=jnp.asarray(tokens, jnp.int32),
        ms=jnp.asarray([ms for _, ms in rungs.values()], jnp.float32),
        mean=jnp.asarray(mean),
        std=jnp.asarray(std),
        weights=weights,
        offset=jnp.asarray(np.sort(missed, axis=0)[rank - 1], jnp.float32),
    )


def _rows(features: jax.Array, mean: Any, std: Any) -> jax.Array:
    scaled = (features - mean) / std
    return jnp.concatenate([scaled, jnp.ones((*scaled.shape[:-1], 1))], -1)


@jax.jit
def _quantile_fit(rows: jax.Array, target: jax.Array) -> jax.Array:
    """Weights float32 `[K, F + 1]` with the least pinball loss at `PROMISE`."""
    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, 2000))

    def loss(weights: jax.Array) -> jax.Array:
        missed = target - rows @ weights.T
        pinball = jnp.maximum(PROMISE * missed, (PROMISE - 1) * missed)
        return pinball.mean(0).sum() + 1e-3 * jnp.square(weights[:, :-1]).sum()

    def step(carry, _):
        weights, state = carry
        updates, state = optimiser.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    weights = jnp.zeros((target.shape[1], rows.shape[1]))
    (fitted, _), _ = lax.scan(step, (weights, optimiser.init(weights)), length=2000)
    return jnp.asarray(fitted)


def predict_error(controller: Controller, features: jax.Array) -> jax.Array:
    """The error that each rung will not exceed in nine of ten frames, float32 `[B, K]`; never more
    at a dearer rung than at a cheaper one.

    Args:
      features: float32 `[B, F]`.

    Raises:
      ConfigError: features of another number.
    """
    if features.ndim != 2 or features.shape[1] != len(controller.features):
        raise ConfigError(
            f"features must be [B, {len(controller.features)}] ({', '.join(controller.features)}), "
            f"got {list(features.shape)}"
        )
    rows = _rows(features, controller.mean, controller.std)
    foretold = jnp.exp(rows @ controller.weights.T + controller.offset)
    # Raising the cheaper rungs keeps the promise; lowering the dearer ones would not.
    return lax.cummax(foretold, axis=1, reverse=True)


def choose(
    controller: Controller,
    features: jax.Array,
    *,
    max_error: Any = None,
    max_ms: Any = None,
    previous: jax.Array | None = None,
    hysteresis: Any = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """The cheapest rung whose error is small enough, or the best one that is fast enough.

    Args:
      max_error, max_ms: what is asked for; one of the two, traced.
      previous: int32 `[B]`, the rungs until now. One is left for a cheaper one only if that keeps
        the error below `(1 - hysteresis) max_error`: a change of size begins anew.

    Returns:
      int32 `[B]`, rungs; bool `[B]`, whether what was asked for is kept. Where nothing keeps it,
      the rung is the one with the least error, or the fastest.

    Raises:
      ConfigError: both or neither is asked for.
    """
    if (max_error is None) == (max_ms is None):
        raise ConfigError("ask for either max_error or max_ms")
    foretold = predict_error(controller, features)
    count = foretold.shape[1]
    if max_ms is not None:
        fits = jnp.broadcast_to(controller.ms <= max_ms, foretold.shape)
        best = jnp.where(fits, jnp.arange(count), -1).max(1)
        return jnp.where(best < 0, controller.ms.argmin(), best).astype(jnp.int32), best >= 0
    limit = jnp.full(foretold.shape, max_error, jnp.float32)
    if previous is not None:
        cheaper = jnp.arange(count)[None] < previous[:, None]
        limit = jnp.where(cheaper, limit * (1 - hysteresis), limit)
    fits = foretold <= limit
    return jnp.where(fits.any(1), fits.argmax(1), count - 1).astype(jnp.int32), fits.any(1)


def save_controller(controller: Controller, path: str | Path) -> None:
    """Writes a controller as JSON."""
    found: dict[str, Any] = {"names": controller.names, "features": controller.features}
    for name in _ARRAYS:
        found[name] = np.asarray(getattr(controller, name), np.float64).tolist()
    write_whole(Path(path), json.dumps(found) + "\n")


def load_controller(path: str | Path) -> Controller:
    """Reads a controller.

    Raises:
      ConfigError: no such file, or one that holds none.
    """
    try:
        found = read_json(Path(path))
        arrays = {name: jnp.asarray(found[name], jnp.float32) for name in _ARRAYS}
        names, features = tuple(found["names"]), tuple(found["features"])
    except JsonError as error:
        raise ConfigError(f"{path} {error}") from error
    except (TypeError, KeyError, ValueError) as error:
        raise ConfigError(f"{path} holds no controller: {error!r}") from error
    shapes = {name: array.shape for name, array in arrays.items()}
    k, f = (len(names),), (len(features),)
    expected = dict(zip(_ARRAYS, (k, k, f, f, (*k, f[0] + 1), k), strict=True))
    if shapes != expected:
        raise ConfigError(f"{path} holds a controller whose arrays do not fit: {shapes}")
    arrays["tokens"] = arrays["tokens"].astype(jnp.int32)
    return Controller(names=names, features=features, **arrays)
