"""Rules by which published sets judge an action of an agent.

AgentNetBench: Wang et al. 2025 (OpenCUA), `evaluation/agentnetbench`. Multimodal-Mind2Web: Deng et
al. 2023, with the F1 of SQuAD over words.
"""

import math
from collections import Counter

import numpy as np
from numpy.typing import ArrayLike

from diffvis_jax.metrics.boxes import as_boxes, contains


def click_score(
    point: ArrayLike, boxes: ArrayLike, position: ArrayLike, size: tuple[int, int]
) -> float:
    """AgentNetBench: 1 in any box, and falling with the distance from the recorded click.

    `exp(-120 (d - 0.01 sqrt 2))`, at most 1, with d in shares of the image's sides.

    Args:
      point: x, y in pixels.
      boxes: `[K, 4]` in pixels.
      position: x, y in pixels of the recorded click.
      size: width and height of the image.
    """
    boxes, point = as_boxes(boxes).reshape(-1, 4), np.asarray(point, np.float64)
    if contains(boxes, point).any():
        return 1.0
    distance = np.hypot(*((point - np.asarray(position)) / np.asarray(size)))
    return min(1.0, math.exp(-120 * (distance - 0.01 * math.sqrt(2))))


def edit_similarity(a: str, b: str) -> float:
    """1 - Levenshtein distance over the longer length; 1 for two empty texts."""
    if not (a or b):
        return 1.0
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (letter != other))
    return 1 - row[-1] / max(len(a), len(b))


def same_text(a: str, b: str) -> bool:
    """AgentNetBench: a text is written rightly if its edit similarity is 0.8 or more."""
    return edit_similarity(a, b) >= 0.8


def word_f1(a: str, b: str) -> float:
    """Mind2Web's operation F1: over the words of action and value; 1 for two empty texts."""
    first, second = Counter(a.lower().split()), Counter(b.lower().split())
    if not (first or second):
        return 1.0
    return 2 * (first & second).total() / (first.total() + second.total())
