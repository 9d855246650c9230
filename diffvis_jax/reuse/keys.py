"""Digests that say when something computed before may be given again."""

import hashlib
from collections.abc import Sequence

import numpy as np

SIZE = 16  # bytes of a digest


def digest(*parts: bytes | str | int | float | np.ndarray | None) -> bytes:
    """BLAKE2b over parts of any kind, each with its kind and length, so that none runs into the
    next; arrays with shape and dtype."""
    found = hashlib.blake2b(digest_size=SIZE)
    for part in parts:
        if isinstance(part, np.ndarray):
            content, kind = np.ascontiguousarray(part).tobytes(), f"{part.dtype}{part.shape}"
        elif isinstance(part, bytes):
            content, kind = part, "bytes"
        else:
            content, kind = repr(part).encode(), type(part).__name__
        found.update(f"{kind} {len(content)}:".encode())
        found.update(content)
    return found.digest()


def feature_key(frame: np.ndarray, encoder: str) -> bytes:
    """Of the tokens of a frame.

    Args:
      frame: uint8 `[1, H, W, 3]`, as the tower takes it.
      encoder: of the weights' manifest, precision, preprocessing and version.
    """
    return digest("features", frame, encoder)


def answer_key(
    tenant: str,
    model: str,
    ids: np.ndarray,
    pictures: Sequence[bytes],
    sampling: Sequence[str | int | float | None],
) -> bytes:
    """Of an answer.

    Args:
      tenant: nothing is given to another one.
      model: of weights, precision and policy.
      ids: int32 `[L]`, the rendered prompt.
      pictures: a digest of the pixels of each picture.
      sampling: all that decides which ids are chosen, and how many.
    """
    return digest("answer", tenant, model, ids, *pictures, len(pictures), *sampling)
