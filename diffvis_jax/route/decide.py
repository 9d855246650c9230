"""Where a task goes: an ordered list of rules, the first that matches wins, none = here.

Pure. Rules that could send away what they should not are refused when they are made.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal, TypeAlias

from diffvis_jax.errors import ConfigError
from diffvis_jax.route.classify import Judged
from diffvis_jax.route.labels import OPERATIONS, Complexity, Operation, Sensitivity

Sent = Literal["nothing", "masked", "changes"]
Case: TypeAlias = tuple[Sensitivity, Complexity, Operation]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A row: all tasks in every one of its sets go to `to`; an empty set is all there is."""

    to: str
    what: Sent = "masked"  # to a remote provider: whole masked pictures, or crops of what changed
    sensitivity: frozenset[Sensitivity] = frozenset()
    complexity: frozenset[Complexity] = frozenset()
    operation: frozenset[Operation] = frozenset()

    @property
    def cases(self) -> frozenset[Case]:
        """The tasks that it matches."""
        sets = self.sensitivity or Sensitivity, self.complexity or Complexity
        return frozenset(itertools.product(*sets, self.operation or OPERATIONS))


@dataclasses.dataclass(frozen=True)
class Rules:
    """A table of rules; `providers`: every one there is -> whether it is remote.

    Raises:
      ConfigError: lists each rule that names an unknown provider, can never match, or sends to a
        remote one confidential tasks, tasks of no stated sensitivity, nothing, or tasks whose less
        confidential likes stay.
    """

    rules: tuple[Rule, ...] = ()
    providers: Mapping[str, bool] = dataclasses.field(default_factory=lambda: {"here": False})
    local: str = "here"  # where everything goes that no rule sends elsewhere
    force_local: bool = False  # nothing leaves, whatever the rules say

    def __post_init__(self):
        problems, leaves = [], set()
        taken: set[Case] = set()
        known = ", ".join(sorted(self.providers))
        for number, rule in enumerate(self.rules, 1):
            found, cases = [], rule.cases - taken
            taken |= cases
            if rule.to not in self.providers:
                found.append(f"no provider {rule.to!r}: there are {known}")
            if not cases:
                found.append("never matches: the rules before it take all its tasks")
            if self.providers.get(rule.to):
                leaves |= cases
                if not rule.sensitivity:
                    found.append(f"to {rule.to} must name the sensitivities it sends")
                if Sensitivity.CONFIDENTIAL in rule.sensitivity:
                    found.append(f"confidential tasks do not go to {rule.to}")
                if rule.what == "nothing":
                    found.append(f"what is sent to {rule.to} is 'masked' or 'changes'")
            problems += [f"rule {number}: {problem}" for problem in found]
        if self.providers.get(self.local, True):
            problems.append(f"the local provider {self.local!r} is none, or is remote")
        for level, kind, operation in sorted(leaves):
            low = Sensitivity(max(level - 1, 0))
            if (low, kind, operation) not in leaves:
                case = f"{level.name}, {kind.name}, {operation}".lower()
                problems.append(f"{case} leaves, where {low.name.lower()} stays")
        if problems:
            raise ConfigError("\n  ".join(["routing rules:", *problems]))


@dataclasses.dataclass(frozen=True)
class Decision:
    """Where a task goes."""

    target: str  # a provider; empty = none may answer it now
    send: Sent  # what a remote target is given
    then: tuple[str, ...]  # who is asked, in order, if it fails; never a remote provider
    reasons: tuple[str, ...]  # quote nothing of the task


def decide(
    judged: Judged, operation: Operation, rules: Rules, health: Mapping[str, bool]
) -> Decision:
    """The decision; `health`: providers that can be asked now, those not named can."""
    case = (judged.sensitivity, judged.complexity, operation)
    rule = next((rule for rule in rules.rules if case in rule.cases), None)
    wanted, send = (rule.to, rule.what) if rule else (rules.local, "nothing")
    why = f"rule {rules.rules.index(rule) + 1}: {wanted}" if rule else "no rule: here"
    reasons = [*judged.reasons, why]
    confidential = judged.sensitivity == Sensitivity.CONFIDENTIAL
    if rules.providers[wanted] and (rules.force_local or confidential):
        wanted, reasons = rules.local, [*reasons, "nothing leaves (force_local)"]
    order = dict.fromkeys((wanted, rules.local))
    reasons += [f"{name} cannot be asked now" for name in order if not health.get(name, True)]
    target, *then = [name for name in order if health.get(name, True)] or [""]
    remote = rules.providers.get(target, False)
    return Decision(target, send if remote else "nothing", tuple(then), tuple(reasons))
