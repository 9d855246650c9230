"""From a question to the ids that the decoder is given, as LLaVA writes them.

Source: haotian-liu/LLaVA `conversation.py` and `mm_utils.tokenizer_image_token`, apple/ml-fastvlm.
"""

from collections.abc import Callable, Sequence

import numpy as np

from diffvis_jax.errors import PromptError
from diffvis_jax.language.tokenizer import Tokenizer

IMAGE_TOKEN = -200  # stands for an image in input ids
IMAGE_MARK = "<image>"  # stands for an image in text


def build_prompt(
    question: str,
    *,
    conversation: str = "qwen_2",
    images: int = 1,
    turns: Sequence[tuple[str, str]] = (),
) -> str:
    """The text of a conversation up to where the model answers.

    Args:
      question: what is asked now.
      conversation: the template, one of `CONVERSATIONS`: "qwen_2" is FastVLM's, "vicuna_v1" that
        of LLaVA-1.5 and 1.6 with Vicuna, "mistral" that of LLaVA-1.6 with Mistral.
      images: how many images there are. Their marks are put in front of the first message, each on
        a line of its own, unless the messages have marks themselves.
      turns: earlier questions and answers.

    Raises:
      PromptError: an unknown template, or marks in the text that are not as many as the images.
    """
    if conversation not in CONVERSATIONS:
        raise PromptError(
            f"no conversation template {conversation!r}: there are {sorted(CONVERSATIONS)}"
        )
    messages = [*(text for turn in turns for text in turn), question]
    marks = sum(text.count(IMAGE_MARK) for text in messages)
    if marks not in (0, images):
        raise PromptError(f"the text has {marks} {IMAGE_MARK} marks for {images} images")
    if not marks:
        messages[0] = f"{IMAGE_MARK}\n" * images + messages[0]
    return CONVERSATIONS[conversation](messages)


def tokenize(prompt: str, tokenizer: Tokenizer) -> np.ndarray:
    """Ids of a prompt, int32 `[L]`; -200 at every image mark.

    Where the mark is a token (llava-hf), the prompt is tokenised whole; else the pieces between the
    marks are, each by itself (LLaVA). What the tokenizer puts before a text stands there once.

    Raises:
      PromptError: the tokenizer would cut the marks of the template like text, or does not begin a
        text as the template needs it.
    """
    if prompt.startswith((_VICUNA, _INSTRUCTION)) and not tokenizer.start:
        raise PromptError(
            "the tokenizer puts no special token (<s>) before a text, as the templates 'vicuna_v1' "
            "and 'mistral' need: the tokenizer.json or the template is another model's"
        )
    for mark in _QWEN_MARKS if prompt.startswith(_QWEN_MARKS[0]) else ():
        if len(tokenizer.encode(mark)) != 1:
            raise PromptError(
                f"the tokenizer has no token {mark!r}, which the template 'qwen_2' needs: the "
                "model's tokenizer_config.json or added_tokens.json is missing, or the template "
                "is another model's"
            )
    ids = list(tokenizer.start)
    mark = tokenizer.id_of(IMAGE_MARK)
    if mark is not None:
        ids += [IMAGE_TOKEN if i == mark else i for i in tokenizer.encode(prompt)]
        return np.array(ids, np.int32)
    for number, piece in enumerate(prompt.split(IMAGE_MARK)):
        ids += [IMAGE_TOKEN] * (number > 0) + tokenizer.encode(piece)
    return np.array(ids, np.int32)


_QWEN_MARKS = ("<|im_start|>", "<|im_end|>")


def _qwen_2(messages: Sequence[str]) -> str:
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for number, message in enumerate(messages):
        role = "assistant" if number % 2 else "user"
        text += f"<|im_start|>{role}\n{message}<|im_end|>\n"
    return f"{text}<|im_start|>assistant\n"


_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)


def _vicuna_v1(messages: Sequence[str]) -> str:
    text = _VICUNA
    for number, message in enumerate(messages):
        text += f"ASSISTANT: {message}</s>" if number % 2 else f"USER: {message} "
    return f"{text}ASSISTANT:"


_INSTRUCTION = "[INST] "


def _mistral(messages: Sequence[str]) -> str:
    text = ""
    for number, message in enumerate(messages):
        text += f" {message} </s>" if number % 2 else f"{_INSTRUCTION}{message} [/INST]"
    return text


def _plain(messages: Sequence[str]) -> str:
    return "".join(f"{message}\n" for message in messages)


CONVERSATIONS: dict[str, Callable[[Sequence[str]], str]] = {
    "qwen_2": _qwen_2,
    "vicuna_v1": _vicuna_v1,
    "mistral": _mistral,
    "plain": _plain,
}
