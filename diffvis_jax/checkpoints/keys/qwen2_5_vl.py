"""Qwen2.5-VL's vision tower: how checkpoints name things, and which leaf is made of what.

There is one naming, behind different prefixes (`visual.`, `model.visual.`). The towers of Qwen2-VL
and Qwen3-VL share the name of the patch embedding, but have no gate in their feed-forward networks.
Source: transformers `modeling_qwen2_5_vl.py`.
"""

import math
import re
from collections.abc import Collection, Mapping

import numpy as np

from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.checkpoints.keys.rules import (
    Arrays,
    Rule,
    count_blocks,
    move,
    move_linear,
    split_query_kv,
)
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig

_PATCHES = "patch_embed.proj.weight"
# The tower begins where this is found; what comes before is the prefix.
ANCHORS = (_PATCHES,)
GATE = re.compile(r"blocks\.\d+\.mlp\.gate_proj\.weight")

_FRAMES = 2  # that a kernel of the patch embedding sees: of a still image, the same one twice
_PART = re.compile(r"patch_embed\..+|blocks\.\d+\..+|merger\..+")


def canonical(name: str) -> str | None:
    """A tensor's name after the prefix, or None if no part of the tower."""
    return name if _PART.fullmatch(name) else None


def infer_config(
    shapes: Mapping[str, Shape],
    heads: int,
    full_blocks: tuple[int, ...],
    window: int,
) -> Qwen25VisionConfig:
    """The architecture behind names and shapes.

    Args:
      heads, full_blocks, window: what no shape tells; see `Qwen25VisionConfig`.

    Raises:
      CheckpointError: the tensors do not add up to such a tower.
      ConfigError: they do not fit what shapes cannot tell.
    """
    patches = shapes.get(_PATCHES, ())
    gate = next((s for name, s in shapes.items() if GATE.fullmatch(name)), ())
    inner = shapes.get("merger.mlp.0.weight", ())
    tokens = shapes.get("merger.mlp.2.weight", ())
    merge = math.isqrt(inner[1] // patches[0]) if len(patches) == 5 and len(inner) == 2 else 0
    if len(gate) != 2 or len(tokens) != 2 or not merge:
        raise CheckpointError(
            f"the architecture cannot be inferred: patch embedding {list(patches)}, first gate "
            f"{list(gate)}, matrices of the merger {list(inner)} and {list(tokens)}"
        )
    token = patches[-1] * merge
    height, width = (side // token * token for side in Qwen25VisionConfig.size)
    return Qwen25VisionConfig(
        width=patches[0],
        depth=count_blocks(shapes, r"blocks\.(\d+)\."),
        heads=heads,
        mlp_width=gate[0],
        full_blocks=full_blocks,
        patch=patches[-1],
        merge=merge,
        window=window,
        token_width=tokens[0],
        size=(height, width),
    )


def rules(config: Qwen25VisionConfig, names: Collection[str] = ()) -> list[Rule]:
    """The table for one tower; `names` do not matter here."""
    width = config.width
    shape = (width, 3, _FRAMES, config.patch, config.patch)
    filters = {"run_0/embed/filters": (width, 3 * config.patch**2)}
    table = [Rule({_PATCHES: shape}, filters, _still)]
    for run in config.runs:
        if run.start:
            table += _block(config, run.start - 1, f"full_{run.start - 1}")
        for block in run:
            table += _block(config, block, f"run_{run.start}/block_{block}")
    inner = width * config.merge**2
    table.append(move(("merger.ln_q.weight", "merger/norm_scale", (width,))))
    table.append(move_linear("merger.mlp.0", "merger/fc1", inner, inner))
    table.append(move_linear("merger.mlp.2", "merger/fc2", inner, config.token_width))
    return table


def _still(t: Arrays) -> tuple[np.ndarray, ...]:
    """The kernels for two equal frames, as one matrix; in float32, or the sum would be rounded."""
    kernel = t[_PATCHES].astype(np.float32).sum(2)
    return (kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1),)


def _block(config: Qwen25VisionConfig, block: int, target: str) -> list[Rule]:
    source, width, hidden = f"blocks.{block}", config.width, config.mlp_width
    attention, mlp = f"{target}/attention", f"{target}/mlp"
    return [
        move((f"{source}.norm1.weight", f"{attention}/norm_scale", (width,))),
        split_query_kv(f"{source}.attn.qkv.weight", f"{source}.attn.qkv.bias", attention, width),
        move_linear(f"{source}.attn.proj", f"{attention}/output", width, width),
        move((f"{source}.norm2.weight", f"{mlp}/norm_scale", (width,))),
        _gate_and_up(f"{source}.mlp", f"{mlp}/fc1", width, hidden),
        move_linear(f"{source}.mlp.down_proj", f"{mlp}/fc2", hidden, width),
    ]


def _gate_and_up(source: str, target: str, inputs: int, outputs: int) -> Rule:
    """Two linear layers of the same inputs as one."""
    gate, up = f"{source}.gate_proj", f"{source}.up_proj"
    shapes: dict[str, Shape] = {"weight": (outputs, inputs), "bias": (outputs,)}
    return Rule(
        {f"{name}.{kind}": shape for name in (gate, up) for kind, shape in shapes.items()},
        {f"{target}/{kind}": (2 * outputs, *shape[1:]) for kind, shape in shapes.items()},
        lambda t: tuple(
            np.concatenate([t[f"{gate}.{kind}"], t[f"{up}.{kind}"]]) for kind in shapes
        ),
    )
