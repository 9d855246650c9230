"""The errors of the evaluation: `ValueError`s, each names the offender."""

from diffvis_jax.errors import DiffvisError


class EvaluationError(DiffvisError, ValueError):
    """Predictions, counts or thresholds that do not fit one another or make no sense."""


class BoxError(EvaluationError):
    """A box that is inverted or not finite, or an array that does not hold boxes."""
