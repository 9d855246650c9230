"""From screenshots to frames: uint8 pixels at the size of a tower's input, on the host.

The reference is transformers' `CLIPImageProcessor` on Pillow, and LLaVA's square padding before
it: the results are the same bytes, up to normalisation, which towers do themselves.
`preprocess_in_graph` (`preprocess_in_graph.py`) gives the same bytes inside a jitted function.

In order: load -> 8-bit RGB -> EXIF orientation -> (pad) -> resize -> (crop).

What becomes of images that are not 8-bit RGB:

* Transparency is ignored: the stored colours are taken as they are. So do transformers and
  FastVLM's own script (`convert("RGB")`), and it is right for screen captures, whose fourth
  channel is often unused and zero: compositing would erase the screen. Where transparency means
  something, composite the image yourself first.
* Arrays are red, green, blue, whatever made them. Most captures are blue, green, red (mss, X11,
  OpenCV): an mss ScreenShot is taken as it is; of an array of one, pass `array[..., 2::-1]`.
* 16-bit grey (modes I;16*) is scaled to 0-255, not clipped as `convert("RGB")` would.
* Modes I and F carry no range. I from PNG and PNM files is 16-bit; otherwise values up to 255
  are taken as they are (what `convert("I")` gives) and values up to 65535 as 16-bit. Floats that
  all lie in 0..1 are refused, since they would come out black.
* LAB goes through Pillow's colour management; embedded colour profiles are ignored.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from diffvis_jax.images import geometry
from diffvis_jax.images.geometry import HasPreprocess, ImageError, PreprocessConfig

if TYPE_CHECKING:
    import PIL.Image


class ScreenShot(Protocol):
    """What mss captures."""

    @property
    def bgra(self) -> bytes: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...


ImageLike: TypeAlias = "PIL.Image.Image | np.ndarray | ScreenShot | str | os.PathLike[str]"

# The largest image that may come into being between original and frame: half a gigabyte, at
# Pillow's 4 bytes a pixel. At S = 1024 it admits crops of aspect ratios up to 128.
_MAX_INTERMEDIATE_PIXELS = 2**27
# Padding needs no such image, but reads side x height pixels; this bounds the time (seconds).
_MAX_PADDED_PIXELS = 2**30
_STRIP_PIXELS = 2**24


def preprocess(
    images: ImageLike | Sequence[ImageLike], config: HasPreprocess | PreprocessConfig
) -> np.ndarray:
    """Turns images into frames: uint8 pixels at the size of the tower's input.

    B images, original size H x W (free, and different from image to image), frames of H' x W':
    S x S, or in mode "native" what `frame_size` says, which must be one size for all of a list.

    Args:
        images: one image, or a list or tuple of images, each of them
            a PIL image of any mode,
            a uint8 array [H, W, 3] (RGB), [H, W, 4] (RGB and a channel that is ignored) or
            [H, W]; of a capture in BGR or BGRA pass `array[..., 2::-1]`,
            an mss ScreenShot,
            or the path of an image file;
            or one uint8 array [B, H, W, 3]. EXIF orientation is applied to PIL images and files:
            their upright size is what `placement` takes (`PIL.ImageOps.exif_transpose`).
        config: a model's config (any object with `.preprocess`), or a PreprocessConfig.

    Returns:
        uint8 [B, H', W', 3], RGB, 0-255; B is 1 for a single image.

    Raises:
        ImageError: (a ValueError) an image is missing, not an image, damaged, animated, empty,
            implausibly large, too elongated for the mode, of the wrong dtype or shape, or would
            become a frame of another size than the first one. The message names it. All images
            are looked at, files up to their headers, before the first is decoded.
    """
    settings = geometry.preprocess_config(config)
    items = _named(images)
    for item, name in items:
        _check(item, name, settings)
    frames: np.ndarray = np.empty(0)
    for index, (item, name) in enumerate(items):
        rgb = _load(item, name)
        # Again, now that the EXIF orientation is known.
        _check_size(*rgb.size, name, settings)
        frame = np.asarray(_fit(rgb, settings))
        if not index:
            frames = np.empty((len(items), *frame.shape), np.uint8)
        if frame.shape != frames.shape[1:]:
            (height, width), (rows, columns) = frame.shape[:2], frames.shape[1:3]
            raise ImageError(
                f"{name}: becomes a frame of {width} x {height} pixels (width x height), the first "
                f"image one of {columns} x {rows}; preprocess images of different sizes one by one"
            )
        frames[index] = frame
    return frames


def _named(images: Any) -> list[tuple[Any, str]]:
    """The images one by one, each with the name by which errors call it."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise ImageError("no images: the list is empty; pass at least one image")
        items = [(_as_array(item, f"images[{i}]"), f"images[{i}]") for i, item in enumerate(images)]
    else:
        item = _as_array(images, "image")
        if isinstance(item, np.ndarray) and item.ndim == 4:
            _check_dtype(item, "images")
            if item.shape[0] == 0:
                raise ImageError(f"no images: the array has shape {item.shape}")
            items = [(frame, f"images[{i}]") for i, frame in enumerate(item)]
        else:
            items = [(item, "image")]
    return [
        (item, f"{name} ({_shown(item)})" if isinstance(item, (str, os.PathLike)) else name)
        for item, name in items
    ]


def _as_array(item: Any, name: str) -> Any:
    """Arrays of other libraries (JAX, PyTorch on the CPU) as numpy, captures of mss in RGB;
    everything else as it is."""
    from PIL import Image

    if isinstance(bgra := getattr(item, "bgra", None), bytes):
        return np.frombuffer(bgra, np.uint8).reshape(item.height, item.width, 4)[..., 2::-1]
    if isinstance(item, (np.ndarray, Image.Image)) or not hasattr(item, "__array__"):
        return item
    try:
        return np.asarray(item)
    except Exception as error:  # PyTorch refuses tensors on a GPU, for one.
        raise ImageError(f"{name}: {type(item).__name__} is not a numpy array ({error})") from error


def _shown(path: Any) -> str:
    text = repr(os.fspath(path))
    # A string may be anything, even a picture in base64.
    return text if len(text) <= 200 else f"{text[:80]}...{text[-80:]}"


# --- checks, before anything is decoded -----------------------------------------------------------


def _check(item: Any, name: str, settings: PreprocessConfig) -> None:
    from PIL import Image

    if isinstance(item, np.ndarray):
        _check_dtype(item, name)
        _check_shape(item, name)
        height, width = item.shape[:2]
    elif isinstance(item, Image.Image):
        _check_still(item, name)
        width, height = item.size
    elif isinstance(item, (str, os.PathLike)):
        with open_image(item, name) as image:
            _check_still(image, name)
            width, height = image.size
    elif isinstance(item, (bytes, bytearray, memoryview)):
        raise ImageError(
            f"{name}: got {type(item).__name__}; "
            "open an encoded image with PIL.Image.open(io.BytesIO(data)) first"
        )
    elif isinstance(item, (list, tuple)):
        raise ImageError(f"{name}: got a {type(item).__name__} inside a list; pass one flat list")
    else:
        raise ImageError(
            f"{name}: got {type(item).__name__}; "
            "expected a PIL image, a uint8 array [H, W, 3], an mss ScreenShot or a path"
        )
    _check_size(width, height, name, settings)


def _check_dtype(array: np.ndarray, name: str) -> None:
    if array.dtype == np.uint8:
        return
    hint = "convert it first"
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise ImageError(f"{name}: {array.dtype} array with NaN or infinite values; pass uint8")
        hint = "for values 0..1, pass np.round(255 * array).astype(np.uint8)"
    elif array.dtype == np.uint16:
        hint = "pass np.round(array / 257).astype(np.uint8)"
    elif array.dtype.kind in "iu":
        hint = "if all values are 0-255, pass array.astype(np.uint8)"
    elif array.dtype == np.bool_:
        hint = "pass array.astype(np.uint8) * 255"
    raise ImageError(f"{name}: expected a uint8 array with values 0-255, got {array.dtype}; {hint}")


def _check_shape(array: np.ndarray, name: str) -> None:
    shape = array.shape
    if array.ndim == 2 or (array.ndim == 3 and shape[-1] in (3, 4)):
        return
    hint = ""
    if array.ndim == 3 and shape[-1] == 1:
        hint = "; pass array[..., 0]"
    elif array.ndim == 3 and shape[0] in (1, 3, 4):
        hint = "; channels come last: pass array.transpose(1, 2, 0)"
    elif array.ndim == 4:
        hint = "; pass a batch array by itself, not inside a list"
    raise ImageError(
        f"{name}: expected an array [H, W, 3], [H, W, 4] or [H, W], got shape {shape}{hint}"
    )


def _check_still(image: PIL.Image.Image, name: str) -> None:
    try:
        # Phone photos (MPO) hide previews as further frames, PSD its layers: both are stills.
        animated = getattr(image, "is_animated", False) and image.format not in ("MPO", "PSD")
    except Exception as error:
        raise ImageError(f"{name}: damaged image file ({error})") from error
    if animated:
        raise ImageError(
            f"{name}: the {image.format} file holds several frames, and which one is the screen is "
            "not clear; choose: image = PIL.Image.open(path); image.seek(n); image.convert('RGB')"
        )


def _check_size(width: int, height: int, name: str, settings: PreprocessConfig) -> None:
    """Refuses empty images, and those so elongated that resizing would eat the machine."""
    if width < 1 or height < 1:
        raise ImageError(f"{name}: empty image of {width} x {height} pixels (width x height)")
    try:
        steps = geometry.layout(width, height, settings)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    before, after = steps[:2], (steps.resized_width, steps.resized_height)
    between = _between_passes(before, after)
    largest = max(between, after, key=math.prod)
    if math.prod(largest) > _MAX_INTERMEDIATE_PIXELS or (
        settings.mode == "pad" and steps.canvas_width * height > _MAX_PADDED_PIXELS
    ):
        advice = {
            "crop": "; use mode 'pad' or 'squash', or cut the image into parts",
            "pad": "; cut the image into parts",
            "squash": "; cut the image into parts",
            "native": "; cut the image into parts, or lower max_pixels",
        }[settings.mode]
        at = f" at size {settings.size}" if settings.size else ""
        raise ImageError(
            f"{name}: {width} x {height} pixels (width x height) are too elongated for mode "
            f"{settings.mode!r}{at}: resizing would take "
            f"{largest[0]} x {largest[1]} pixels in between{advice}"
        )


# --- loading: anything -> PIL image in RGB, upright -----------------------------------------------


def open_image(source: str | os.PathLike[str] | bytes, name: str) -> PIL.Image.Image:
    """Opens an image file, or an encoded image, reading no more than its header.

    Raises:
        ImageError: no image, or an implausibly large one; begins with `name`.
    """
    from PIL import Image, UnidentifiedImageError

    if not isinstance(source, bytes):
        _check_file(source, name)
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(name, str(error)) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image that Pillow can read, or cut off in its header"
        ) from error
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"{name}: cannot be read as an image ({error})") from error
    # Between once and twice the limit Pillow only warns. Looking here instead of turning the
    # warning into an exception keeps this function safe in threads (warning filters are global).
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise _bomb(name, f"{image.width} x {image.height} pixels, limit {limit}")
    return image


def _check_file(path: str | os.PathLike[str], name: str) -> None:
    """Raises ImageError if it is no file that holds anything."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except (OSError, ValueError) as error:
        # strerror, since the whole message would repeat the path.
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be opened as a file ({reason})") from error
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name}: is a directory; pass the image files in it as a list")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name}: not a regular file")
    if status.st_size == 0:
        raise ImageError(f"{name}: the file is empty (0 bytes)")


def _bomb(name: str, detail: str) -> ImageError:
    return ImageError(
        f"{name}: implausibly large, perhaps a decompression bomb ({detail}); "
        "if you trust the file, raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _load(item: Any, name: str) -> PIL.Image.Image:
    from PIL import Image

    if isinstance(item, np.ndarray):
        return Image.fromarray(item[..., :3] if item.ndim == 3 else item).convert("RGB")
    if isinstance(item, Image.Image):
        return upright_rgb(item, name)
    with open_image(item, name) as image:
        return upright_rgb(image, name)


def checked_size(
    image: ImageLike, config: HasPreprocess | PreprocessConfig, name: str = "image"
) -> tuple[int, int]:
    """(height, width) of the frame that one image becomes; looks at it as `preprocess` does before
    it decodes anything, at a file up to its header. (A PNG file that has its EXIF orientation after
    its pixels is taken as if it had none.)

    Raises:
        ImageError: see `preprocess`; the message begins with `name`.
    """
    settings = geometry.preprocess_config(config)
    item = _as_array(image, name)
    _check(item, name, settings)
    if isinstance(item, np.ndarray):
        height, width = item.shape[:2]
    elif isinstance(item, (str, os.PathLike)):
        with open_image(item, name) as opened:
            width, height = _size_by_header(opened)
    else:
        width, height = _size_by_header(item)
    _check_size(width, height, name, settings)
    return geometry.frame_size(width, height, settings)


def _size_by_header(image: PIL.Image.Image) -> tuple[int, int]:
    """`upright_size`, but never decodes, as Pillow does to look for EXIF data behind PNG pixels."""
    undecoded = image.format == "PNG" and getattr(image, "tile", None)
    return image.size if undecoded and "exif" not in image.info else upright_size(image)


def open_rgb(image: ImageLike, settings: PreprocessConfig) -> PIL.Image.Image:
    """One image as `preprocess` reads it, in 8-bit RGB.

    Raises:
        ImageError: see `preprocess`; or there are several.
    """
    (item, name), *others = _named(image)
    if others:
        raise ImageError(f"one image is wanted, got {1 + len(others)}")
    _check(item, name, settings)
    rgb = _load(item, name)
    _check_size(*rgb.size, name, settings)
    return rgb


def upright_rgb(image: PIL.Image.Image, name: str) -> PIL.Image.Image:
    """The picture decoded, in 8-bit RGB, its EXIF orientation applied.

    Raises:
        ImageError: damaged, or of values that are no pixels; begins with `name`.
    """
    from PIL import Image

    name_of_file = getattr(image, "filename", "")
    if image.format == "TIFF":
        # Pillow 13 maps the file into memory as if it were upright already, if it knows its name.
        image.filename = ""  # type: ignore[attr-defined]
    try:
        image.load()
        rgb = _rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _bomb(name, str(error)) from error
    except MemoryError:
        raise
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # Decoders raise anything on damaged data, SyntaxError included.
        raise ImageError(f"{name}: damaged or truncated image ({error})") from error
    finally:
        if image.format == "TIFF":
            image.filename = name_of_file  # type: ignore[attr-defined]
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation(image))
    if turn is None:
        return rgb
    upright = rgb.transpose(turn)
    upright.info = {}  # it still says "turn me", and whoever comes next would
    return upright


def upright_size(image: PIL.Image.Image) -> tuple[int, int]:
    """Width and height of an image file once it is upright: what `placement` takes."""
    width, height = image.size
    # Pillow gives the upright size of a TIFF file from the start.
    turned = image.format != "TIFF" and orientation(image) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def orientation(image: PIL.Image.Image) -> int:
    """The EXIF orientation, 1-8, to be asked after load(), which turns TIFF files by itself."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # Damaged metadata around good pixels: show the pixels, as viewers do.
        return 1


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """8-bit RGB of an image of any mode; the module's docstring says what is decided here."""
    if image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image).astype(np.uint32))
    if image.mode in ("I", "F"):
        return _from_wide(image)
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, srgb, "LAB", "RGB"))
        assert converted is not None
        return converted
    if image.mode == "La":  # Pillow knows the way from La to LA only.
        image = image.convert("LA")
    elif image.mode == "P" and "transparency" in image.info:
        # The same colours, without Pillow's warning about palettes with transparency.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _from_wide(image: PIL.Image.Image) -> PIL.Image.Image:
    from PIL import Image

    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 65535):  # written so that NaN is refused as well
        raise ImageError(
            f"mode {image.mode} with values from {low} to {high}; expected 0-255 or 0-65535"
        )
    if image.mode == "F" and 0 < high <= 1:
        raise ImageError("mode F with values in 0..1; scale them to 0-255 first")
    if high > 255 or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return _from_16_bit(values)
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


def _from_16_bit(values: np.ndarray) -> PIL.Image.Image:
    from PIL import Image

    # 65535 = 257 * 255.
    return Image.fromarray(np.rint(values / 257.0).astype(np.uint8)).convert("RGB")


# --- fitting: RGB of any size -> a frame ---------------------------------------------------------


def _between_passes(before: tuple[int, int], after: tuple[int, int]) -> tuple[int, int]:
    """The size (width, height) after the first of the two passes of a resize."""
    return (
        (before[0], after[1]) if geometry.vertical_first(*before, *after) else (after[0], before[1])
    )


def _fit(image: PIL.Image.Image, settings: PreprocessConfig) -> PIL.Image.Image:
    steps = geometry.layout(image.width, image.height, settings)
    if settings.mode == "pad":
        return _fit_padded(image, steps, settings)
    left, top = steps.crop_left, steps.crop_top
    height, width = geometry.frame_size(*image.size, settings)
    whole = resized(image, (steps.resized_width, steps.resized_height))
    return whole.crop((left, top, left + width, top + height))


def resized(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """A picture at another size (width, height), by bicubic interpolation."""
    from PIL import Image

    between, bicubic = _between_passes(image.size, size), Image.Resampling.BICUBIC
    # In two calls, so that the order of the passes does not depend on the version of Pillow.
    return image.resize(between, bicubic).resize(size, bicubic)


def _fit_padded(
    image: PIL.Image.Image, steps: geometry.Layout, settings: PreprocessConfig
) -> PIL.Image.Image:
    """Pads to a square and resizes, without ever holding the square.

    The padded square of a long page takes gigabytes. But a square is resized horizontally first,
    with whole grey levels between the passes: so rows may be padded and shortened a strip at a
    time, and rows that are nothing but padding stay what they are.
    """
    from PIL import Image

    bicubic, size, side = Image.Resampling.BICUBIC, settings.size, steps.canvas_width
    narrow = Image.new("RGB", (size, side), settings.pad_color)
    rows = max(1, _STRIP_PIXELS // side)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = Image.new("RGB", (side, bottom - top), settings.pad_color)
        strip.paste(image.crop((0, top, image.width, bottom)), (steps.paste_left, 0))
        narrow.paste(strip.resize((size, bottom - top), bicubic), (0, steps.paste_top + top))
    return narrow.resize((size, size), bicubic)
