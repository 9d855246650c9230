"""A loop and an encoder without a model, on a fake clock: what ages come of which encode times."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from diffvis_jax.runtime.clock import FakeClock
from diffvis_jax.runtime.control_loop import ControlLoop, LoopConfig
from diffvis_jax.runtime.encoded import Outcome, Publish
from diffvis_jax.runtime.executor import TimedExecutor
from diffvis_jax.runtime.statistics import LoopStats, Tick
from diffvis_jax.runtime.worker import FrameWorker

# Milliseconds: shorter than a period of 100 ms, and from 1.5 to 14.5 of them.
SWEEP_MS = (60, 90, 150, 250, 380, 700, 1452)


class SimulatedSteps:
    """Takes anything for images, and gives them back.

    Args:
      slices: of the next observation: so many more steps until nothing of it is pending.
    """

    def __init__(self, slices: Callable[[], int] = lambda: 0):
        self._slices, self._left, self._images = slices, 0, None

    def check(self, images: Any) -> None: ...

    def keep(self, images: Any, owned: bool) -> Any:
        return images

    def warm(self, images: Any) -> None: ...

    def step(self, images: Any, fresh: bool) -> Outcome:
        if images is None:
            self._left -= 1
        else:
            self._images, self._left = images, 0 if fresh else self._slices()
        return Outcome(self._images, float(self._left), "full" if fresh else "partial", 1.0)


@dataclasses.dataclass(frozen=True)
class Simulation:
    """What happened: the statistics, each tick, and the encoder that knows its steps."""

    stats: LoopStats
    ticks: tuple[Tick, ...]
    encoder: FrameWorker


def simulate(
    seconds: Callable[[], float],
    ticks: int,
    config: LoopConfig | None = None,
    *,
    act_seconds: Callable[[], float] = lambda: 0.0,
    slices: Callable[[], int] = lambda: 0,
    publish: Publish = "always",
) -> Simulation:
    """Runs the real loop and the real worker on a clock that costs no time.

    Args:
      seconds: of the next step of the encoder; called once a step, in order.
      ticks: due times.
      config: of the loop; None = any age is allowed.
      act_seconds: that the next call of `act` takes.
      slices: see `SimulatedSteps`.
      publish: see `AsyncEncoder`.
    """
    clock, happened = FakeClock(), []
    if config is None:
        config = LoopConfig(max_age=math.inf)
    worker = FrameWorker(
        SimulatedSteps(slices), clock=clock, executor=TimedExecutor(clock, seconds), publish=publish
    )

    def act(*_: Any) -> None:
        if taken := act_seconds():
            clock.sleep_until(clock.now() + taken)

    loop = ControlLoop(worker, clock.now, act, config, on_tick=happened.append)
    return Simulation(loop.run(ticks), tuple(happened), worker)


def sweep(
    encode_ms: Sequence[float] = SWEEP_MS, hz: float = 10.0, ticks: int = 10_000
) -> list[dict[str, Any]]:
    """For constant encode times, one row each: "encode_ms", "age_p50_ms", "age_max_ms",
    "actions_per_encode", "superseded" (share of the observations), "bound_ms" (2E + P)."""
    rows = []
    for each in encode_ms:
        found = simulate(lambda e=each / 1e3: e, ticks, LoopConfig(hz=hz, max_age=math.inf)).stats
        numbers = found.as_dict()
        rows.append(
            {
                "encode_ms": each,
                "age_p50_ms": numbers["age_ms"]["p50"],
                "age_max_ms": numbers["age_ms"]["max"],
                "actions_per_encode": numbers["actions_per_encode"],
                "superseded": numbers["superseded"] / numbers["offered"],
                "bound_ms": 2 * each + 1e3 / hz,
            }
        )
    return rows
