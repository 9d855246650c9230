"""The model card of bundled weights, with the figures that were measured on them."""

from typing import Any

from page_templates import TRAINING_FAMILIES

CARD = """\
# {name}

A small FastViTHD that finds what can be clicked on a screenshot: boxes, kinds ({kinds}) and scores
of interactive elements. Made to study differential encoding on weights that do a real job, and to
be small enough to bundle; not made to compete with large detectors.

**Tower.** {tower} {parameters:.1f} million parameters with the head, in bfloat16.

**Data.** {pages} pages of generated interfaces in {families} families and of Debian's
documentation packages, rendered by headless Chromium
(`scripts/training/render_pages.py`, seeded: anyone can render them again). No screenshot of a
person's machine, no other data set.

**Recipe.** `scripts/training/train.py` with {recipe}; the weights of step {step}, averaged{start}.
The whole recipe is in `docs/training.md`; this run's options are in `manifest.json`.

**Measured** on these weights, elements whose shorter side is at least 1/64 of the frame's (16 of
1024 pixels). F1, precision and recall ask for an IoU of 0.5, one to one, at the threshold
{threshold:g}, chosen on validation pages: the lowest within two points of the best F1. "Click": for
how many elements the detection nearest to their middle would click them, with its 95 % Wilson
interval. "Kind": of the elements found, whose kind is right. "Small": recall of the smaller
elements. Test pages are of six families and of documentation packages that training never saw;
validation pages are other pages of the families it did see.

| pages | frame | elements | F1 | precision | recall | click | kind | small |
|---|---|---|---|---|---|---|---|---|
{rows}

**Limits.** {limits}
It knows Chromium's rendering of made-up interfaces. Layouts unlike those of the
training are found less well, and small elements less well than large ones, as the table says; real
desktops look different again. What is clickable without looking so, and what looks clickable and is
not, it cannot tell. Screens are padded to a square and scaled to the frame, so a 1920-pixel screen
is seen at half its size or less.

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
    """Markdown. `measured`: "split size" -> what `measure` said, and the number of pages; the
    largest frames come first."""
    test = next(said for key, said in measured.items() if key.startswith("test "))
    rows = []
    for key, said in measured.items():
        split, size = key.split()
        low, high = said["click_interval"]
        small = "-" if said["small_recall"] is None else f"{said['small_recall']:.2f}"
        rows.append(
            f"| {said['pages']} {split} | {size} px | {said['elements']} | {said['f1']:.3f} "
            f"| {said['precision']:.3f} | {said['recall']:.3f} "
            f"| {said['click']:.3f} ({low:.3f}-{high:.3f}) | {said['kind']:.3f} | {small} |"
        )
    shown = ["side", "batch", "steps", "rate", "seed"]
    shown += [key for key in ("frozen", "muon") if recipe.get(key)]
    options = [f"--{key} {recipe[key]}" for key in shown]
    flags = ("token_helper", "fresh_tokens")
    options += [f"--{flag.replace('_', '-')}" for flag in flags if recipe.get(flag)]
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
