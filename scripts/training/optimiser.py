"""What takes the steps of a training run: AdamW."""

import jax
import optax


def optimiser(rate: float, steps: int) -> optax.GradientTransformation:
    """AdamW with a clipped gradient, a short warm-up and a cosine; matrices alone decay."""
    warm_up = min(100, steps // 2)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, warm_up, steps, 0.02 * rate)
    matrices = lambda params: jax.tree.map(lambda p: p.ndim > 1, params)  # noqa: E731
    own = optax.adamw(schedule, b2=0.98, weight_decay=0.02, mask=matrices)
    return optax.chain(optax.clip_by_global_norm(5.0), own)
