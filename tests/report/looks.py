"""What a page of answers is made of, by hand: no model runs."""

import dataclasses

import numpy as np
from PIL import Image

from diffvis_jax.agent.answering import Answer
from diffvis_jax.measure.answer_pairs import Pair
from diffvis_jax.report.answers_page import Look
from diffvis_jax.report.pictures import compressed

HOSTILE = '</script><img src=x onerror="alert(1)"> <!--CSS-->'


def answer(text: str, path: str, scale: float = 1.0) -> Answer:
    """One that took 12, 30 and 2 ms, times `scale`."""
    changed = {"full": 0, "partial": 1, "reuse": 0}[path]
    return Answer(
        text=text,
        ids=np.zeros(3, np.int32),
        encode_ms=12.0 * scale,
        prefill_ms=30.0 * scale,
        first_token_ms=2.0 * scale,
        token_ms=1.5,
        generate_ms=5.0,
        compile_s=0.0,
        encoded={
            "path": path,
            "changed_patches": changed,
            "total_patches": 25,
            "recomputed": {"full": 1.0, "partial": 0.2, "reuse": 0.0}[path],
            "pending": 0.0,
        },
        prefilled={"path": path, "prefilled": 40, "total": 80},
        tokens=[],
        shown=[],
        compressed={},
        grids=[],
        logits=np.zeros(0, np.float32),
        attention=None,
    )


def look(label: str, text: str, path: str, picture: Image.Image) -> Look:
    """A frame of 5 x 5 patches, of which one changed where the path says so."""
    changed = np.zeros((5, 5), bool)
    changed[1, 3] = path == "partial"
    found = answer(text, path)
    return Look(
        label=label,
        picture=compressed(picture),
        encoded=found.encoded,
        encode_ms=found.encode_ms,
        changed=changed,
        recomputed=changed.astype(np.float32),
        found=found,
    )


def with_pair(one: Look, full: Answer) -> Look:
    """The same, compared with the answer in full."""
    assert isinstance(one.found, Answer)
    return dataclasses.replace(one, found=Pair(full, one.found, 0.02, 0.05, 1.0, 1e-3, 1e-4))


def looks() -> list[Look]:
    """A first frame; one with another answer than in full, and a click; one in which nothing
    changed, and whose answer is hostile."""
    rng = np.random.default_rng(0)
    first, second = (
        Image.fromarray(pixels) for pixels in rng.integers(0, 256, (2, 72, 72, 3), np.uint8)
    )
    return [
        with_pair(look("a.png", "A page.", "full", first), answer("A page.", "full", 4)),
        dataclasses.replace(
            with_pair(
                look("b.png", "click(0.5, 0.25)", "partial", second), answer("No.", "full", 4)
            ),
            marks=[[(10, 10, 30, 30, "candidate 1")], [(36, 18, "Click")]],
            lines=["action: Click at (36, 18)"],
            attention=np.eye(5, dtype=np.float32),
        ),
        with_pair(look("c.png", HOSTILE, "reuse", second), answer(HOSTILE, "full", 4)),
    ]
