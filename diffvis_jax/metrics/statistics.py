"""How sure one may be of a number measured on a sample.

N paired answers, n of anything, k of them right.
"""

import dataclasses
import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from diffvis_jax.metrics.errors import EvaluationError
from diffvis_jax.metrics.matching import as_mask

Value = TypeVar("Value")


def wilson_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share, k of n.

    E. B. Wilson 1927 (JASA 22, 209), without continuity correction: the shares p for which k lies
    within z standard errors of n p. It never leaves 0-1, and is good for small n.

    Args:
      k: how many were right, 0..n.
      n: of how many; of none, nothing is known: (0, 1).
      level: how often the interval holds the true share, 0-1 exclusive.

    Returns:
      Lower and upper end.

    Raises:
      EvaluationError: k, n or level out of range, or k or n not whole.
    """
    k, n = _count("k", k), _count("n", n)
    if k > n:
        raise EvaluationError(f"k must be at most n, got k = {k}, n = {n}")
    z = -NormalDist().inv_cdf((1 - _checked_level(level)) / 2)
    spread = k * (n - k) / n if n else 0.0
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * (spread + z**2 / 4) ** 0.5
    # Exactly 0 and 1 at the ends, where rounding would leave a trace.
    return (centre - half if k else 0.0), (centre + half if k < n else 1.0)


@dataclasses.dataclass(frozen=True)
class Paired:
    """The same queries, answered from the full and from the differential encode.

    Attributes:
      both, only_full, only_differential, neither: queries by who was right; they sum to N.
      p_value: of McNemar's exact test, two-sided: how often chance alone would split the queries
        on which the two differ at least as unevenly, were neither better.
    """

    both: int
    only_full: int
    only_differential: int
    neither: int
    p_value: float


def mcnemar(full: ArrayLike, differential: ArrayLike) -> Paired:
    """Compares two ways of answering the same queries.

    McNemar 1947 (Psychometrika 12, 153), with the exact binomial probability instead of chi
    squared: see `mcnemar_p_value`. The queries are taken as independent of one another.

    Args:
      full, differential: bool `[N]`, whether each query was answered rightly.

    Raises:
      EvaluationError: not bool, or not of one length.
    """
    a, b = np.asarray(full), np.asarray(differential)
    if a.ndim != 1 or a.shape != b.shape:
        raise EvaluationError(
            f"full and differential must be bool [N], got {list(a.shape)} and {list(b.shape)}"
        )
    a, b = as_mask(a, len(a), "full"), as_mask(b, len(a), "differential")
    only_full, only_differential = int((a & ~b).sum()), int((b & ~a).sum())
    return Paired(
        both=int((a & b).sum()),
        only_full=only_full,
        only_differential=only_differential,
        neither=int((~a & ~b).sum()),
        p_value=mcnemar_p_value(only_full, only_differential),
    )


def mcnemar_p_value(b: int, c: int) -> float:
    """Exact two-sided p-value of b against c, if each of the b + c went either way with 1/2.

    Twice the probability of min(b, c) or fewer of b + c under the binomial, at most 1; in whole
    numbers, rounded once at the end.

    Args:
      b, c: queries that only the one, and only the other answered rightly.

    Raises:
      EvaluationError: a count that is negative or not whole.
    """
    b, c = _count("b", b), _count("c", c)
    n, term, tail = b + c, 1, 0
    for i in range(min(b, c) + 1):  # term = comb(n, i)
        tail += term
        term = term * (n - i) // (i + 1)
    return min(1.0, 2 * tail / 2**n)


def bootstrap_interval(
    values_by_group: Mapping[Hashable, Sequence[Value]],
    statistic: Callable[[list[Value]], float | None],
    seed: int,
    samples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic, drawing whole groups.

    What belongs together, the queries of one page or the frames of one session, is drawn together:
    single values would pass for more evidence than they are. (Cluster bootstrap, Field and Welsh
    2007; percentiles, Efron and Tibshirani 1993, ch. 13.)

    Args:
      values_by_group: what was measured, e.g. the `Counts` of each picture, by page or session; at
        least two groups. Their order belongs to the seed.
      statistic: of a list of values, e.g. `lambda counts: total(counts).f1`; None = undefined, and
        the sample is left out.
      seed: 0 or more; the same seed gives the same interval.
      samples: how many times as many groups as there are, are drawn with replacement.
      level: how often the interval should hold the true value, 0-1 exclusive.

    Returns:
      Lower and upper end, interpolated linearly between samples.

    Raises:
      EvaluationError: fewer than two groups, other arguments out of range, or a statistic that is
        never defined, or not finite.
    """
    groups = [list(values) for values in values_by_group.values()]
    if len(groups) < 2:
        raise EvaluationError(f"one cannot resample fewer than 2 groups, got {len(groups)}")
    if (samples := _count("samples", samples)) < 1:
        raise EvaluationError("samples must be at least 1, got 0")
    tail = (1 - _checked_level(level)) / 2
    random = np.random.default_rng(_count("seed", seed))
    drawn = random.integers(len(groups), size=(samples, len(groups)))
    results = [statistic([value for i in row for value in groups[i]]) for row in drawn.tolist()]
    defined = np.array([result for result in results if result is not None], np.float64)
    if not defined.size or not np.isfinite(defined).all():
        raise EvaluationError("the statistic is undefined on every sample, or not finite on some")
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


def _count(name: str, value: int) -> int:
    """The value as an int, if it is a whole number from 0."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise EvaluationError(f"{name} must be a whole number, got {value!r}") from error
    if count < 0:
        raise EvaluationError(f"{name} must not be negative, got {count}")
    return count


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise EvaluationError(f"level must lie between 0 and 1, got {level}")
    return level
