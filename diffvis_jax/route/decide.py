"""Where a task goes: an ordered list of rules, the first that matches wins, none = here.

Pure. Rules that could send away what they should not are refused when they are made.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Literal

from diffvis_jax.errors import ConfigError
from diffvis_jax.route.classify import Judged
from diffvis_jax.route.labels import OPERATIONS, Complexity, Operation, Sensitivity

Sent = Literal["nothing", "masked", "changes"]
_CASES = frozenset(itertools.product(Sensitivity, Complexity, OPERATIONS))


@dataclasses.dataclass(frozen=True)
class Rule:
    """A row: all tasks that are in every one of its sets go to `to`; an empty set is all there is.

    Attributes:
      what: of what goes to a remote provider: whole masked pictures, or crops of what changed.
    """

    to: str
    what: Sent = "masked"
    sensitivity: frozenset[Sensitivity] = frozenset()
    complexity: frozenset[Complexity] = frozenset()
    operation: frozenset[Operation] = frozenset()

    @property
    def cases(self) -> frozenset[tuple[Sensitivity, Complexity, Operation]]:
        """The tasks that it matches."""
        sets = self.sensitivity or Sensitivity, self.complexity or Complexity
        return frozenset(itertools.product(*sets, self.operation or OPERATIONS))


@dataclasses.dataclass(frozen=True)
class Rules:
    """A table of rules.

    Attributes:
      rules: in order.
      providers: every provider there is -> whether it is remote; `local` is one of them.
      local: where everything goes that no rule sends elsewhere.
      force_local: nothing leaves, whatever the rules say.

    Raises:
      ConfigError: lists each rule that names an unknown provider, can never match, or sends to a
        remote one confidential tasks, tasks of no stated sensitivity, nothing, or tasks whose less
        confidential likes stay.
    """

    rules: tuple[Rule, ...] = ()
    providers: Mapping[str, bool] = dataclasses.field(default_factory=lambda: {"here": False})
    local: str = "here"
    force_local: bool = False

    def __post_init__(self):
        problems, left = [], set(_CASES)
        for number, rule in enumerate(self.rules, 1):
            told = f"rule {number}: "
            if rule.to not in self.providers:
                known = ", ".join(sorted(self.providers))
                problems.append(f"{told}no provider {rule.to!r}: there are {known}")
            if not rule.cases & left:
                problems.append(f"{told}never matches: the rules before it take all its tasks")
            if self.providers.get(rule.to):
                if not rule.sensitivity:
                    problems.append(f"{told}to {rule.to} must name the sensitivities it sends")
                if Sensitivity.CONFIDENTIAL in rule.sensitivity:
                    problems.append(f"{told}confidential tasks do not go to {rule.to}")
                if rule.what == "nothing":
                    problems.append(f"{told}what is sent to {rule.to} is 'masked' or 'changes'")
            left -= rule.cases
        if self.providers.get(self.local, True):
            problems.append(f"the local provider {self.local!r} is none, or is remote")
        for level, kind, operation in itertools.product((0, 1), Complexity, OPERATIONS):
            case = (Sensitivity(level + 1), kind, operation)
            if self._leaves(*case) and not self._leaves(Sensitivity(level), *case[1:]):
                names = ", ".join(x if isinstance(x, str) else x.name.lower() for x in case)
                problems.append(f"{names} leaves, where {Sensitivity(level).name.lower()} stays")
        if problems:
            raise ConfigError("\n  ".join(["routing rules:", *problems]))

    def first(self, level: Sensitivity, kind: Complexity, operation: Operation) -> Rule | None:
        """The rule that counts."""
        case = (level, kind, operation)
        return next((rule for rule in self.rules if case in rule.cases), None)

    def _leaves(self, *case) -> bool:
        rule = self.first(*case)
        return rule is not None and self.providers.get(rule.to, False)


@dataclasses.dataclass(frozen=True)
class Decision:
    """Where a task goes.

    Attributes:
      target: a provider; empty = none may answer it now.
      send: what a remote target is given.
      then: who is asked, in order, if it fails; never a remote provider.
      reasons: quote nothing of the task.
    """

    target: str
    send: Sent
    then: tuple[str, ...]
    reasons: tuple[str, ...]


def decide(
    judged: Judged, operation: Operation, rules: Rules, health: Mapping[str, bool]
) -> Decision:
    """The decision; `health`: providers that can be asked now, those not named can."""
    rule = rules.first(judged.sensitivity, judged.complexity, operation)
    wanted, send = (rule.to, rule.what) if rule else (rules.local, "nothing")
    reasons = [*judged.reasons]
    reasons.append(f"rule {rules.rules.index(rule) + 1}: {wanted}" if rule else "no rule: here")
    confidential = judged.sensitivity == Sensitivity.CONFIDENTIAL
    if rules.providers[wanted] and (rules.force_local or confidential):
        wanted, reasons = rules.local, [*reasons, "nothing leaves (force_local)"]
    order = list(dict.fromkeys((wanted, rules.local)))
    reasons += [f"{name} cannot be asked now" for name in order if not health.get(name, True)]
    target, *then = [name for name in order if health.get(name, True)] or [""]
    remote = rules.providers.get(target, False)
    return Decision(target, send if remote else "nothing", tuple(then), tuple(reasons))
