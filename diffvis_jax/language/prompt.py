"""From a question to the ids that the decoder is given, as the model's own code writes them.

Source: haotian-liu/LLaVA `conversation.py` and `mm_utils.tokenizer_image_token`, apple/ml-fastvlm,
the chat template of Qwen2.5-VL.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from diffvis_jax.errors import PromptError
from diffvis_jax.language.tokenizer import Tokenizer

IMAGE_TOKEN = -200  # stands for an image in input ids
IMAGE_MARK = "<image>"  # stands for an image in text
VIDEO_MARK = "<|video_pad|>"  # stands for a video in Qwen2.5-VL's
NO_VIDEOS = f"videos are not supported: give frames of it as images ({IMAGE_MARK})"


def build_prompt(
    question: str,
    *,
    conversation: str = "qwen_2",
    images: int = 1,
    turns: Sequence[tuple[str, str]] = (),
    numbered: bool = False,
) -> str:
    """The text of a conversation up to where the model answers.

    Args:
      question: what is asked now.
      conversation: the template, one of `CONVERSATIONS`: a model names its own
        (`DecoderConfig.conversation`).
      images: how many images there are. Their marks are put in front of the first message, unless
        the messages have marks themselves.
      turns: earlier questions and answers.
      numbered: whether each image is given its number in the text ("Picture 1: "); of
        "qwen_2_5_vl" alone, whose `add_vision_id` this is.

    Raises:
      PromptError: an unknown template, one that numbers no images, or marks in the text that are
        not as many as the images.
    """
    if not conversation:
        raise PromptError(
            "this model's files do not tell how it is talked to: name a conversation template, of "
            f"{sorted(CONVERSATIONS)}"
        )
    if conversation not in CONVERSATIONS:
        raise PromptError(
            f"no conversation template {conversation!r}: there are {sorted(CONVERSATIONS)}"
        )
    template = CONVERSATIONS[conversation]
    if numbered and not template.number:
        raise PromptError(f"the template {conversation!r} gives images no numbers")
    messages = [*(text for turn in turns for text in turn), question]
    marks = sum(text.count(IMAGE_MARK) for text in messages)
    if marks not in (0, images):
        raise PromptError(f"the text has {marks} {IMAGE_MARK} marks for {images} images")
    if not marks:
        messages[0] = f"{IMAGE_MARK}{template.after}" * images + messages[0]
    count = itertools.count(1)

    def image(_: re.Match) -> str:
        return (template.number.format(next(count)) if numbered else "") + template.image

    return template.conversation([re.sub(IMAGE_MARK, image, text) for text in messages])


def tokenize(prompt: str, tokenizer: Tokenizer) -> np.ndarray:
    """Ids of a prompt, int32 `[L]`; -200 at every image mark.

    Where the mark is a token (llava-hf), the prompt is tokenised whole; else the pieces between the
    marks are, each by itself (LLaVA). What the tokenizer puts before a text stands there once.

    Raises:
      PromptError: the tokenizer would cut the marks of the template like text, or does not begin a
        text as the template needs it; or a place for a video.
    """
    if VIDEO_MARK in prompt and tokenizer.id_of(VIDEO_MARK) is not None:
        raise PromptError(f"the prompt holds {VIDEO_MARK}, a place for a video; {NO_VIDEOS}")
    if prompt.startswith((_VICUNA, _INSTRUCTION)) and not tokenizer.start:
        raise PromptError(
            "the tokenizer puts no special token (<s>) before a text, as the templates 'vicuna_v1' "
            "and 'mistral' need: the tokenizer.json or the template is another model's"
        )
    marks = [mark for mark in _QWEN_MARKS if mark in prompt]
    for mark in marks if prompt.startswith(_QWEN_MARKS[0]) else ():
        if len(tokenizer.encode(mark)) != 1:
            raise PromptError(
                f"the tokenizer has no token {mark!r}, which the template needs: the "
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


_QWEN_MARKS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


def _qwen_2(messages: Sequence[str], system: str = "You are a helpful assistant.") -> str:
    text = f"<|im_start|>system\n{system}<|im_end|>\n"
    for number, message in enumerate(messages):
        role = "assistant" if number % 2 else "user"
        text += f"<|im_start|>{role}\n{message}<|im_end|>\n"
    return f"{text}<|im_start|>assistant\n"


_VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


def _vicuna_v1(messages: Sequence[str], system: str = _VICUNA) -> str:
    text = f"{system} "
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


class Template(NamedTuple):
    """How a model is talked to.

    Attributes:
      conversation: the messages of user and assistant in turn -> the prompt; where there may be a
        message of the system, it is the second argument.
      after: what follows each image in front of a message.
      image: what stands for an image, `IMAGE_MARK` in it.
      number: what may stand before it, with its number, from 1; empty = nothing may.
      has_system: whether there may be a message of the system.
    """

    conversation: Callable[..., str]
    after: str = "\n"
    image: str = IMAGE_MARK
    number: str = ""
    has_system: bool = False


CONVERSATIONS: dict[str, Template] = {
    "qwen_2": Template(_qwen_2, has_system=True),
    "qwen_2_5_vl": Template(
        _qwen_2, "", f"<|vision_start|>{IMAGE_MARK}<|vision_end|>", "Picture {}: ", has_system=True
    ),
    "vicuna_v1": Template(_vicuna_v1, has_system=True),
    "mistral": Template(_mistral),
    "plain": Template(_plain),
}
