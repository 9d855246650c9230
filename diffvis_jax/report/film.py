"""A sequence of pictures as an animation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffvis_jax.utils.atomic_file import replacing

if TYPE_CHECKING:
    from PIL import Image

FORMATS = (".webp", ".gif")


def write_film(
    pictures: Sequence[Path], captions: Sequence[str], target: Path, *, frame_ms: int = 1200
) -> Path:
    """Writes pictures of one size as an animation that repeats, atomically.

    Args:
      pictures: files, in order.
      captions: of each, shown below it; all of as many lines.
      target: its name ends in one of `FORMATS`.
      frame_ms: how long each is shown, in milliseconds.

    Raises:
      ValueError: no pictures, or another format.
    """
    from PIL import Image

    check_film(target)
    if not pictures:
        raise ValueError("a film needs at least one picture")

    def frames() -> Iterator["Image.Image"]:
        for path, caption in zip(pictures, captions, strict=True):
            with Image.open(path) as picture:
                yield _captioned(picture.convert("RGB"), caption)

    some = frames()
    with replacing(target) as partial:
        next(some).save(
            partial, save_all=True, append_images=some, duration=frame_ms, loop=0, quality=75
        )
    return target


def _captioned(picture: "Image.Image", caption: str) -> "Image.Image":
    """The picture, with lines of text below it."""
    from PIL import Image, ImageDraw, ImageFont

    size = max(8, picture.width // 48)
    line, lines = round(1.4 * size), caption.splitlines()
    whole = Image.new("RGB", (picture.width, picture.height + line * len(lines) + size // 2))
    whole.paste(picture)
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(size)
    for number, text in enumerate(lines):
        at = size // 2, picture.height + size // 4 + number * line
        draw.text(at, text, fill=(255, 255, 255), font=font)
    return whole


def check_film(target: Path) -> None:
    """Raises ValueError if the name is not that of a film."""
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"a film is one of {', '.join(FORMATS)}, got '{target.name}'")
