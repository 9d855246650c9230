"""A loop's run as a picture: frames, steps of the encoder, ticks, and how old features were."""

import math
from collections.abc import Sequence

from diffvis_jax.runtime.statistics import Span, Tick

_WIDTH, _LEFT = 1240, 70
_LANES = {"frames": 20, "encoder": 44, "ticks": 72}  # names and heights of their middles
_TOP, _BOTTOM = 96, 216  # of the ages


def timeline_svg(
    ticks: Sequence[Tick], spans: Sequence[Span], frames: Sequence[float], bound: float
) -> str:
    """An SVG for a page of this folder.

    Args:
      ticks: of one run, in order.
      spans: steps of the encoder.
      frames: when the screen changed.
      bound: seconds; a line among the ages.

    All times are of one clock.
    """
    if not ticks:
        return ""
    begin, end = ticks[0].due, max(ticks[-1].ended, ticks[-1].due + 0.1)
    spans = [span for span in spans if span.ready > begin and span.started < end]
    oldest = max(bound, *(tick.age for tick in ticks)) or 1.0

    def x(moment: float) -> float:
        share = (min(max(moment, begin), end) - begin) / (end - begin)
        return round(_LEFT + share * (_WIDTH - _LEFT - 10), 1)

    def y(age: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * age / oldest, 1)

    parts = [f'<text x="4" y="{at + 4}">{name}</text>' for name, at in _LANES.items()]
    for moment in filter(lambda moment: begin <= moment <= end, frames):
        at = _LANES["frames"]
        parts.append(f'<path class="grid" d="M{x(moment)} {at - 6}V{at + 6}"/>')
    for span in spans:
        height = 8 if span.slicing else 16
        width = max(0.6, x(span.ready) - x(span.started) - 0.8)  # steps are told apart
        parts.append(
            f'<rect class="{span.path}" x="{x(span.started)}" y="{_LANES["encoder"] - height / 2}" '
            f'width="{width:.1f}" height="{height}"/>'
        )
    for tick in ticks:
        kind = "dot" if tick.missed or tick.stale else "reuse"
        parts.append(
            f'<circle class="{kind}" cx="{x(tick.began)}" cy="{_LANES["ticks"]}" r="2.2"/>'
        )
    for age in (0.0, bound):
        parts.append(f'<text x="4" y="{y(age) + 4}">{1e3 * age:.0f} ms</text>')
        parts.append(f'<path class="line" d="M{_LEFT} {y(age)}H{_WIDTH - 10}"/>')
    points = " ".join(f"{x(tick.began)},{y(tick.age)}" for tick in ticks)
    parts.append(f'<polyline class="ring" points="{points}"/>')
    for second in range(math.ceil(end - begin)):
        parts.append(f'<text x="{x(begin + second)}" y="{_BOTTOM + 16}">{second} s</text>')
    return (
        f'<div class="charts"><svg viewBox="0 0 {_WIDTH} {_BOTTOM + 24}" role="img" '
        f'aria-label="ticks, encodes and ages">{"".join(parts)}</svg></div>'
    )


KEY = (
    "Above: when the screen changed; steps of the encoder, full ones grey, partial ones blue, "
    "reuse green, low ones went on with a frame that was pending; ticks, red if they ended late. "
    "Below: the age of the pixels that each tick acted on, and the dashed line 2E + P, with E of "
    "the slowest step."
)
