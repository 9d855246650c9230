"""The language side of a vision-language checkpoint: its names, its projector, its table.

Canonical names are those of the decoder itself (`embed_tokens`, `layers`, `norm`), `lm_head`, and
`projector.{i}` with the linear layers counted from 0. The destination tree is described at
`QwenConfig`. Source: transformers `modeling_qwen2.py`, haotian-liu/LLaVA `multimodal_projector`.
"""

import re
from collections.abc import Collection, Mapping

from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.checkpoints.keys.rules import Rule, count_blocks
from diffvis_jax.errors import CheckpointError
from diffvis_jax.language.config import QwenConfig

_DECODER = re.compile(
    r"(?:model\.)?(?:language_model\.)?(?:model\.)?"
    r"((?:embed_tokens|norm)\.weight|layers\.\d+\..+)"
)
_HEAD = re.compile(r"(?:model\.)?(?:language_model\.)?(lm_head\.weight)")
# `mm_projector` is a Sequential with a GELU between the linear layers: 0, 2, 4, ...
_SEQUENTIAL = re.compile(r"(?:model\.)?mm_projector\.(?:(\d{1,4})\.)?(weight|bias)")
_NUMBERED = re.compile(r"(?:model\.)?multi_modal_projector\.linear_(\d{1,4})\.(weight|bias)")

# Heads cannot be seen in shapes. width -> (heads, key-value heads) of the Qwen2 in FastVLM.
KNOWN_HEADS = {896: (14, 2), 1536: (12, 2), 3584: (28, 4)}


def canonical(name: str) -> str | None:
    """A tensor's full name -> canonical name, or None if no part of the language side."""
    if match := _DECODER.fullmatch(name) or _HEAD.fullmatch(name):
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
) -> QwenConfig:
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
    return QwenConfig(
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
        projector_input=vision_width,
    )


def rules(config: QwenConfig, names: Collection[str] = ()) -> list[Rule]:
    """The table for one language model and its projector; `names` do not matter here."""
    width = config.width
    table = [_move("embed_tokens.weight", "embed/embedding", (config.vocabulary, width))]
    for i in range(config.projector_layers):
        inputs = width if i else config.projector_input
        table += _linear(f"projector.{i}", f"projector/linear_{i}", inputs, width, bias=True)
    queries = config.heads * config.head_width
    keys = config.kv_heads * config.head_width
    for n in range(config.layers):
        source, target = f"layers.{n}", f"layer_{n}"
        norm = f"{source}.input_layernorm.weight"
        table.append(_move(norm, f"{target}/input_norm/scale", (width,)))
        for name, outputs in (("query", queries), ("key", keys), ("value", keys)):
            key, path = f"{source}.self_attn.{name[0]}_proj", f"{target}/attention/{name}"
            table += _linear(key, path, width, outputs, bias=config.qkv_bias)
        table += _linear(f"{source}.self_attn.o_proj", f"{target}/attention/output", queries, width)
        norm = f"{source}.post_attention_layernorm.weight"
        table.append(_move(norm, f"{target}/mlp_norm/scale", (width,)))
        hidden = config.mlp_width
        for name, inputs, outputs in (
            ("gate", width, hidden),
            ("up", width, hidden),
            ("down", hidden, width),
        ):
            table += _linear(f"{source}.mlp.{name}_proj", f"{target}/mlp/{name}", inputs, outputs)
    table.append(_move("norm.weight", "final_norm/scale", (width,)))
    if not config.tied:
        table += _linear("lm_head", "head", width, config.vocabulary)
    return table


def _move(source: str, target: str, shape: Shape) -> Rule:
    return Rule({source: shape}, {target: shape}, lambda t: (t[source],))


def _linear(source: str, target: str, inputs: int, outputs: int, bias: bool = False) -> list[Rule]:
    matrix = _move(f"{source}.weight", f"{target}/weight", (outputs, inputs))
    return [matrix, _move(f"{source}.bias", f"{target}/bias", (outputs,))] if bias else [matrix]
