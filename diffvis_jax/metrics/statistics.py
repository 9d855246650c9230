"""How certain a number measured on a sample is, and what its worst cases are.

N paired answers.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from diffvis_jax.metrics.errors import EvaluationError
from diffvis_jax.metrics.matching import as_mask

Value = TypeVar("Value")


def tails(values: Iterable[float | None]) -> dict[str, float | None]:
    """Median, 90th percentile (linear) and maximum, as "median", "p90" and "max".

    A median alone hides the cases that matter most. None among the values is left out; all three
    are None where no value remains.
    """
    known = [value for value in values if value is not None]
    if not known:
        return {"median": None, "p90": None, "max": None}
    median, p90, largest = np.quantile(known, [0.5, 0.9, 1.0]).tolist()
    return {"median": median, "p90": p90, "max": largest}


def wilson_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of the share k / n; (0, 1) for n = 0.

    Raises:
      ValueError, TypeError: see `scipy.stats.binomtest`.
    """
    from scipy.stats import binomtest  # here: it takes longer to import than the library itself

    if not n:
        return 0.0, 1.0
    low, high = binomtest(k, n).proportion_ci(level, "wilson")
    return float(low), float(high)


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
    """Compares two ways of answering the same queries, by McNemar's exact (binomial) test.

    The queries are taken as independent of one another.

    Args:
      full, differential: bool `[N]`, whether each query was answered correctly.

    Raises:
      EvaluationError: not bool, or not of one length.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(full), np.asarray(differential)
    if a.ndim != 1 or a.shape != b.shape:
        raise EvaluationError(
            f"full and differential must be bool [N], got {list(a.shape)} and {list(b.shape)}"
        )
    a, b = as_mask(a, len(a), "full"), as_mask(b, len(a), "differential")
    only_full, only_differential = int((a & ~b).sum()), int((b & ~a).sum())
    discordant = only_full + only_differential
    return Paired(
        both=int((a & b).sum()),
        only_full=only_full,
        only_differential=only_differential,
        neither=int((~a & ~b).sum()),
        p_value=float(binomtest(only_full, discordant).pvalue) if discordant else 1.0,
    )


def bootstrap_interval(
    values_by_group: Mapping[Hashable, Sequence[Value]],
    statistic: Callable[[list[Value]], float | None],
    seed: int,
    samples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic, resampling whole groups.

    Values that belong together, the queries of one page or the frames of one session, are drawn
    together: single values would pass for more evidence than they are. (Cluster bootstrap, Field
    and Welsh 2007; percentiles, Efron and Tibshirani 1993, ch. 13.)

    Args:
      values_by_group: e.g. the `Counts` of each picture, by page or session; at least two groups.
        Their order belongs to the seed.
      statistic: of a list of values, e.g. `lambda counts: total(counts).f1`; samples for which it
        is None (undefined) are left out.
      seed: 0 or more; the same seed gives the same interval.
      samples: number of samples, each of as many groups as there are, drawn with replacement.
      level: how often the interval should hold the true value, 0-1 exclusive.

    Returns:
      Lower and upper end, interpolated linearly between samples.

    Raises:
      EvaluationError: fewer than two groups, a level out of range, or a statistic that is
        undefined on every sample, or not finite on some.
    """
    groups = [list(values) for values in values_by_group.values()]
    if len(groups) < 2:
        raise EvaluationError(f"one cannot resample fewer than 2 groups, got {len(groups)}")
    if not 0 < level < 1:
        raise EvaluationError(f"level must lie between 0 and 1, got {level}")
    drawn = np.random.default_rng(seed).integers(len(groups), size=(samples, len(groups)))
    results = [statistic([value for i in row for value in groups[i]]) for row in drawn.tolist()]
    defined = np.array([result for result in results if result is not None], np.float64)
    if not defined.size or not np.isfinite(defined).all():
        raise EvaluationError("the statistic is undefined on every sample, or not finite on some")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
