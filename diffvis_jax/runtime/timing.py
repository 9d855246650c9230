"""How long a step takes on this machine, by the share of a full encode that it recomputes."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np

from diffvis_jax.core.cache import init_cache
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.step import check_frames, make_step
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.model import Model
from diffvis_jax.towers import with_size


@dataclasses.dataclass(frozen=True)
class Timing:
    """ms of a step = (`fixed_ms` + `encode_ms` * recomputed) * how slow it happened to be.

    Attributes:
      fixed_ms: of a step that recomputes nothing.
      encode_ms: of what a full encode recomputes.
      p50, p95: how much longer steps took than the line says, as a factor: median and 95th
        percentile.
      steps: that were measured.
    """

    fixed_ms: float
    encode_ms: float
    p50: float
    p95: float
    steps: int

    def ms(self, recomputed: float, factor: float | None = None) -> float:
        """What 95 of 100 steps stay below; `factor`: another one than `p95`."""
        return (self.p95 if factor is None else factor) * (
            self.fixed_ms + self.encode_ms * recomputed
        )

    def budget_for(self, ms: float) -> float:
        """The share of a full encode, at most 1, for which 95 of 100 steps take at most `ms`
        milliseconds: a policy's `budget`.

        Raises:
          ConfigError: not even a step that recomputes nothing is so fast.
        """
        share = (ms / self.p95 - self.fixed_ms) / self.encode_ms
        if not share > 0:
            raise ConfigError(
                f"no budget for {ms:g} ms: a step that recomputes nothing takes "
                f"{self.ms(0):.3g} ms (95th percentile), a full encode {self.ms(1):.3g} ms"
            )
        return min(1.0, share)


def calibrate_time(
    model: Model, policy: Policy | None, frames: np.ndarray, *, rounds: int = 3
) -> Timing:
    """Measures the steps of a stream and fits their time.

    Args:
      model: the tower.
      policy: what is left out, without a budget; None = `Policy()`.
      frames: `uint8 [F, H, W, 3]`, a recorded stream in order. Each round begins with a full encode
        of the first.
      rounds: how often the stream is run, after once to compile.

    Raises:
      FrameError: no such frames.
      ConfigError: all steps recompute the same share: there is no line through one point.
    """
    check_frames(frames)
    if rounds < 1:
        raise ConfigError(f"rounds must be at least 1, got {rounds}")
    if len(frames) < 2:
        raise FrameError("give at least two frames: a full encode and a step are compared")
    config = with_size(model.config, (frames.shape[1], frames.shape[2]))
    step, shares, times = make_step(config), [], []
    for number in range(rounds + 1):
        cache = init_cache(config, size=frames.shape[1:3])
        for index in range(len(frames)):
            start = time.perf_counter()
            operands = model.params, cache, frames[index : index + 1], policy
            _, cache, report = jax.block_until_ready(step(*operands))
            if number:
                times.append(1e3 * (time.perf_counter() - start))
                shares.append(float(report.recomputed[0]))
    return fitted(shares, times)


def fitted(shares: Sequence[float], ms: Sequence[float]) -> Timing:
    """The line of least squares through measured steps, that does not begin below 0.

    Raises:
      ConfigError: all shares are the same, or more work took less time.
    """
    x, y = np.asarray(shares, np.float64), np.asarray(ms, np.float64)
    if not np.ptp(x) > 0:
        raise ConfigError(f"all {x.size} steps recompute the same share: give other frames")
    slope, fixed = np.polyfit(x, y, 1)
    if fixed < 0:
        fixed, slope = 0.0, (x @ y) / (x @ x)
    if not slope > 0:
        raise ConfigError(
            f"steps took no longer the more they recomputed ({slope:g} ms a full one)"
        )
    line = fixed + slope * x
    known = line > 0  # a line from 0 says nothing of steps that recompute nothing
    p50, p95 = np.quantile(y[known] / line[known], [0.5, 0.95]).tolist()
    return Timing(float(fixed), float(slope), p50, p95, x.size)
