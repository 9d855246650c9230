"""CLIP's and SigLIP's vision towers: how checkpoints name things, and which leaf is made of what.

Two namings are understood: Hugging Face's (`embeddings`, `encoder.layers`), the canonical one
here, and OpenAI's, also OpenCLIP's (`conv1`, `transformer.resblocks`), with packed query, key and
value. Sources: transformers `modeling_clip.py`, `modeling_siglip.py`; openai/CLIP `clip/model.py`.
"""

import dataclasses
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
    move_norm,
    split_query_kv,
)
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers.clip import CLIPConfig

# The tower begins where one of these is found; what comes before is the prefix.
ANCHORS = ("embeddings.patch_embedding.weight", "conv1.weight")

_HUGGING_FACE = re.compile(r"(embeddings|pre_layrnorm|post_layernorm|encoder\.layers)\..*")
_OPENAI = (
    (r"class_embedding", "embeddings.class_embedding"),
    (r"conv1\.weight", "embeddings.patch_embedding.weight"),
    (r"positional_embedding", "embeddings.position_embedding.weight"),
    (r"ln_pre\.", "pre_layrnorm."),
    (r"ln_post\.", "post_layernorm."),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.", r"encoder.layers.\1.layer_norm\2."),
    # The packed projection keeps its name: it is read as one tensor.
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_", r"encoder.layers.\1.self_attn.in_proj_"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"encoder.layers.\1.mlp.fc1."),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"encoder.layers.\1.mlp.fc2."),
    (r"proj", "projection"),  # [D, E]; Hugging Face stores the transpose as a Linear
)


def canonical(name: str) -> str | None:
    """A tensor's name after the prefix -> Hugging Face's name, or None if no part of the tower."""
    if _HUGGING_FACE.fullmatch(name):
        return name
    for pattern, replacement in _OPENAI:
        whole = not pattern.endswith((r"\.", "_"))
        match = (re.fullmatch if whole else re.match)(pattern, name)
        if match:
            return match.expand(replacement) + name[match.end() :]
    return None


def infer_config(shapes: Mapping[str, Shape], heads: int | None) -> CLIPConfig:
    """The architecture behind canonical names and shapes; what shapes cannot tell is CLIP's or
    SigLIP's default.

    Raises:
      CheckpointError: the tensors do not add up to such a tower.
    """
    patch_shape = shapes.get("embeddings.patch_embedding.weight", ())
    position = shapes.get("embeddings.position_embedding.weight", ())
    fc1 = next((s for k, s in shapes.items() if k.endswith("mlp.fc1.weight")), ())
    layers = count_blocks(shapes, r"encoder\.layers\.(\d+)\.")
    if len(patch_shape) != 4 or len(position) != 2 or len(fc1) != 2 or not layers:
        raise CheckpointError(
            "the architecture cannot be inferred: patch embedding "
            f"{list(patch_shape)}, position embedding {list(position)}, "
            f"first MLP matrix {list(fc1)}, {layers} layers"
        )
    width, _, patch, _ = patch_shape
    class_token = "embeddings.class_embedding" in shapes or "pre_layrnorm.weight" in shapes
    grid = math.isqrt(max(position[0] - class_token, 0))
    if grid * grid != position[0] - class_token or not grid:
        raise CheckpointError(f"{position[0]} positions are no square grid of patches")
    projection = shapes.get("projection") or shapes.get("visual_projection.weight", (0, 0))[::-1]
    if heads is None:
        # Every released tower has heads of 64, but for SigLIP's so400m: 16 of 72.
        heads = 16 if width == 1152 else max(width // 64, 1)
    config = CLIPConfig(
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=fc1[0],
        patch=patch,
        size=patch * grid,
        projection_width=projection[-1] if projection else 0,
    )
    if class_token:
        return config
    half = (0.5, 0.5, 0.5)
    return dataclasses.replace(
        config,
        activation="gelu_pytorch_tanh",
        norm_epsilon=1e-6,
        class_token=False,
        patch_bias="embeddings.patch_embedding.bias" in shapes,
        mean=half,
        std=half,
        pad_color=(127, 127, 127),
        resize_mode="squash",
    )


def rules(config: CLIPConfig, names: Collection[str] = ()) -> list[Rule]:
    """The table for one tower.

    Args:
      names: canonical names of the tensors there are; they tell packed from separate query, key
        and value, and the two ways to store the projection.
    """
    width, patch = config.width, config.patch
    kernel = "embeddings.patch_embedding.weight"
    position = "embeddings.position_embedding.weight"
    table = [
        Rule(
            {kernel: (width, 3, patch, patch)},
            {"embed/patch/weight": (width, patch * patch * 3)},
            # [D, I, H, W] -> columns in the order H, W, I, as the pixels of a patch lie in memory
            lambda t: (t[kernel].transpose(0, 2, 3, 1).reshape(width, -1),),
        ),
        move((position, "embed/position", (config.length, width))),
    ]
    if config.patch_bias:
        table.append(move(("embeddings.patch_embedding.bias", "embed/patch/bias", (width,))))
    if config.class_token:
        table.append(move(("embeddings.class_embedding", "embed/class_token", (width,))))
        table.append(move_norm("pre_layrnorm", "embed", width))
    for layer in range(config.layers):
        source, target = f"encoder.layers.{layer}", f"block_{layer}"
        table.append(move_norm(f"{source}.layer_norm1", f"{target}/attention", width))
        packed = f"{source}.self_attn.in_proj_weight" in names
        table.append(_query_key_value(f"{source}.self_attn", f"{target}/attention", width, packed))
        output = f"{target}/attention/output"
        table.append(move_linear(f"{source}.self_attn.out_proj", output, width, width))
        table.append(move_norm(f"{source}.layer_norm2", f"{target}/mlp", width))
        hidden = config.mlp_width
        table.append(move_linear(f"{source}.mlp.fc1", f"{target}/mlp/fc1", width, hidden))
        table.append(move_linear(f"{source}.mlp.fc2", f"{target}/mlp/fc2", hidden, width))
    table.append(move_norm("post_layernorm", "post", width))
    if config.projection_width:
        table.append(_projection(width, config.projection_width, "projection" in names))
    return table


def _query_key_value(source: str, target: str, width: int, packed: bool) -> Rule:
    unpacked = split_query_kv(f"{source}.in_proj_weight", f"{source}.in_proj_bias", target, width)
    if packed:
        return unpacked
    query, key, value = (f"{source}.{name}_proj" for name in "qkv")

    def join(t: Arrays) -> tuple[np.ndarray, ...]:
        kv = np.concatenate([t[f"{key}.weight"], t[f"{value}.weight"]])
        bias = np.concatenate([t[f"{key}.bias"], t[f"{value}.bias"]])
        return t[f"{query}.weight"], t[f"{query}.bias"], kv, bias

    sources: dict[str, Shape] = {}
    for name in (query, key, value):
        sources |= {f"{name}.weight": (width, width), f"{name}.bias": (width,)}
    return Rule(sources, unpacked.targets, join)


def _projection(width: int, embedding: int, matrix: bool) -> Rule:
    """To the joint text-image space: a bare matrix (OpenAI) or a Linear's weight."""
    if not matrix:
        return move_linear("visual_projection", "projection", width, embedding, bias=False)
    targets = {"projection/weight": (embedding, width)}
    return Rule({"projection": (width, embedding)}, targets, lambda t: (t["projection"].T,))
