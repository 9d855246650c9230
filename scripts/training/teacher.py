"""What a tower that finds elements already, FastViTHD, says of a crop: for the student to imitate.

Its maps say more about every place than labels do (hints, arXiv 1412.6550).
"""

import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import diffvis_jax as dv
from diffvis_jax.checkpoints.store import load_grounding, load_vision
from diffvis_jax.grounding.find import head_answers, map_names
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.towers import build
from diffvis_jax.towers.forward import read_out, run_layers

# Stages of the teacher that are imitated: by the two of the stem, and by the last block.
HINTS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A FastViTHD with its head, whose places are those of the student.

    Attributes:
      config, head: architectures.
    """

    config: dv.FastViTHDConfig
    head: HeadConfig

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the maps that are imitated."""
        return tuple(self.config.widths[stage] for stage in HINTS)

    @functools.partial(jax.jit, static_argnums=0)
    def __call__(self, params: dict[str, Any], pixels: jax.Array) -> dict[str, Any]:
        """Of crops `uint8 [B, s, s, 3]`: "hints", the maps `[B, h, w, C]`, less the mean of each
        channel and divided by its deviation if `params` has them ("hints", see `measured`), and
        "score", probabilities `[B, places]`."""
        config = self.config.resized(*pixels.shape[1:3])
        tower = build(config)
        maps = run_layers(params["tower"], pixels, tower)
        last = [max(n for n, layer in enumerate(tower.layers) if layer.stage == s) for s in HINTS]
        hints = [maps[tower.names[number]] for number in last]
        if "hints" in params:
            scales = params["hints"]
            hints = [
                (x - mean) / deviation for x, (mean, deviation) in zip(hints, scales, strict=True)
            ]
        tokens = read_out(params["tower"], maps[tower.names[-1]], tower)
        seen = tuple(maps[name] for name in map_names(config, self.head))
        answers = head_answers(params["head"], tokens, seen, config=self.head)
        return {"hints": hints, "score": jax.nn.sigmoid(answers["object"])}


def load_teacher(directory: Path) -> tuple[Teacher, dict[str, Any]]:
    """The teacher in a weight directory, and its parameters in float32.

    Raises:
      ValueError: another tower, or no head.
    """
    config, tower = load_vision(directory, "float32")
    if not isinstance(config, dv.FastViTHDConfig):
        raise ValueError(f"--teacher: {directory} holds no FastViTHD")
    head, params = load_grounding(directory)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    return Teacher(config, head), {"tower": tower, "head": params}


def measured(teacher: Teacher, params: dict[str, Any], crops: Iterable[Any]) -> dict[str, Any]:
    """The parameters with mean and deviation of each channel of the hints over these crops.

    Of many crops, not of each batch: what a place is to look like must not hang on its neighbours.
    """
    seen = [teacher(params, pixels)["hints"] for pixels in crops]
    maps = [jnp.concatenate([hints[number] for hints in seen]) for number in range(len(HINTS))]
    scales = [(x.mean((0, 1, 2)), x.std((0, 1, 2)) + 1e-3) for x in maps]
    return {**params, "hints": scales}
