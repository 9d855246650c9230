"""One step of training: the losses of tower and head, the optimiser, averaged weights."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from architecture import HEAD, TOWER, Seen, see, see_after
from loss import grounding_loss, imitation_loss
from teacher import HINTS, Teacher

import diffvis_jax as dv
from diffvis_jax.grounding.head import GroundingHead
from diffvis_jax.ops.matmul import linear
from diffvis_jax.towers import build
from diffvis_jax.towers.params import affine, draw

AVERAGE = 0.998  # decay of the averaged weights, which are what is evaluated and kept
HINT, SCORE = 1.0, 0.5  # weights of what is imitated: the teacher's maps, and its scores
MISSED = 0.3  # weight of what a step misses of a change


@dataclasses.dataclass(frozen=True)
class Setup:
    """What one training step needs; static.

    Attributes:
      optimiser: of the student.
      teacher: whom it imitates; None = nobody.
    """

    optimiser: optax.GradientTransformation
    teacher: Teacher | None

    def loss(self, params: dict[str, Any], batch: dict[str, Any]):
        """Of crops, by themselves: what the labels say, and what the teacher says."""
        seen = see(params["tower"], batch["pixels"])
        loss, parts, answers = _labelled(params, seen, batch)
        if self.teacher is not None:
            hint, score = self._imitated(params, seen, answers, batch["teacher"])
            loss = loss + HINT * hint + SCORE * score
            parts = {**parts, "hint": hint, "score": score}
        return loss, parts

    def loss_after(self, params: dict[str, Any], batch: dict[str, Any]):
        """Of crops that a step made of what was there before: what the labels say, and what share
        of the change of the tokens is missed, over all tokens."""
        old, new = see_after(params["tower"], batch["before"], batch["pixels"])
        loss, parts, _ = _labelled(params, new, batch)
        full = jax.lax.stop_gradient(see(params["tower"], batch["pixels"]).tokens)
        moved = jnp.square(full - jax.lax.stop_gradient(old.tokens)).sum((1, 2))
        # Relative to the change, but for a change of nearly nothing.
        least = 1e-4 * jnp.square(full).sum((1, 2))
        missed = (jnp.square(new.tokens - full).sum((1, 2)) / jnp.maximum(moved, least)).mean()
        return loss + MISSED * missed, {"after": parts["loss"], "missed": missed}

    def _imitated(self, params, seen: Seen, answers, said) -> tuple[jax.Array, jax.Array]:
        """How far the student's maps, through a linear layer each, and scores are from these."""
        own = [seen.maps[index] for index in _imitating()]
        pairs = zip(own, params["probes"], said["hints"], strict=True)
        far = [jnp.square(linear(x, **probe) - wanted).mean() for x, probe, wanted in pairs]
        return jnp.stack(far).mean(), imitation_loss(answers["object"], said["score"])

    def step(self, state: dict[str, Any], batch: dict[str, Any], taught: Any = None):
        """One update: state and batch to the new state and the parts of the loss.

        Args:
          taught: parameters of the teacher.
        """
        if "before" in batch:
            return self._update(state, batch)
        if self.teacher is not None:
            batch = {**batch, "teacher": self.teacher(taught, batch["pixels"])}
        return self._update(state, batch)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _update(self, state: dict[str, Any], batch: dict[str, Any]):
        loss = self.loss_after if "before" in batch else self.loss
        (_, parts), grads = jax.value_and_grad(loss, has_aux=True)(state["params"], batch)
        updates, optimiser = self.optimiser.update(grads, state["optimiser"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        # A young average forgets faster, else it would remember the random start.
        decay = jnp.minimum(AVERAGE, (1 + state["step"]) / (10 + state["step"]))
        average = jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state["average"], params)
        new = {
            "params": params,
            "average": average,
            "optimiser": optimiser,
            "step": state["step"] + 1,
        }
        return new, {**parts, "gradient": optax.tree.norm(grads)}

    def fresh(self, seed: int) -> dict[str, Any]:
        """Parameters of tower, head and the layers that imitate before the first step."""
        tokens = jnp.zeros((1, 1, HEAD.token_width))
        maps = [jnp.zeros((1, n, n, width)) for n, width in HEAD.maps]
        head = GroundingHead(HEAD).init(jax.random.key(seed), tokens, maps)["params"]
        params = {"tower": dv.init_params(TOWER, seed), "head": head}
        if self.teacher is not None:
            widths = [build(TOWER).layers[index].width for index in _imitating()]
            pairs = zip(self.teacher.widths, widths, strict=True)
            keys = jax.random.split(jax.random.key(seed), len(HINTS))
            specs = [affine(outputs, inputs) for outputs, inputs in pairs]
            params["probes"] = [draw(s, key) for s, key in zip(specs, keys, strict=True)]
        return params

    @property
    def shape(self) -> dict[str, Any]:
        """Shapes and dtypes of a state."""
        return jax.eval_shape(lambda: self.state(self.fresh(0)))

    def state(self, params: dict[str, Any]) -> dict[str, Any]:
        """The state before the first step from these parameters."""
        return {
            "params": params,
            "average": jax.tree.map(jnp.copy, params),
            "optimiser": self.optimiser.init(params),
            "step": jnp.zeros((), jnp.int32),
        }


def finished(state: dict[str, Any]) -> dict[str, Any]:
    """Tower and head as they are used."""
    return {name: state["average"][name] for name in ("tower", "head")}


def _labelled(params, seen: Seen, batch):
    """Loss by the labels, its parts, and the head's answers."""
    answers = GroundingHead(HEAD).apply({"params": params["head"]}, *seen.for_head)
    loss, parts = grounding_loss(HEAD, answers, batch)  # type: ignore[arg-type]
    return loss, parts, answers


def _imitating() -> tuple[int, int, int]:
    """Numbers of the layers that imitate: both stages of the stem, and the last block."""
    return 0, 1, len(build(TOWER).layers) - 2
