"""The stateful wrapper for several views: pictures by name in, tokens by name out.

A agents, V views of each, N tokens of a view, D token width.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.cache import Cache, init_cache, restart
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import Report
from diffvis_jax.core.step import make_step
from diffvis_jax.errors import ConfigError
from diffvis_jax.model import Model
from diffvis_jax.towers.registry import build
from diffvis_jax.views.view_set import Images, ViewSet


@dataclasses.dataclass
class _Group:
    """The views of one size: one cache, one compilation."""

    views: ViewSet
    config: Any
    policy: Policy
    step: Callable[..., tuple[jax.Array, Cache, Report]]
    cache: Cache | None = None
    counts: Any = None  # int32 [2, A * V]: ticks, and those in which pixels changed


class ViewEncoder:
    """Encodes the views of an agent, or of several, each against what it showed last.

    Views of one size share a call; those of other sizes follow in a call of their own. A view that
    is absent stays as it is and costs its comparison at most; nothing is compiled when views come
    and go.

    Attributes:
      model: the tower.
      views: what is encoded.
      present: of the last tick, bool `[A, V]`; None before the first.
    """

    def __init__(
        self,
        model: Model,
        views: ViewSet,
        policy: Policy | Mapping[str, Policy] | None = None,
        *,
        agents: int = 1,
    ):
        """Args:
          model: the tower.
          views: what is encoded.
          policy: what may be left out; by name where views differ (others: `Policy()`); None =
            `Policy()`.
          agents: A.

        Raises:
          ConfigError: a size that the tower does not take, fewer than 1 agent, or policies that
            do not go together (see `ViewSet.policy`).
          FrameError: a policy for an unknown view.
        """
        if agents < 1:
            raise ConfigError(f"agents must be at least 1, got {agents}")
        self.model, self.views = model, views
        self.present: np.ndarray | None = None
        self._agents = agents
        if isinstance(policy, Mapping):
            views.check_names(policy)
        self._groups = [self._group(group, policy) for group in views.groups]

    def _group(self, views: ViewSet, policy: Policy | Mapping[str, Policy] | None) -> _Group:
        config = views.config(self.model)
        if isinstance(policy, Mapping):
            own = {name: policy[name] for name in views.names if name in policy}
            policy = views.policy(self.model, own, agents=self._agents)
        policy = Policy() if policy is None else policy
        policy.check_streams(self._agents * len(views.names))
        return _Group(views, config, policy.resolved(build(config)), make_step(config))

    def encode(
        self, images: Images, present: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, jax.Array], dict[str, Report]]:
        """One tick.

        Args:
          images: by name, as `ViewSet.stack` takes them.
          present: whether a picture counts, by name.

        Returns:
          tokens `[A, N, D]` float32 and the report of each view, by name, in the order of the
          views. An absent view has the tokens it had, zeros if it was never seen.

        Raises:
          FrameError, ImageError: see `ViewSet.stack`; nothing was encoded then.
        """
        self.views.check_names(images)
        self.views.check_names(present or {})
        ready = []
        for group in self._groups:
            own, counts = (
                {name: found[name] for name in group.views.names if name in found}
                for found in (images, present or {})
            )
            ready.append(group.views.stack(own, group.config, present=counts, agents=self._agents))
        tokens: dict[str, jax.Array] = {}
        reports: dict[str, Report] = {}
        there: dict[str, np.ndarray] = {}
        for group, (frames, shown) in zip(self._groups, ready, strict=True):
            found = self._step(group, frames, shown.reshape(-1))
            tokens |= found[0]
            reports |= found[1]
            there |= dict(zip(group.views.names, shown.T, strict=True))
        names = self.views.names
        self.present = np.stack([there[name] for name in names], 1)
        return {name: tokens[name] for name in names}, {name: reports[name] for name in names}

    def _step(
        self, group: _Group, frames: np.ndarray, active: np.ndarray
    ) -> tuple[dict[str, jax.Array], dict[str, Report]]:
        cache, counts = group.cache, group.counts
        if cache is None:
            cache = init_cache(group.config, len(frames))
            counts = jnp.zeros((2, len(frames)), jnp.int32)
        group.cache = None  # it is donated, and gone if the step fails while it runs
        tokens, group.cache, report = group.step(
            self.model.params, cache, frames, group.policy, active=active
        )
        *found, group.counts = _by_view(tokens, report, counts, active, group.views.names)
        return found[0], found[1]

    def reset(self, names: Iterable[str] | None = None) -> None:
        """Forgets what these views showed; None = all, and what `change_rates` counted.

        Raises:
          FrameError: an unknown view.
        """
        if names is None:
            for group in self._groups:
                group.cache = group.counts = None
            self.present = None
            return
        names = [names] if isinstance(names, str) else list(names)
        self.views.check_names(dict.fromkeys(names))
        for group in self._groups:
            which = np.tile([name in names for name in group.views.names], self._agents)
            if group.cache is not None and which.any():
                group.cache = _restart(group.cache, which)

    def change_rates(self) -> dict[str, float]:
        """The share of the ticks of each view, so far, in which any of its patches changed; of
        several agents the mean. 0 of a view that was never seen.

        Waits for what is being computed."""
        rates: dict[str, float] = {}
        for group in self._groups:
            counts = np.zeros((2, 1)) if group.counts is None else np.asarray(group.counts)
            ticks, changed = (row.reshape(-1, len(group.views.names)).sum(0) for row in counts)
            shares = changed / np.maximum(ticks, 1)
            rates |= dict(zip(group.views.names, shares.tolist(), strict=True))
        return {name: rates[name] for name in self.views.names}


@functools.partial(jax.jit, static_argnames="names", donate_argnames="counts")
def _by_view(
    tokens: jax.Array,
    report: Report,
    counts: jax.Array,
    active: jax.Array,
    names: tuple[str, ...],
) -> tuple[dict[str, jax.Array], dict[str, Report], jax.Array]:
    """In one call, since each slice by itself would be a call."""
    views = ViewSet(names, dict.fromkeys(names, (1, 1)))  # of any size
    seen = jnp.stack([active, active & (report.changed_patches > 0)]).astype(jnp.int32)
    return views.split(tokens), views.split(report), counts + seen


_restart = jax.jit(restart, donate_argnums=0)


def order_views(change_rates: Mapping[str, float]) -> tuple[str, ...]:
    """The views in the order in which a prompt should show them: those that rarely change first.

    A differential prefill reuses everything before the first token that changed. Choose the order
    once an episode: a view that moves to another place invalidates all that follows it.

    Args:
      change_rates: how often each view changes, such as `ViewEncoder.change_rates()`; views that
        change equally often stay in their order.

    Raises:
      ConfigError: no views, or a rate that is no number from 0 up.
    """
    if not change_rates:
        raise ConfigError("there are no views to order")
    for name, rate in change_rates.items():
        if not (isinstance(rate, int | float | np.number) and math.isfinite(rate) and rate >= 0):
            raise ConfigError(f"the change rate of {name!r} must be a number >= 0, got {rate!r}")
    return tuple(sorted(change_rates, key=lambda name: float(change_rates[name])))
