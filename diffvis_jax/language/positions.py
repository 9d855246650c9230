"""Positions on three axes (M-RoPE): where text and image tokens stand for the rotary embedding.

Text counts on along all axes at once. An image stands at one time, and its tokens in rows and
columns; what follows it begins after its longer side. So a rotary position is not the number of a
slot: which keys are seen hangs on the slot alone. Source: Qwen2-VL (arXiv 2409.12191).
"""

from collections.abc import Sequence

import numpy as np

from diffvis_jax.errors import PromptError

Grid = tuple[int, int]  # (rows, columns) of an image's tokens


def mrope_positions(image: np.ndarray, grids: Sequence[Grid]) -> np.ndarray:
    """Time, row and column of every position of some prompts.

    Args:
      image: int32 `[B, T]`, the row among all images' tokens; -1 where there is none.
      grids: of all images, in order.

    Returns:
      int32 `[B, T, 3]`.
    """
    ends = np.cumsum([rows * columns for rows, columns in grids], dtype=np.int64)
    found = np.empty((*image.shape, 3), np.int32)
    for b, sources in enumerate(image):
        at, counter = 0, 0
        while at < len(sources):
            if sources[at] < 0:
                found[b, at], counter, at = counter, counter + 1, at + 1
                continue
            number = int(np.searchsorted(ends, sources[at], side="right"))
            rows, columns = grids[number]
            row, column = np.divmod(np.arange(rows * columns), columns)
            places = np.stack([np.zeros_like(row), row, column], -1)[: len(sources) - at]
            found[b, at : at + len(places)] = counter + places
            counter, at = counter + max(rows, columns), at + len(places)
    return found


def collapsed(
    ids: np.ndarray, pad_id: int | None, place: int, tokens: Sequence[int], first: int
) -> np.ndarray:
    """Ids in which every run of an image's placeholders is one place for it.

    Args:
      ids: int32 `[L]` of one prompt.
      pad_id: what stands for each token of an image; None = there is no such id.
      place: what stands for an image.
      tokens: of each image that is left, in order.
      first: number of the first of those, for messages.

    Raises:
      PromptError: a run of another length than its image has tokens.
    """
    if pad_id is None or not (ids == pad_id).any():
        return ids
    pieces, seen, at = [], 0, 0
    while at < len(ids):
        if ids[at] != pad_id:
            seen += ids[at] == place
            pieces.append(ids[at : at + 1])
            at += 1
            continue
        run = int((np.cumsum(ids[at:] != pad_id) == 0).sum())
        if seen >= len(tokens):
            raise PromptError(f"a run of {run} ids {pad_id} stands for an image that is not there")
        if run != tokens[seen]:
            raise PromptError(
                f"image {first + seen} has {tokens[seen]} tokens, but {run} ids {pad_id} stand for "
                f"it in input_ids: write {tokens[seen]} of them, or {place} once"
            )
        pieces.append(np.array([place], np.int32))
        seen, at = seen + 1, at + run
    return np.concatenate(pieces)
