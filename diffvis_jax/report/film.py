"""A sequence of pictures as an animation."""

from collections.abc import Sequence
from pathlib import Path

from diffvis_jax.utils.atomic_file import replacing

FORMATS = (".webp", ".gif")


def write_film(pictures: Sequence[Path], target: Path, *, frame_ms: int = 800) -> Path:
    """Writes pictures of one size as an animation that repeats, atomically.

    Args:
      pictures: files, in order.
      target: its name ends in one of `FORMATS`.
      frame_ms: how long each is shown, in milliseconds.

    Raises:
      ValueError: no pictures, or another format.
    """
    from PIL import Image

    check_film(target)
    if not pictures:
        raise ValueError("a film needs at least one picture")

    def frames():
        for path in pictures[1:]:
            with Image.open(path) as picture:
                yield picture.convert("RGB")

    with replacing(target) as partial, Image.open(pictures[0]) as first:
        first.convert("RGB").save(
            partial,
            save_all=True,
            append_images=frames(),
            duration=frame_ms,
            loop=0,
            quality=75,
        )
    return target


def check_film(target: Path) -> None:
    """Raises ValueError if the name is not that of a film."""
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"a film is one of {', '.join(FORMATS)}, got '{target.name}'")
