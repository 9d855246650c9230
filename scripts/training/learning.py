"""One step of training: a tower and its heads, their losses, the optimiser, averaged weights."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from architecture import Architecture
from loss import grounding_loss

from diffvis_jax.grounding.head import GroundingHead, HeadConfig

HELP = 0.4  # weight of the helper's loss
AVERAGE = 0.998  # decay of the averaged weights, which are what is evaluated and kept


@dataclasses.dataclass(frozen=True)
class Setup:
    """What one training step needs; static."""

    architecture: Architecture
    optimiser: optax.GradientTransformation

    @property
    def head(self) -> HeadConfig:
        """Of the head that is kept."""
        return self.architecture.heads["head"]

    def loss(self, params: dict[str, Any], batch: dict[str, jax.Array]):
        """The loss of the head that is kept and, with less weight, of the helpers."""
        seen = self.architecture.see(params["tower"], batch["taken"])
        loss, parts = jnp.zeros(()), {}
        for name, config in self.architecture.heads.items():
            answers = GroundingHead(config).apply({"params": params[name]}, *seen[name])
            own, own_parts = grounding_loss(config, answers, batch)  # type: ignore[arg-type]
            if name == "head":
                loss, parts = loss + own, {**parts, **own_parts}
            else:
                loss, parts = loss + HELP * own, {**parts, name: own}
        return loss, parts

    def step(self, state: dict[str, Any], batch: dict[str, Any]):
        """One update: state and batch to the new state and the parts of the loss."""
        taken = self.architecture.before(state["kept"], batch["pixels"])
        return self._update(state, {**batch, "taken": taken})

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _update(self, state: dict[str, Any], batch: dict[str, jax.Array]):
        (_, parts), grads = jax.value_and_grad(self.loss, has_aux=True)(state["params"], batch)
        updates, optimiser = self.optimiser.update(grads, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        # A young average forgets faster, else it would remember the random start.
        decay = jnp.minimum(AVERAGE, (1 + state["step"]) / (10 + state["step"]))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state["average"], params)
        new = {
            "params": params,
            "average": average,
            "kept": state["kept"],
            "optimiser": optimiser,
            "step": state["step"] + 1,
        }
        return new, {**parts, "gradient": optax.tree.norm(grads)}

    @staticmethod
    def fresh_head(config: HeadConfig, seed: int) -> Any:
        """Parameters of a head before the first step."""
        tokens = jnp.zeros((1, 1, config.token_width))
        maps = [jnp.zeros((1, n, n, width)) for n, width in config.maps]
        return GroundingHead(config).init(jax.random.key(seed), tokens, maps)["params"]

    def fresh(self, seed: int) -> dict[str, Any]:
        """Parameters of tower and heads before the first step."""
        heads = self.architecture.heads.items()
        return {
            "tower": self.architecture.fresh(seed),
            **{name: self.fresh_head(head, seed) for name, head in heads},
        }

    @property
    def shape(self) -> dict[str, Any]:
        """Shapes and dtypes of a state."""
        return jax.eval_shape(lambda: self.state(self.fresh(0)))

    def state(self, params: dict[str, Any]) -> dict[str, Any]:
        """The state before the first step from these parameters."""
        kept = {name: params["tower"][name] for name in self.architecture.kept}
        trained = {name: own for name, own in params["tower"].items() if name not in kept}
        params = {**params, "tower": trained}
        return {
            "params": params,
            "average": jax.tree.map(jnp.copy, params),
            "kept": kept,
            "optimiser": self.optimiser.init(params),
            "step": jnp.zeros((), jnp.int32),
        }

    def finished(self, state: dict[str, Any], crops: Sequence[np.ndarray]) -> dict[str, Any]:
        """Tower and head as they are used: averaged, with the batch norm of these crops folded."""
        average = state["average"]
        tower = self.architecture.finished({**state["kept"], **average["tower"]}, crops)
        return {"tower": tower, "head": average["head"]}
