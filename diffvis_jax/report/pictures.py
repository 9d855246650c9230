"""Pictures inside a page: compressed, each stored once, and all together small."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import PIL.Image

# Pictures are made narrower until all of them fit: a page has to open at once.
WIDTHS = (1440, 1280, 960, 720, 480, 320)
BYTES = 3_000_000


@dataclasses.dataclass(frozen=True)
class Picture:
    """A screenshot, compressed.

    Attributes:
      data: the file.
      size: width and height of the screenshot in pixels; the file may be narrower.
    """

    data: bytes
    size: tuple[int, int]

    @property
    def url(self) -> str:
        """The file as a data URL."""
        kind = "webp" if self.data.startswith(b"RIFF") else "jpeg"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"


def compressed(picture: "PIL.Image.Image", width: int = WIDTHS[0]) -> Picture:
    """A picture, at most so many pixels wide."""
    from PIL import Image, features

    size = picture.size
    if picture.width > width:
        height = max(1, round(picture.height * width / picture.width))
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "webp" if features.check("webp") else "jpeg", quality=80)
    return Picture(buffer.getvalue(), size)


def packed(pictures: Sequence[Picture]) -> tuple[list[str], list[int]]:
    """Data URLs, equal pictures once, and the number of each picture's URL."""
    from PIL import Image

    distinct = shown = list(dict.fromkeys(pictures))
    for width in WIDTHS[1:]:
        if sum(len(picture.data) for picture in shown) <= BYTES:
            break
        shown = [
            compressed(Image.open(io.BytesIO(picture.data)), width)
            if picture.size[0] > width
            else picture
            for picture in distinct
        ]
    numbers = {picture: number for number, picture in enumerate(distinct)}
    return [picture.url for picture in shown], [numbers[picture] for picture in pictures]


def png_url(path: Path) -> str:
    """A PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
