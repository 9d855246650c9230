"""The language side of a vision-language checkpoint: its names, its projector, its table.

Canonical names are those of the decoder itself (`embed_tokens`, `layers`, `norm`), `lm_head`,
`image_newline`, and `projector.{i}` with the linear layers counted from 0. The destination tree is
described at `DecoderConfig`. Source: transformers `modeling_qwen2.py`, haotian-liu/LLaVA
`multimodal_projector`.
"""

import re
from collections.abc import Collection, Mapping

from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.checkpoints.keys.rules import Rule, count_blocks, move, move_linear
from diffvis_jax.errors import CheckpointError
from diffvis_jax.language.config import DecoderConfig

_DECODER = re.compile(
    r"(?:model\.)?(?:language_model\.)?(?:model\.)?"
    r"((?:embed_tokens|norm)\.weight|layers\.\d+\..+)"
)
_HEAD = re.compile(r"(?:model\.)?(?:language_model\.)?(lm_head\.weight)")
# `mm_projector` is a Sequential with a GELU between the linear layers: 0, 2, 4, ...
_SEQUENTIAL = re.compile(r"(?:model\.)?mm_projector\.(?:(\d{1,4})\.)?(weight|bias)")
_NUMBERED = re.compile(r"(?:model\.)?multi_modal_projector\.linear_(\d{1,4})\.(weight|bias)")

_NEWLINE = re.compile(r"(?:model\.)?(image_newline)")

# Heads cannot be seen in shapes. width -> (heads, key-value heads) of the Qwen2 in FastVLM.
KNOWN_HEADS = {896: (14, 2), 1536: (12, 2), 3584: (28, 4)}


def canonical(name: str) -> str | None:
    """A tensor's full name -> canonical name, or None if no part of the language side."""
    if match := _DECODER.fullmatch(name) or _HEAD.fullmatch(name) or _NEWLINE.fullmatch(name):
        return match[1]
    if match := _SEQUENTIAL.fullmatch(name):
        index = int(match[1] or 0)
        # An odd place is an activation's: keep it apart, so that it is reported as unknown.
        return f"projector.{index // 2 if index % 2 == 0 else f'odd_{index}'}.{match[2]}"
    if match := _NUMBERED.fullmatch(name):
        return f"projector.{int(match[1]) - 1}.{match[2]}"
    return None


def infer_config(
    shapes: Mapping[str, Shape], heads: tuple[int, int] | None, vision_width: int
) -> DecoderConfig:
    """The architecture behind canonical names and shapes.

    Args:
      heads: (heads, key-value heads) where a config file tells.
      vision_width: channels of a vision token.

    Raises:
      CheckpointError: the tensors do not add up to such a model, or the heads are unknown.
    """

    def shape(pattern: str) -> Shape:
        found = next((s for k, s in shapes.items() if re.fullmatch(pattern, k)), ())
        if len(found) != 2:
            raise CheckpointError(f"language model: no matrix named {pattern}")
        return found

    vocabulary, width = shape(r"embed_tokens\.weight")
    query = shape(r"layers\.\d+\.self_attn\.q_proj\.weight")[0]
    key = shape(r"layers\.\d+\.self_attn\.k_proj\.weight")[0]
    heads = heads or KNOWN_HEADS.get(width)
    if heads is None:
        raise CheckpointError(
            f"language model: a width of {width} does not tell the number of heads; put the "
            "model's config.json beside its weights, or convert with --vision-only"
        )
    if query % heads[0] or query // heads[0] * heads[1] != key:
        raise CheckpointError(
            f"language model: {heads[0]} heads and {heads[1]} key-value heads do not fit queries "
            f"of width {query} and keys of width {key}"
        )
    return DecoderConfig(
        vocabulary=vocabulary,
        width=width,
        layers=count_blocks(shapes, r"layers\.(\d+)\."),
        heads=heads[0],
        kv_heads=heads[1],
        head_width=query // heads[0],
        mlp_width=shape(r"layers\.\d+\.mlp\.gate_proj\.weight")[0],
        qkv_bias=any(name.endswith(".q_proj.bias") for name in shapes),
        tied="lm_head.weight" not in shapes,
        projector_layers=count_blocks(shapes, r"projector\.(\d+)\."),
        image_newline="image_newline" in shapes,
        projector_input=vision_width,
    )


def rules(config: DecoderConfig, names: Collection[str] = ()) -> list[Rule]:
    """The table for one language model and its projector; `names` do not matter here."""
    width, hidden = config.width, config.mlp_width
    table = [move(("embed_tokens.weight", "embed/embedding", (config.vocabulary, width)))]
    for i in range(config.projector_layers):
        inputs = width if i else config.projector_input
        table.append(move_linear(f"projector.{i}", f"projector/linear_{i}", inputs, width))
    if config.image_newline:
        table.append(move(("image_newline", "projector/image_newline", (width,))))
    queries = config.heads * config.head_width
    keys = config.kv_heads * config.head_width
    for n in range(config.layers):
        source, target = f"layers.{n}", f"layer_{n}"
        for norm, path in (("input", "input"), ("post_attention", "mlp")):
            scale = f"{source}.{norm}_layernorm.weight"
            table.append(move((scale, f"{target}/{path}_norm/scale", (width,))))
        for name, path, inputs, outputs, bias in (
            ("self_attn.q", "attention/query", width, queries, config.qkv_bias),
            ("self_attn.k", "attention/key", width, keys, config.qkv_bias),
            ("self_attn.v", "attention/value", width, keys, config.qkv_bias),
            ("self_attn.o", "attention/output", queries, width, False),
            ("mlp.gate", "mlp/gate", width, hidden, False),
            ("mlp.up", "mlp/up", width, hidden, False),
            ("mlp.down", "mlp/down", hidden, width, False),
        ):
            key = f"{source}.{name}_proj"
            table.append(move_linear(key, f"{target}/{path}", inputs, outputs, bias=bias))
    table.append(move(("norm.weight", "final_norm/scale", (width,))))
    if not config.tied:
        table.append(move_linear("lm_head", "head", width, config.vocabulary, bias=False))
    return table
