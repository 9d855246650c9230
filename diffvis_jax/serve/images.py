"""Pictures of requests: from `data:` URLs to frames at the model's size.

What is known is not done again: encoded bytes that were seen give the frame that they gave, and of
a picture that resembles the last one of its kind only the lines that changed are resized. Nothing
is ever fetched. Runs in threads; calls no device.
"""

import base64
import binascii
import dataclasses
import hashlib
import io
import re
import threading
import time
from typing import Any, Literal

import numpy as np
from cachetools import LRUCache

from diffvis_jax.errors import DiffvisError
from diffvis_jax.images.anyres import Frame, TiledImage, make_frame, pixels_of
from diffvis_jax.images.frame_stream import FrameStream
from diffvis_jax.images.preprocess import upright_rgb
from diffvis_jax.serve.protocol import ApiError

_HEAD = re.compile(r"data:[\w.+-]*/?[\w.+-]*((?:;[\w.+=-]*)*),", re.ASCII)
_FORMATS = ("PNG", "JPEG", "WEBP")
_STREAMS = 16  # pictures that others are compared with, of some 12 MB each


@dataclasses.dataclass(frozen=True)
class ImageLimits:
    """What is refused.

    Attributes:
      encoded_mb: of a file, in 10^6 bytes.
      megapixels, side: of a picture, in 10^6 pixels and in pixels.
    """

    encoded_mb: float = 8
    megapixels: float = 16
    side: int = 8192


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture as the model sees it.

    Attributes:
      digest: of the frame.
      frame: read-only.
      source: "known": the same bytes were seen; "same": the same pixels as the last one;
        "resized": lines that are not those of that one were resized.
      decode_ms, resize_ms: what it took.
    """

    digest: bytes
    frame: Frame
    source: Literal["known", "same", "resized"]
    decode_ms: float = 0.0
    resize_ms: float = 0.0


class PictureReader:
    """Reads pictures; may be called from several threads."""

    def __init__(self, config: Any, limits: ImageLimits, *, kept_mb: float = 256):
        """Args:
        config: of the tower.
        kept_mb: frames that are kept, in 10^6 bytes.
        """
        self._config, self._limits = config, limits
        self._known: LRUCache[Any, Picture] = LRUCache(
            int(kept_mb * 1e6), getsizeof=lambda picture: pixels_of(picture.frame).nbytes
        )
        self._streams: LRUCache[Any, tuple[threading.Lock, FrameStream]] = LRUCache(_STREAMS)
        self._lock = threading.Lock()

    def read(self, url: str, param: str, tenant: str = "", hint: Any = None) -> Picture:
        """The picture behind a `data:` URL.

        Args:
          param: where the URL stands, for errors.
          tenant: whose it is; nobody learns of another's pictures, nor of how fast they are.
          hint: pictures with the same one probably resemble each other.

        Raises:
          ApiError: 400; see the limits.
        """
        start = time.perf_counter()
        data = self._decoded(url, param)
        key = tenant, hashlib.blake2b(data, digest_size=16).digest()
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            took = 1e3 * (time.perf_counter() - start)
            return dataclasses.replace(known, source="known", decode_ms=took, resize_ms=0.0)
        pixels = self._pixels(data, param)
        decoded = time.perf_counter()
        frame, source = self._frame(pixels, param, (tenant, hint, pixels.shape))
        digest = hashlib.blake2b(repr(frame.shape).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(pixels_of(frame)).data)
        if isinstance(frame, TiledImage):
            digest.update(frame.packing.tobytes())
        ended = time.perf_counter()
        picture = Picture(
            digest.digest(), frame, source, 1e3 * (decoded - start), 1e3 * (ended - decoded)
        )
        with self._lock:
            if pixels_of(frame).nbytes <= self._known.maxsize:
                self._known[key] = picture
        return picture

    def open(self, url: str, param: str) -> np.ndarray:
        """Its own pixels, `uint8 [H, W, 3]`; raises as `read` does."""
        return self._pixels(self._decoded(url, param), param)

    def _decoded(self, url: str, param: str) -> bytes:
        """The bytes of the file."""
        if not url[:5].lower() == "data:":
            raise ApiError(
                400,
                "image_url_not_allowed",
                f"{param}: send a data: URL; this server fetches nothing",
                param,
            )
        limit = int(self._limits.encoded_mb * 1e6)
        if len(url) > 4 * (limit // 3 + 1) + 256:
            raise _too_large(param, f"a file of more than {self._limits.encoded_mb} MB")
        head = _HEAD.match(url[:256])
        if head is None or not head[1].endswith(";base64"):
            raise ApiError(
                400, "invalid_base64", f"{param}: expected data:image/png;base64,...", param
            )
        try:
            data = base64.b64decode(url[head.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(400, "invalid_base64", f"{param}: no base64", param) from None
        if len(data) > limit:
            raise _too_large(param, f"a file of more than {self._limits.encoded_mb} MB")
        return data

    def _pixels(self, data: bytes, param: str) -> np.ndarray:
        """`uint8 [H, W, 3]`; everything is checked before a pixel is decoded."""
        from PIL import Image

        limits = self._limits
        allowed = f"{limits.megapixels} megapixels and {limits.side} a side"
        try:
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise _too_large(param, f"more than {allowed}") from None
        except MemoryError:
            raise
        except Exception:  # whatever Pillow's readers raise on damaged headers
            raise _invalid(param, f"not a picture in {', '.join(_FORMATS)}") from None
        with image:
            width, height = image.size
            if max(width, height) > limits.side or width * height > limits.megapixels * 1e6:
                raise _too_large(param, f"{width} x {height} pixels, of at most {allowed}")
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise _invalid(param, "an animation: which frame is meant is not clear")
            try:
                return np.asarray(upright_rgb(image, param))
            except DiffvisError as error:
                raise ApiError(400, "invalid_image", str(error), param) from None

    def _frame(
        self, pixels: np.ndarray, param: str, kind: Any
    ) -> tuple[Frame, Literal["same", "resized"]]:
        with self._lock:
            if (found := self._streams.get(kind)) is None:
                found = self._streams[kind] = threading.Lock(), FrameStream(self._config)
        lock, stream = found
        try:
            with lock:
                frame = make_frame(pixels, self._config, stream)
                lines = sum(stream.resized)
        except DiffvisError as error:
            raise ApiError(400, "invalid_image", f"{param}: {error}", param) from None
        if isinstance(frame, TiledImage):
            return frame, "resized"
        frame.flags.writeable = False
        return frame, "resized" if lines else "same"


def _too_large(param: str, what: str) -> ApiError:
    return ApiError(400, "image_too_large", f"{param}: {what}", param)


def _invalid(param: str, what: str) -> ApiError:
    return ApiError(400, "invalid_image", f"{param}: {what}", param)
