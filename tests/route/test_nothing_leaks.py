"""Nothing that is labelled leaves this machine; and a guard with a fault is found out."""

import dataclasses

import hypothesis
import numpy as np
import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st
from leaks import Machine, Stale, scenario_of
from PIL import Image

from diffvis_jax.providers import http
from diffvis_jax.route import guard, regions, routed
from diffvis_jax.route.classify import Judged
from diffvis_jax.route.labels import Complexity, Screen, Sensitivity
from diffvis_jax.route.masked_tokens import MaskedTokens

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    machine = Machine(tmp_path_factory.mktemp("leaks"))
    yield machine
    machine.close()


def search(machine, examples):
    @hypothesis.settings(max_examples=examples)
    @given(st.integers(0, 2**40))
    def run(seed):
        machine.check(scenario_of(seed))

    before = machine.sent
    run()
    assert machine.sent - before > examples / 5  # enough of them left, masked


def test_nothing_leaks(machine):
    search(machine, 200)


@pytest.mark.thorough
def test_nothing_leaks_in_many(machine):
    search(machine, 2000)


# ---- planted faults ---------------------------------------------------------------------------

clear, decide, mask = guard.clear, routed.decide, regions.mask
pixel_box, open_pixels = regions.pixel_box, regions.open_pixels


def mask_after_resize(patch):
    def faulty(pixels, boxes, margin):
        size = pixels.shape[1] // 2, pixels.shape[0] // 2
        small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        halves = [tuple(edge // 2 for edge in box) for box in boxes]
        return mask(small, halves, margin // 2)

    patch.setattr(regions, "mask", faulty)


def mask_the_newest_picture_only(patch):
    def faulty(chat, decision, screens, *rest):
        older = [Screen(()) for _ in screens[:-1]]
        return clear(chat, decision, [*older, *screens[-1:]], *rest)

    patch.setattr(routed, "clear", faulty)


def css_pixels(patch):
    def faulty(region, screen, size):
        return pixel_box(dataclasses.replace(region, source="user"), screen, size)

    patch.setattr(regions, "pixel_box", faulty)


def compare_unmasked_frames(patch):
    seen = []

    def masked(pixels, boxes, margin):
        found = mask(pixels, boxes, margin)
        seen.append((found[0], pixels))
        return found

    def boxes(before, after, find=regions.changed_boxes):
        return find(*(next(o for m, o in seen if m is each) for each in (before, after)))

    patch.setattr(regions, "mask", masked)
    patch.setattr(regions, "changed_boxes", boxes)


def alpha_kept(patch):
    def opened(png, size):
        import io

        open_pixels(png, size)
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))

    def masked(pixels, boxes, margin):
        colours, hidden = mask(pixels[..., :3], boxes, margin)
        return np.dstack([colours, pixels[..., 3]]), hidden

    patch.setattr(regions, "open_pixels", opened)
    patch.setattr(regions, "mask", masked)


def fallback_ignores_the_label(patch):
    def faulty(judged, operation, rules, health):
        if not health.get("here", True):
            judged = Judged(Sensitivity.PUBLIC, Complexity.COMPLEX)
        return decide(judged, operation, rules, health)

    patch.setattr(routed, "decide", faulty)


def text_of_the_exception(patch):
    def faulty(name, status, body, wait=None):
        found = real(name, status, body, wait)
        found.args = (f"{found}: {body}",)
        return found

    real = http.error_of
    patch.setattr(http, "error_of", faulty)


FAULTS = {
    mask_after_resize: "canary pixels",
    mask_the_newest_picture_only: "canary pixels",
    css_pixels: "canary pixels",
    compare_unmasked_frames: "what is sent depends on secrets",
    alpha_kept: "a picture with more than colours",
    fallback_ignores_the_label: "confidential, and left",
    text_of_the_exception: "a canary in shown",
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.items())
def test_a_planted_fault_is_found(machine, monkeypatch, fault, message):
    """The eighth, stale tokens, is below."""

    def play():
        for seed in range(100):
            machine.check(scenario_of(seed))

    fault(monkeypatch)
    with pytest.raises(AssertionError, match=message):
        play()


# ---- tokens -----------------------------------------------------------------------------------

bits = st.lists(st.booleans(), min_size=6, max_size=6)


def tokens_of(frames, cls=MaskedTokens):
    encoder = Stale()
    return cls(encoder.encode, encoder.reset).of(frames)[-1]


@st.composite
def grown(draw):
    """Masked frames, twice: what the last one hides differs in all of them."""
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    frames = [rng.integers(0, 256, (16, 24, 3), np.uint8) for _ in range(draw(st.integers(1, 4)))]
    cells = [np.kron(np.reshape(draw(bits), (2, 3)), np.ones((8, 8))).astype(bool) for _ in frames]
    twins = []
    for _ in range(2):
        hidden = cells[-1]
        made = []
        for frame, cell in zip(frames, cells, strict=True):
            pixels = np.where(hidden[..., None], rng.integers(0, 256, frame.shape), frame)
            pixels = pixels.astype(np.uint8)
            pixels[cell] = 0
            made.append((pixels, cell))
        twins.append(made)
    # Only masks that grew: one that was smaller before the last frame.
    return twins, len(cells) > 1 and bool((cells[-1] & ~cells[-2]).any())


def stale(twins, cls=MaskedTokens):
    one, two = (tokens_of(frames, cls) for frames in twins)
    return not np.array_equal(one.array, two.array)


@hypothesis.settings(max_examples=100)
@given(grown())
def test_tokens_hold_nothing_of_what_a_mask_hides_now(found):
    twins, grew = found
    if grew:
        assert not stale(twins)


def test_stale_tokens_after_a_mask_grew_are_found():
    class Faulty(MaskedTokens):
        def _next(self, pixels, hidden, key):
            self._hidden = np.ones_like(hidden)  # as if nothing were hidden that was not
            return super()._next(pixels, hidden, key)

    settings = hypothesis.settings(max_examples=200, phases=[Phase.generate], database=None)
    hypothesis.find(grown(), lambda x: x[1] and stale(x[0], Faulty), settings=settings)
