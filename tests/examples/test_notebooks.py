"""The notebooks run from top to bottom, with small pictures and towers in their first cell."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY_TOWER = """
import diffvis_jax as dv
from diffvis_jax.towers.registry import ARCHITECTURES

ARCHITECTURES["tiny"] = dv.CLIPConfig(
    width=32, layers=2, heads=2, mlp_width=32, patch=8, size=32, projection_width=16
)
ARCHITECTURE, DTYPE, BATCHES, CHANGED, ROUNDS = "tiny", "float32", (1, 2), (0, 2), 2
"""


def printed(name: str, parameters: str) -> str:
    """What a notebook prints, with other parameters in its tagged cell."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", ()))
    cell.source = parameters
    nbclient.NotebookClient(notebook, timeout=600).execute()
    outputs = [out for c in notebook.cells for out in c.get("outputs", ())]
    return "".join(out.get("text", "") for out in outputs)


@pytest.mark.slow
def test_the_agent_s_notebook_measures_and_finds(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (288, 512, 3), np.uint8)
    for number in range(3):
        pixels[:40, 60 * number :][:, :40] = 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    said = printed("agent", f"MODEL, SCREENSHOTS, MOST = 'screens-vit', {str(tmp_path)!r}, 3")
    assert "3 screenshots of (512, 288)" in said
    assert "times as fast as full encodes" in said
    assert "missed over all tokens, median / p90 / worst" in said
    assert "elements; the first" in said
    assert "margin inf: " in said


@pytest.mark.slow
def test_the_accelerator_s_notebook_times_what_is_there():
    said = printed("accelerator", TINY_TOWER)
    assert "16 patches" in said
    assert said.count("x\n") == 4  # a row for each batch and number of changed patches
    assert '"architecture": "tiny"' in said
