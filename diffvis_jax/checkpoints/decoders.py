"""The families of decoders: what transformers' config classes say where a file is silent.

Their layers are the same (`language/decoder.py`); released files leave out what is the default.
"""

from typing import NamedTuple

from diffvis_jax.checkpoints.fields import Json


class Decoder(NamedTuple):
    """Defaults of one family.

    Attributes:
      conversation: the template of its LLaVA's prompts, see `language/prompt.py`.
      heads, kv_heads: None = files tell, or the weights' width does; as many as heads.
      context: positions.
      bos_id, eos_ids: None, empty = as `DecoderConfig` has it.
      window: positions that one attends to, itself among them; None = all.
      vocabulary: rows of the embedding that a model of that template has at most; None = any.
    """

    conversation: str
    heads: int | None
    kv_heads: int | None
    context: int
    bos_id: int | None
    eos_ids: tuple[int, ...]
    window: int | None
    vocabulary: int | None


# Llama's tokenizer has 32000 tokens, and models add some; Llama 3 and Yi have their own.
DECODERS = {
    "qwen2": Decoder("qwen_2", None, None, 8192, None, (), None, None),
    "llama": Decoder("vicuna_v1", 32, None, 2048, 1, (2,), None, 40000),
    "mistral": Decoder("mistral", 32, 8, 131072, 1, (2,), 4096, 40000),
}
# What stands in model_type of LLaVA's flat files, or of transformers' where text_config has none.
WRAPPERS = {
    "llava_qwen2": "qwen2",
    "llava_qwen": "qwen2",
    "fast_vlm": "qwen2",
    "llava": "llama",
    "llava_next": "llama",
    "llava_llama": "llama",
    "llava_mistral": "mistral",
}


def family_name(config: Json, text: Json) -> str:
    """The family of a model's decoder; Qwen2's where nothing tells.

    Args:
      config: the whole of config.json.
      text: the part about the decoder, which may be the whole.
    """
    for document in (text, config):
        kind = document.get("model_type")
        if isinstance(kind, str) and (name := WRAPPERS.get(kind, kind)) in DECODERS:
            return name
    return "qwen2"
