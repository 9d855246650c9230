"""The only way to a provider beyond this machine: what may leave, as it may leave.

In this order: regions are checked and pixels masked at their own resolution, before anything else
is made of them; marks are put into texts; pictures are written anew.
"""

from collections.abc import Sequence

import numpy as np

from diffvis_jax.providers.chat import SEAL, Chat, Cleared, Message, Part, Picture, Text, Tokens
from diffvis_jax.route import regions
from diffvis_jax.route.classify import Words
from diffvis_jax.route.decide import Decision
from diffvis_jax.route.labels import Screen, StaysHere
from diffvis_jax.route.marks import Finder, replaced
from diffvis_jax.route.masked_tokens import MaskedTokens
from diffvis_jax.route.settings import GuardSettings


def clear(
    chat: Chat,
    decision: Decision,
    screens: Sequence[Screen],
    settings: GuardSettings,
    words: Words,
    find: Finder,
    stream: MaskedTokens | None = None,
) -> Cleared:
    """What of a conversation may go to `decision.target`; the only maker of `Cleared`.

    Args:
      screens: of the pictures of the conversation, in order.
      find: what is looked for in texts.
      stream: for a provider that takes tokens in the place of pictures.

    Raises:
      StaysHere: it may not leave.
    """
    if decision.send == "nothing":
        raise StaysHere("the rules send nothing")
    if any(isinstance(part, Tokens) for part in chat.parts):
        raise StaysHere("tokens hold all that their pictures show")
    pictures = [part for part in chat.parts if isinstance(part, Picture)]
    if len(screens) != len(pictures):
        raise StaysHere(f"{len(screens)} lists of regions for {len(pictures)} pictures")
    frames = [_masked(*each, settings, words) for each in zip(pictures, screens, strict=True)]
    texts = [part.text for part in chat.parts if isinstance(part, Text)]
    if words.block_pii and any(map(find, texts)):
        raise StaysHere("personal data in a text")
    texts, marks = replaced(texts, find)
    if stream is not None:
        shown: list[list[Part]] = [[tokens] for tokens in stream.of(frames)]
    elif decision.send == "changes":
        shown = _changes([pixels for pixels, _ in frames], settings.keyframe_every)
    else:
        shown = [[_picture(pixels)] for pixels, _ in frames]
    instead = {Text: iter([Text(text)] for text in texts), Picture: iter(shown)}
    messages = []
    for message in chat.messages:
        parts = [new for part in message.parts for new in next(instead[type(part)])]
        messages.append(Message(message.role, tuple(parts)))
    pixels = sum(hidden.size for _, hidden in frames)
    share = sum(int(hidden.sum()) for _, hidden in frames) / max(pixels, 1)
    return Cleared(SEAL, Chat(tuple(messages)), decision.target, marks, share)


def _masked(
    picture: Picture, screen: Screen, settings: GuardSettings, words: Words
) -> tuple[np.ndarray, np.ndarray]:
    if screen.regions is None and settings.require_regions:
        raise StaysHere("a picture without a list of regions")
    hidden = filter(words.hides, screen.regions or ())
    boxes = [regions.pixel_box(region, screen, picture.size) for region in hidden]
    pixels = regions.open_pixels(picture.png, picture.size)
    return regions.mask(pixels, boxes, settings.margin_px)


def _picture(pixels: np.ndarray) -> Picture:
    return Picture(regions.write_png(pixels), (pixels.shape[1], pixels.shape[0]))


def _changes(frames: Sequence[np.ndarray], keyframe_every: int) -> list[list[Part]]:
    """Of each frame what differs from the one before, or all of it. They are compared masked: where
    something changes under a mask would tell that somebody types there."""
    shown: list[list[Part]] = []
    for number, after in enumerate(frames):
        before, parts = frames[number - 1], []
        if number % keyframe_every == 0 or before.shape != after.shape:
            parts.append(_picture(after))
        else:
            for left, top, right, bottom in regions.changed_boxes(before, after):
                parts.append(Text(f"[The screen has changed at left {left}, top {top}:]"))
                parts.append(_picture(after[top:bottom, left:right]))
        shown.append(parts or [Text("[The screen has not changed.]")])
    return shown
