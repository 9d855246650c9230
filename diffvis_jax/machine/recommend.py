"""Which model, in which precision, under which policy: a pure function of what is known."""

import dataclasses
from collections.abc import Mapping, Sequence

from diffvis_jax.errors import ConfigError
from diffvis_jax.machine.catalogue import Entry
from diffvis_jax.machine.sizes import PRECISIONS, Bytes, macs, sizes


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a machine has.

    Attributes:
      memory: bytes for weights and caches: of the accelerator, or of the machine or its control
        group, whichever is less.
      macs_per_s: multiply-accumulates a second of large products, as measured here.
    """

    memory: int
    macs_per_s: float


@dataclasses.dataclass(frozen=True)
class Speed:
    """Of a model on this machine.

    Attributes:
      full_ms, small_ms: of a full encode, and of a step after a small change; None = unknown.
      policy: that was found best for it.
    """

    full_ms: float
    small_ms: float | None
    policy: str


@dataclasses.dataclass(frozen=True)
class Need:
    """What is asked for.

    Attributes:
      accuracy: benchmark -> least value in percent.
      budget_ms: most time of a full encode; None = any.
      memory: most bytes; None = what the machine has.
      sessions: streams at once.
      answers: whether questions are asked, which needs a language model.
    """

    accuracy: Mapping[str, float] = dataclasses.field(default_factory=dict)
    budget_ms: float | None = None
    memory: int | None = None
    sessions: int = 1
    answers: bool = False

    def __post_init__(self):
        if self.sessions < 1:
            raise ConfigError(f"sessions must be 1 or more, got {self.sessions}")
        for name, value in self.accuracy.items():
            if not 0 <= value <= 100:
                raise ConfigError(f"'{name}' must be 0-100 percent, got {value:g}")
        if self.budget_ms is not None and not self.budget_ms > 0:
            raise ConfigError(f"budget_ms must be above 0, got {self.budget_ms:g}")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model in a precision.

    Attributes:
      entry, precision: which.
      size: its bytes.
      full_ms, small_ms: of a full encode and of a small step; of models that were not measured
        what their work takes at least, and None. In float32, whatever the precision.
      measured: whether they were measured here.
      policy: for it.
      fault: why it is not taken; empty = it would do.
    """

    entry: Entry
    precision: str
    size: Bytes
    full_ms: float
    small_ms: float | None
    measured: bool
    policy: str
    fault: str


def recommend(
    machine: Machine,
    catalogue: Sequence[Entry],
    need: Need,
    measured: Mapping[str, Speed],
) -> tuple[Candidate | None, list[Candidate]]:
    """The model to take, and all candidates with what speaks against each.

    Of those that do: the best on the first benchmark that is asked for, else the largest, the
    language model before the tower; in the first precision, of float32, bfloat16 and int8, that
    fits. So more memory or time never gives a worse answer. A number that is not known is not
    guessed: asked for, it rules a model out.

    Args:
      measured: by name of the entry, in float32.

    Raises:
      ConfigError: a benchmark that no entry has.
    """
    known = sorted({name for entry in catalogue for name in entry.scores})
    if unknown := sorted(set(need.accuracy) - set(known)):
        raise ConfigError(f"no numbers of '{unknown[0]}': there are {', '.join(known)}")
    found = [
        _candidate(machine, entry, precision, need, measured)
        for entry in catalogue
        for precision in PRECISIONS
    ]
    good = [each for each in found if not each.fault]

    def merit(each: Candidate) -> tuple[float, int, int, int]:
        entry, first = each.entry, next(iter(need.accuracy), None)
        value = entry.scores[first].value if first else 0.0
        language = 0 if entry.decoder is None else sizes(entry, "float32").weights
        return value, language, macs(entry), -PRECISIONS.index(each.precision)

    return max(good, key=merit, default=None), found


def _candidate(
    machine: Machine,
    entry: Entry,
    precision: str,
    need: Need,
    measured: Mapping[str, Speed],
) -> Candidate:
    speed = measured.get(entry.name)
    size = sizes(entry, precision, need.sessions)
    memory = machine.memory if need.memory is None else min(machine.memory, need.memory)
    full_ms = 1e3 * macs(entry) / machine.macs_per_s if speed is None else speed.full_ms
    fault = ""
    if need.answers and entry.decoder is None:
        fault = "answers no questions"
    for name, least in need.accuracy.items():
        score = entry.scores.get(name)
        if score is None:
            fault = fault or f"{name}: unknown"
        elif score.value < least:
            fault = fault or f"{name}: {score.value:g} of {least:g}"
    if size.total > memory:
        fault = fault or f"takes {size.total / 1e9:.1f} GB of {memory / 1e9:.1f}"
    if need.budget_ms is not None and full_ms > need.budget_ms:
        fault = fault or f"a full encode takes {full_ms:.0f} ms of {need.budget_ms:g}"
    return Candidate(
        entry=entry,
        precision=precision,
        size=size,
        full_ms=full_ms,
        small_ms=None if speed is None else speed.small_ms,
        measured=speed is not None,
        policy="faithful" if speed is None else speed.policy,
        fault=fault,
    )
