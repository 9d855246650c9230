"""The model card of bundled weights, with the figures that were measured on them."""

from pathlib import Path
from typing import Any

from page_templates import TRAINING_FAMILIES

CARD = """\
# {name}

A small vision transformer that finds what can be clicked on a screenshot: boxes, kinds ({kinds})
and scores of interactive elements. Made for differential encoding, to do a real job with it, and to
be small enough to bundle; not made to compete with large detectors.

**Tower.** {tower} {parameters:.1f} million parameters with the head, in bfloat16.

**Data.** {pages} pages of generated interfaces in {families} families and of Debian's
documentation packages, rendered by headless Chromium
(`scripts/training/render_pages.py`, seeded: anyone can render them again). No screenshot of a
person's machine, no other data set.

**Recipe.** `scripts/training/train.py` with {recipe}; the weights of step {step}, averaged{start}.
The whole recipe is in `scripts/training/README.md`; this run's options are in `manifest.json`.

**Measured** on these weights, elements whose shorter side is at least 1/64 of the frame's longer
one (16 of 1024 pixels). F1, precision and recall ask for an IoU of 0.5, one to one, at the
threshold {threshold:g}, chosen on validation pages: the lowest within two points of the best F1.
"Click": for how many elements the detection nearest to their middle would click them, with its 95 %
Wilson interval. "Kind": of the elements found, whose kind is right. "Small": recall of the smaller
elements. Test pages are of six families and of documentation packages that training never saw;
validation pages are other pages of the families it did see.

| pages | elements | F1 | precision | recall | click | kind | small |
|---|---|---|---|---|---|---|---|
{rows}

**Limits.** {limits}
It knows Chromium's rendering of made-up interfaces. Layouts unlike those of the training are found
less well, and small elements less well than large ones, as the table says; real desktops look
different again. What is clickable without looking so, and what looks clickable and is not, it
cannot tell. Screens are scaled to at most 1024 x 576 pixels or as many, so a 1920-pixel screen is
seen at half its size.

**Licence.** Apache-2.0, as the code.
"""


def card(
    name: str,
    *,
    tower: str,
    kinds: tuple[str, ...],
    parameters: int,
    recipe: dict[str, Any],
    step: int,
    threshold: float,
    measured: dict[str, dict[str, Any]],
) -> str:
    """Markdown. `measured`: split -> what `measure` said, and the number of pages."""
    test = measured["test"]
    rows = []
    for split, said in measured.items():
        low, high = said["click_interval"]
        small = "-" if said["small_recall"] is None else f"{said['small_recall']:.2f}"
        rows.append(
            f"| {said['pages']} {split} | {said['elements']} | {said['f1']:.3f} "
            f"| {said['precision']:.3f} | {said['recall']:.3f} "
            f"| {said['click']:.3f} ({low:.3f}-{high:.3f}) | {said['kind']:.3f} | {small} |"
        )
    shown = ["teacher", "side", "batch", "steps", "rate", "change_every", "seed"]
    names = {**recipe, "teacher": recipe["teacher"] and f"weights/{Path(recipe['teacher']).name}"}
    options = [f"--{key.replace('_', '-')} {names[key]}" for key in shown if names[key] is not None]
    return CARD.format(
        name=name,
        tower=tower,
        kinds=", ".join(kinds),
        parameters=parameters / 1e6,
        pages=recipe["pages"],
        families=len(TRAINING_FAMILIES),
        recipe=" ".join(options),
        step=step,
        start=", from the weights of an earlier run" if recipe["start"] else "",
        threshold=threshold,
        limits=f"{test['precision']:.0%} of what it marks on the test pages is an element, and it "
        f"marks {test['recall']:.0%} of the elements.",
        rows="\n".join(rows),
    )
