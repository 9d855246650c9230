"""Our vision tokens into vLLM, which then reads, keeps and continues them.

vLLM takes tensors from callers that it trusts: it must be 0.32 or later, on this machine or a
private network, with this process its only caller, and a key set.
"""

import base64
import io
from typing import Any, Literal

import numpy as np

from diffvis_jax.providers.chat import Part, Text, Tokens
from diffvis_jax.providers.openai_like import OpenAILike
from diffvis_jax.providers.torch_file import torch_bytes


class VLLMTokens(OpenAILike):
    """A client of a vLLM that is given tokens in the place of pictures.

    Attributes:
      layout: "prompt_embeds" for a language model alone (FastVLM's exported Qwen2, served with
        --enable-prompt-embeds), spliced where they stand; "image_embeds" for a model that has a
        place for pictures (LLaVA, served with --enable-mm-embeds).
    """

    takes = frozenset({Text, Tokens})

    def __init__(
        self,
        name: str,
        base_url: str,
        model: str,
        *,
        layout: Literal["prompt_embeds", "image_embeds"] = "prompt_embeds",
        **options: Any,
    ):
        """`layout`: see the class; `options`: of `OpenAILike`."""
        super().__init__(name, base_url, model, dialect="vllm", **options)
        self.layout = layout

    def _part(self, part: Part) -> dict[str, Any]:
        if isinstance(part, Text):  # vLLM refuses texts that spell the mark of a part
            text = part.text.replace("<prompt_embeds>", "< prompt_embeds>")
            return {"type": "text", "text": text}
        assert isinstance(part, Tokens)
        if self.layout == "prompt_embeds":
            data = base64.b64encode(torch_bytes(part.array)).decode()
            return {"type": "prompt_embeds", "data": data}
        file, half = io.BytesIO(), part.array.dtype == np.float16
        array = part.array if half else part.array.astype(np.float32)  # .npy has no bfloat16
        np.save(file, array, allow_pickle=False)
        data = base64.b64encode(file.getvalue()).decode()
        return {"type": "image_embeds", "image_embeds": data, "uuid": part.digest}


def sticky(sent: np.ndarray | None, new: np.ndarray, tolerance: float) -> np.ndarray:
    """The tokens to send, so that vLLM keeps the blocks of its prefix that hold the same bits.

    Args:
      sent: those sent last, float `[N, D]`; None = there were none.
      new: `[N, D]`; sent as they are where shape or dtype is another.
      tolerance: how far a token may have moved since it was sent and still be sent as it was: its
        largest difference relative to the RMS of what was sent, as `PrefillPolicy.tolerance`.
    """
    if sent is None or sent.shape != new.shape or sent.dtype != new.dtype:
        return new
    before, after = sent.astype(np.float32), new.astype(np.float32)
    scale = np.sqrt(np.mean(np.square(before), axis=-1))
    moved = np.abs(after - before).max(axis=-1) > tolerance * scale
    return np.where(moved[:, None], new, sent)
