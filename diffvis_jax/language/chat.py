"""A conversation whose texts come from anybody, as the ids that a model is given.

What users write never becomes a control token: a text may spell `<|im_end|>`, or the mark of an
image, and stays text.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from diffvis_jax.errors import PromptError
from diffvis_jax.language.prompt import (
    CONVERSATIONS,
    IMAGE_MARK,
    IMAGE_TOKEN,
    VIDEO_MARK,
    tokenize,
)
from diffvis_jax.language.tokenizer import Tokenizer

ROLES = ("system", "user", "assistant")


@dataclasses.dataclass(frozen=True)
class Message:
    """What one side said.

    Attributes:
      role: who.
      content: texts, and None for each picture, in order; a text alone may stand for a list of it.
    """

    role: Literal["system", "user", "assistant"]
    content: str | Sequence[str | None]

    @property
    def parts(self) -> list[str | None]:
        """The content as a list."""
        return [self.content] if isinstance(self.content, str) else list(self.content)


def render(
    messages: Sequence[Message], tokenizer: Tokenizer, *, conversation: str = "qwen_2"
) -> np.ndarray:
    """Ids of a conversation up to where the model answers, int32 `[L]`; -200 for each picture.

    Where no text spells a special token these are the ids of the whole prompt (`tokenize`).
    Messages of one side that follow each other are one, a line each.

    Args:
      messages: at most one of the system, which comes first; the last is the user's.
      conversation: one of `CONVERSATIONS`.

    Raises:
      PromptError: no message of the user at the end, an unknown role or template, a system message
        where the template has no place for one, or a picture that is not the user's.
    """
    if conversation not in CONVERSATIONS:
        raise PromptError(
            f"no conversation template {conversation!r}: there are {sorted(CONVERSATIONS)}"
        )
    template = CONVERSATIONS[conversation]
    system, turns = _turns(messages)
    if system is not None and not template.has_system:
        raise PromptError(f"the template {conversation!r} has no place for a system message")
    texts: list[str] = []

    def held(text: str) -> str:
        """A character that no text can spell in the place of one."""
        texts.append(text)
        return f"\ue000{len(texts) - 1}\ue001"

    bodies = []
    for parts in turns:
        body = ""
        for number, part in enumerate(parts):
            picture = part is None
            body += template.image if picture else held(_without_marks(part))
            body += template.after if picture and number + 1 < len(parts) else ""
        bodies.append(body)
    further = () if system is None else (held(_without_marks(system)),)
    prompt = template.conversation(bodies, *further)
    spelled = (*tokenizer.special, IMAGE_MARK, VIDEO_MARK)
    if not any(mark in text for text in texts for mark in spelled):
        return tokenize(_filled(prompt, texts), tokenizer)
    marks = {*tokenizer.special, IMAGE_MARK}
    pattern = "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))
    ids = list(tokenizer.start)
    for piece in re.split(f"({pattern})", prompt):
        if piece == IMAGE_MARK:
            ids.append(IMAGE_TOKEN)
        elif piece in marks:
            ids += tokenizer.encode(piece)
        elif piece:
            ids += tokenizer.encode_inert(_filled(piece, texts))
    return np.array(ids, np.int32)


def _turns(
    messages: Sequence[Message],
) -> tuple[str | None, list[list[str | None]]]:
    """The system's text, and what user and assistant said in turn, the user first and last."""
    if unknown := [m.role for m in messages if m.role not in ROLES]:
        raise PromptError(f"no role {unknown[0]!r}: there are {', '.join(ROLES)}")
    system, rest = None, list(messages)
    if rest and rest[0].role == "system":
        system = "".join(_text(part, "system") for part in rest.pop(0).parts)
    if any(m.role == "system" for m in rest):
        raise PromptError("a message of the system comes first, and once")
    turns: list[tuple[str, list[str | None]]] = []
    for message in rest:
        parts = message.parts
        if message.role == "assistant":
            for part in parts:
                _text(part, "assistant")
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(["\n", *parts])
        else:
            turns.append((message.role, parts))
    if not turns or turns[0][0] != "user" or turns[-1][0] != "user":
        raise PromptError("a conversation begins and ends with a message of the user")
    return system, [parts for _, parts in turns]


def _text(part: str | None, role: str) -> str:
    if part is None:
        raise PromptError(f"pictures are the user's: the {role} sent one")
    return part


def _without_marks(text: str) -> str:
    """The characters that stand for texts here are private ones without a meaning: no text keeps
    them."""
    return text.replace("\ue000", "").replace("\ue001", "")


def _filled(prompt: str, texts: Sequence[str]) -> str:
    return re.sub("\ue000([0-9]+)\ue001", lambda found: texts[int(found[1])], prompt)
