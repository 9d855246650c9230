"""Renders tests/data/screens_sample: a few small pages and the start of one interaction.

Run it again whenever the templates or elements.js change; the tests compare against it.
"""

import asyncio
import json
import shutil
import tempfile
from pathlib import Path

from browser import open_tabs
from page_templates import make_page
from PIL import Image
from render_pages import SEEDS_PER_SPLIT, render
from streams import record_stream

SAMPLE = Path(__file__).resolve().parents[2] / "tests" / "data" / "screens_sample"

# All of these draw a viewport of 1280 x 720 px: split, family, seed.
PAGES = (
    ("train", "login", 46),
    ("train", "data_table", 20),
    ("train", "drawing", 7),
    ("train", "settings", 87),
    ("val", "forum", SEEDS_PER_SPLIT + 1),
    ("test", "mail", 2 * SEEDS_PER_SPLIT + 4),
    ("test", "kanban", 2 * SEEDS_PER_SPLIT + 64),
)
STREAM = ("login", 46)
FRAMES = range(0, 4)  # of the dozen recorded


def _shrink(path: Path) -> None:
    """The same pixels in fewer bytes: rendering compresses for speed."""
    Image.open(path).convert("RGB").save(path, optimize=True)


def _keep(folder: Path, frames: range) -> None:
    """Of a recorded stream only `frames`."""
    trajectory = json.loads((folder / "trajectory.json").read_text(encoding="utf-8"))
    kept = [trajectory["frames"][index] for index in frames]
    for frame in trajectory["frames"]:
        if frame not in kept:
            (folder / frame["file"]).unlink()
    trajectory["frames"] = kept
    (folder / "trajectory.json").write_text(json.dumps(trajectory, separators=(",", ":")))


async def _sample(out: Path) -> None:
    async with open_tabs(1) as (tab,):
        for split, family, seed in PAGES:
            await render(tab, make_page(family, seed), split, out / split / family, ())
        folder = out / "streams" / f"{STREAM[0]}_{STREAM[1]}"
        await record_stream(tab, make_page(*STREAM), folder)
    _keep(folder, FRAMES)
    for path in out.rglob("*.png"):
        _shrink(path)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        made = Path(directory) / "sample"
        asyncio.run(_sample(made))
        shutil.rmtree(SAMPLE, ignore_errors=True)
        shutil.copytree(made, SAMPLE)


if __name__ == "__main__":
    main()
