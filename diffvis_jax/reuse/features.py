"""Tokens of frames that were encoded before, in memory."""

import numpy as np

from diffvis_jax.errors import ConfigError


class FeatureCache:
    """Tokens by key, the least recently used go first.

    It may hold settled tokens alone (equal to those of a full encode): others are right for the
    stream that made them, and for no other.

    Attributes:
      hits, misses: since it was made.
    """

    def __init__(self, max_bytes: int):
        """Args:
          max_bytes: of tokens; 0 = nothing is kept.

        Raises:
          ConfigError: a negative number.
          ImportError: the extra `serve` is not installed.
        """
        if max_bytes < 0:
            raise ConfigError(f"max_bytes must be 0 or more, got {max_bytes}")
        try:
            from cachetools import LRUCache
        except ImportError as error:
            raise ImportError(
                "kept features need cachetools: pip install diffvis_jax[serve]"
            ) from error
        self.hits = self.misses = 0
        self._kept: LRUCache[bytes, np.ndarray] = LRUCache(max_bytes, getsizeof=_size)

    @property
    def nbytes(self) -> int:
        """Of all tokens that are kept."""
        return int(self._kept.currsize)

    def get(self, key: bytes) -> np.ndarray | None:
        """The tokens, read-only; None = they are not here."""
        found = self._kept.get(key)
        self.hits += found is not None
        self.misses += found is None
        return found

    def put(self, key: bytes, tokens: np.ndarray) -> bool:
        """Keeps settled tokens, float `[N, D]`, of which it makes a copy; whether there is room."""
        if tokens.nbytes > self._kept.maxsize:
            return False
        kept = np.array(tokens)
        kept.setflags(write=False)
        self._kept[key] = kept
        return True


def _size(tokens: np.ndarray) -> int:
    return tokens.nbytes
