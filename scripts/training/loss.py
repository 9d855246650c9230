"""What training minimises: focal loss for objectness, cross entropy for kinds, GIoU for boxes.

Objectness is not asked to be 1 where an element is, but the overlap of the box that is predicted
there (quality focal loss, arXiv 2006.04388): of the places that speak for an element, the one with
the best box is to be the surest.
"""

import jax
import jax.numpy as jnp
import optax

from diffvis_jax.grounding.head import UNIT, HeadConfig, corner_boxes

FOCUS, BALANCE = 2.0, 0.4  # gamma and alpha of the focal loss, arXiv 1708.02002
FILLED = 0.02  # usual share of places with an element


def grounding_loss(
    config: HeadConfig, answers: dict[str, jax.Array], batch: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of B frames and its parts, all float32 scalars.

    Args:
      config: of the head.
      answers: what the head returned.
      batch: targets as `targets.targets` makes them, stacked.
    """
    there, weight = batch["object"], batch["weight"]
    # Not by the number in this batch: a nearly empty one would outweigh hundreds of elements.
    positives = FILLED * there.size
    predicted, true = corner_boxes(config, answers["box"]), batch["box"]
    iou, giou = overlaps(predicted, true)

    wanted = there * jax.lax.stop_gradient(iou)
    probability = jax.nn.sigmoid(answers["object"])
    surprise = optax.sigmoid_binary_cross_entropy(answers["object"], wanted)
    wrong = jnp.abs(wanted - probability)
    balance = jnp.where(there > 0, BALANCE, 1 - BALANCE)
    found = (weight * balance * wrong**FOCUS * surprise).sum() / positives

    here = there * weight
    kind = optax.softmax_cross_entropy_with_integer_labels(answers["kind"], batch["kind"])
    kind = (here * kind).sum() / positives

    size = jnp.log(jnp.maximum(true[..., 2:] - true[..., :2], 1.0) / UNIT)
    off = jnp.abs(jnp.log(answers["box"][..., 2:] / UNIT) - size).sum(-1)
    box = (here * (1 - giou + 0.2 * off)).sum() / positives

    loss = 4 * found + 0.3 * kind + box
    return loss, {"loss": loss, "object": found, "kind": kind, "box": box}


def imitation_loss(scores: jax.Array, wanted: jax.Array) -> jax.Array:
    """How far the scores of all places are from a teacher's, with a focus on those that are far.

    Args:
      scores: logits `[B, h, w]`.
      wanted: probabilities `[B, h, w]`.
    """
    surprise = optax.sigmoid_binary_cross_entropy(scores, wanted)
    wrong = jnp.abs(wanted - jax.nn.sigmoid(scores))
    return (wrong**FOCUS * surprise).sum() / (FILLED * scores.size)


def overlaps(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """IoU, 0 to 1, and GIoU (arXiv 1902.09630), -1 to 1, of boxes `[..., 4]` by corners."""

    def area(box: jax.Array) -> jax.Array:
        sides = jnp.maximum(box[..., 2:] - box[..., :2], 0)
        return sides[..., 0] * sides[..., 1]

    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    shared = area(jnp.concatenate([low, high], -1))
    union = area(a) + area(b) - shared
    around = area(
        jnp.concatenate(
            [jnp.minimum(a[..., :2], b[..., :2]), jnp.maximum(a[..., 2:], b[..., 2:])], -1
        )
    )
    iou = shared / jnp.maximum(union, 1e-6)
    return iou, iou - (around - union) / jnp.maximum(around, 1e-6)
