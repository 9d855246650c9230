"""Tokens for an engine beyond this machine, from an encoder of its own that only ever sees masked
frames: attention spreads every pixel over all tokens, so masking tokens would hide nothing."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from diffvis_jax.providers.chat import Tokens


class MaskedTokens:
    """One stream: the pictures of one conversation, for one provider."""

    def __init__(
        self,
        encode: Callable[[np.ndarray], np.ndarray],
        reset: Callable[[], None],
        identity: bytes = b"",
    ):
        """Args:
        encode: the next frame, `uint8 [H, W, 3]` of any size -> projected tokens `[N, D]`.
        reset: makes the next encode a full one.
        identity: of weights and policy.
        """
        self._encode, self._reset, self._identity = encode, reset, identity
        self._hidden: np.ndarray | None = None  # in the frame that was encoded last
        self._state = b""
        self._kept: dict[bytes, Tokens] = {}

    def of(self, frames: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[Tokens]:
        """Tokens of the pictures of a conversation, in order; of those shown before, as they were.
        `frames`: the masked pixels `uint8 [H, W, 3]`, and which are masked, bool `[H, W]`."""
        kept, found = {}, []
        for pixels, hidden in frames:
            shape = repr(pixels.shape).encode()
            key = hashlib.blake2b(shape + pixels.tobytes() + np.packbits(hidden).tobytes()).digest()
            kept[key] = kept.get(key) or self._kept.get(key) or self._next(pixels, hidden, key)
            found.append(kept[key])
        self._kept = kept
        return found

    def _next(self, pixels: np.ndarray, hidden: np.ndarray, key: bytes) -> Tokens:
        before, self._hidden = self._hidden, None  # should the encoder fail
        # What a margin leaves out, and what is pending, would still be of what stood there before.
        if before is None or before.shape != hidden.shape or (hidden & ~before).any():
            self._reset()
            self._state = b""
        array = np.asarray(self._encode(pixels))
        self._hidden = hidden
        self._state = hashlib.blake2b(self._state + key + self._identity).digest()
        return Tokens(array, self._state.hex()[:64])
