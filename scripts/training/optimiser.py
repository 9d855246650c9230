"""What takes the steps of a training run: AdamW, and Muon where it is asked for."""

from typing import Any

import jax
import optax
import optax.contrib

INNER = ("block_", "full_", "merger", "conv", "output")  # of the paths of products inside the tower


def optimiser(rate: float, steps: int, muon: float | None = None) -> optax.GradientTransformation:
    """AdamW (or, at the rate `muon`, Muon for the matrices of blocks) with a clipped gradient, a
    short warm-up and a cosine; matrices alone decay."""

    def schedule(rate: float) -> optax.Schedule:
        warm_up = min(100, steps // 2)
        return optax.warmup_cosine_decay_schedule(0.0, rate, warm_up, steps, 0.02 * rate)

    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    own = optax.adamw(schedule(rate), b2=0.98, weight_decay=0.02, mask=matrices)
    if muon is not None:
        # Updates as large as AdamW's usually are (arXiv 2502.16982, 2.2).
        each = optax.contrib.muon(schedule(muon), weight_decay=0.02, consistent_rms=0.2)
        own = optax.partition({"muon": each, "adam": own}, _optimisers)
    return optax.chain(optax.clip_by_global_norm(5.0), own)


def _optimisers(params: Any) -> Any:
    """Which optimiser is for which parameters: Muon for products between hidden layers."""

    def one(path: tuple[Any, ...], leaf: jax.Array) -> str:
        inner = any(str(getattr(key, "key", "")).startswith(INNER) for key in path)
        return "muon" if inner and leaf.ndim == 2 else "adam"

    return jax.tree_util.tree_map_with_path(one, params)


def optimiser_of(recipe: dict[str, Any]) -> optax.GradientTransformation:
    """The optimiser that a recipe (the options of a run) names."""
    return optimiser(float(recipe["rate"]), int(recipe["steps"]), recipe.get("muon"))
