"""Numbers as people read them: in tables, on pages, on the command line.

Shares (of missed change, of recomputed work) are percentages everywhere. None is "-".
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from diffvis_jax.measure.missed import TINY


def decimal(value: float | None, form: str) -> str:
    """The value in a format such as ".3f"."""
    return "-" if value is None else format(value, form)


def percent(share: float | None) -> str:
    """A share: 0.1384 -> "13.8%". What would round to nothing, and is not, is "<0.1%"."""
    return "<0.1%" if share is not None and 0 < share < 0.0005 else decimal(share, ".1%")


def times(ratio: float | None) -> str:
    """A speed-up: 1.9 -> "1.90x", 1100.3 -> "1100x"."""
    return "-" if ratio is None else f"{_three_digits(ratio)}x"


def speed_text(speed_up: float, other: str) -> str:
    """A speed-up in words: "4.02x faster than a full encode"."""
    if 0.95 <= speed_up <= 1.05:
        return f"Same speed as {other}"
    if speed_up < 1:
        return f"{speed_up:.2f} of the speed of {other}"
    return f"{times(speed_up)} faster than {other}"


def milliseconds(ms: float | None) -> str:
    """A time: 12.34 -> "12.3 ms"."""
    return "-" if ms is None else f"{_three_digits(ms)} ms"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


TAILS = "median / 90% / worst"  # for the head of a column of `tails_text`


def tails_text(
    values: Mapping[str, float | None], form: Callable[[float | None], str] = percent
) -> str:
    """What `metrics.tails` returned, as its three numbers in the order of `TAILS`."""
    parts = [form(values[key]) for key in ("median", "p90", "max")]
    return "-" if parts == ["-"] * 3 else " / ".join(parts)


# Heads of the columns of `missed_cells`.
MISSED = (f"missed at changed tokens: {TAILS}", f"missed over all: {TAILS}", "tiny")


def missed_cells(row: Mapping[str, Any]) -> list[str]:
    """What `measure.missed.missed_tails` returned, for the columns `MISSED`."""
    return [*(tails_text(row[name]) for name in ("missed_changed", "missed_all")), f"{row['tiny']}"]


def tiny_text(tiny: int) -> str:
    """How many steps `missed_tails` has left out, for below a table or a list."""
    return f"{tiny} tiny changes left out, which moved their tokens by less than {percent(TINY)}"


def interval(
    value: float | None,
    ends: Sequence[float] | None,
    form: Callable[[float | None], str] = percent,
) -> str:
    """A number with its confidence interval, if there is one: "95.8% (93.8%-97.2%)"."""
    if value is None or ends is None:
        return form(value)
    return f"{form(value)} ({form(ends[0])}-{form(ends[1])})"
