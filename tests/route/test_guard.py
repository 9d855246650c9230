"""What the guard does to a conversation; that nothing leaks: test_nothing_leaks.py."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffvis_jax as dv
from diffvis_jax.providers.chat import Chat, Message, Picture, Text, Tokens
from diffvis_jax.route import regions
from diffvis_jax.route.classify import Words
from diffvis_jax.route.decide import Decision
from diffvis_jax.route.guard import clear
from diffvis_jax.route.labels import Region, Screen, StaysHere
from diffvis_jax.route.marks import find_built_in
from diffvis_jax.route.masked_tokens import MaskedTokens
from diffvis_jax.route.settings import GuardSettings, RoutingSettings

WORDS = RoutingSettings().make_words()
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(1, 256, (100, 160, 3), np.uint8)
MASKED = Decision("cloud", "masked", ("here",), ())
CHANGES = Decision("cloud", "changes", ("here",), ())


def picture(pixels=PIXELS, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return Picture(file.getvalue(), (pixels.shape[1], pixels.shape[0]))


def pixels_of(part):
    return np.asarray(Image.open(io.BytesIO(part.png)))


def cleared(parts, screens, decision=MASKED, words=WORDS, stream=None, **settings):
    chat = Chat((Message("user", tuple(parts)),))
    return clear(chat, decision, screens, GuardSettings(**settings), words, find_built_in, stream)


def box(*edges, kind="password", **fields):
    return Region(edges, kind, **fields)


@pytest.mark.parametrize("margin", [0, 5])
@pytest.mark.parametrize("scale", [1, 1.25, 2])
def test_boxes_are_filled_at_their_own_scale(scale, margin):
    screen = Screen((box(8, 12, 24, 20, source="dom"),), (160 / scale, 100 / scale))
    found = cleared([picture()], [screen], margin_px=margin)
    after = pixels_of(found.chat.parts[0])
    expected = PIXELS.copy()
    top, bottom = int(12 * scale) - margin, int(20 * scale) + margin
    expected[top:bottom, int(8 * scale) - margin : int(24 * scale) + margin] = 0
    assert np.array_equal(after, expected)
    assert found.share_masked == pytest.approx((expected == 0).all(-1).mean())
    assert found.target == "cloud"


@pytest.mark.parametrize(
    ("screen", "why"),
    [
        (Screen(None), "without a list of regions"),
        (Screen((box(0, 0, 9, 9, source="dom"),)), "needs the viewport"),
        (Screen((box(0, 0, 9, 9, source="dom"),), (0, 0)), "needs the viewport"),
        (Screen((box(0, 0, 9, 9, source="dom"),), (80, 100)), "another shape"),
        (Screen((box(160, 0, 170, 9),)), "outside its screenshot"),
        (Screen((box(0, -9, 170, 0),)), "outside its screenshot"),
        (Screen((box(9, 9, 9, 12),)), "empty"),
        (Screen((box(9, 9, float("nan"), 12),)), "empty"),
        (Screen((box(0, 0, float("inf"), 12),)), "empty"),
    ],
)
def test_wrong_regions_keep_a_picture_here(screen, why):
    with pytest.raises(StaysHere, match=why):
        cleared([picture()], [screen])


def test_a_box_that_reaches_over_the_edge_is_cut():
    found = cleared([picture()], [Screen((box(150, 90, 999, 999),))], margin_px=0)
    assert not pixels_of(found.chat.parts[0])[90:, 150:].any()


def test_a_viewport_may_be_rounded():
    screen = Screen((box(0, 0, 9, 9, source="dom"),), (128, 80.4))
    assert cleared([picture()], [screen]).share_masked > 0


def test_windows_are_masked_by_their_titles():
    def share(label, kind="window"):
        screen = Screen((box(0, 0, 80, 50, kind=kind, label=label),))
        return cleared([picture()], [screen], margin_px=0).share_masked

    assert share("Notes") == 0
    assert share("KeePass - x") == 0.25
    assert share("") == 0.25  # whose title nobody knows
    for kind in ("password", "field", "text", "user"):
        assert share("Notes", kind) == 0.25


def test_every_picture_needs_its_own_list():
    with pytest.raises(StaysHere, match="1 lists of regions for 2 pictures"):
        cleared([picture(), picture()], [Screen(())])


def test_a_missing_list_may_be_allowed():
    found = cleared([picture()], [Screen(None)], require_regions=False)
    assert np.array_equal(pixels_of(found.chat.parts[0]), PIXELS)


def test_colours_under_transparent_pixels_are_colours():
    alpha = np.zeros((100, 160, 1), np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.dstack([PIXELS, alpha])).save(file, "PNG")
    found = cleared([Picture(file.getvalue(), (160, 100))], [Screen((box(0, 0, 80, 50),))])
    after = Image.open(io.BytesIO(found.chat.parts[0].png))
    assert after.mode == "RGB"
    assert not np.asarray(after)[:50, :80].any()


def test_files_are_written_anew():
    exif = Image.Exif()
    exif[0x010E] = "CANARY"
    given = picture(exif=exif, dpi=(300, 300), icc_profile=b"CANARY", pnginfo=None)
    (part,) = cleared([given], [Screen(())]).chat.parts
    kinds, at = [], 8
    while at < len(part.png):
        length = int.from_bytes(part.png[at : at + 4], "big")
        kinds.append(part.png[at + 4 : at + 8])
        at += 12 + length
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


def test_pictures_that_are_not_what_is_said():
    for wrong in (Picture(picture().png, (160, 99)), Picture(picture().png[:60], (160, 100))):
        with pytest.raises(StaysHere, match="cannot be read, or of another size"):
            cleared([wrong], [Screen(())])


def test_texts_get_marks():
    parts = [Text("mail a@b.example"), Text("or a@b.example"), Text("no")]
    found = cleared(parts, [])
    assert [part.text for part in found.chat.parts] == ["mail <EMAIL_1>", "or <EMAIL_1>", "no"]
    assert found.marks == {"<EMAIL_1>": "a@b.example"}
    with pytest.raises(StaysHere, match="personal data"):
        cleared(parts, [], words=Words(block_pii=True))


def test_nobody_else_makes_what_may_leave():
    files = Path(dv.__file__).parent.rglob("*.py")
    makers = {file.name for file in files if re.search(r"\bSEAL\b", file.read_text())}
    assert makers == {"chat.py", "guard.py"}


def test_what_may_not_be_sent_at_all():
    with pytest.raises(StaysHere, match="send nothing"):
        cleared([Text("hi")], [], Decision("here", "nothing", (), ()))
    with pytest.raises(StaysHere, match="tokens hold all"):
        cleared([Tokens(np.zeros((1, 2)), "00")], [])


def test_changes_are_sent_as_crops():
    second, third = PIXELS.copy(), PIXELS.copy()
    second[40:60, 70:80] ^= 255
    third[40:60, 70:80] ^= 255  # as the second
    frames = [PIXELS, second, third, PIXELS]
    parts = [part for frame in frames for part in (picture(frame), Text("?"))]
    found = cleared(parts, [Screen(())] * 4, CHANGES, keyframe_every=3).chat.parts
    assert "".join(type(part).__name__[0] for part in found) == "PTTPTTTPT"
    assert found[2].text == "[The screen has changed at left 64, top 32:]"
    assert np.array_equal(pixels_of(found[3]), second[32:64, 64:96])
    assert found[5].text == "[The screen has not changed.]"
    assert np.array_equal(pixels_of(found[7]), PIXELS)  # a keyframe


def test_what_changes_under_a_mask_is_no_change():
    second = PIXELS.copy()
    second[10:20, 10:20] ^= 255
    screens = [Screen((box(8, 8, 24, 24),))] * 2
    found = cleared([picture(), picture(second)], screens, CHANGES).chat.parts
    assert found[1].text == "[The screen has not changed.]"


@pytest.mark.parametrize("most", [1, 3])
def test_changed_boxes_cover_all_that_changed(most):
    for seed in range(30):
        rng = np.random.default_rng(seed)
        after, differs = PIXELS.copy(), np.zeros((100, 160), bool)
        for _ in range(rng.integers(0, 7)):
            y, x = rng.integers(0, 98), rng.integers(0, 158)
            differs[y : y + 2, x : x + 2] = True
        after[differs] ^= 255
        boxes = regions.changed_boxes(PIXELS, after, most)
        assert len(boxes) <= most
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= 160
            assert 0 <= top < bottom <= 100
            differs[top:bottom, left:right] = False
        assert not differs.any()


def test_union_covers_both_places():
    before = Screen((box(0, 0, 4, 4, label="a"), box(9, 9, 12, 12, label="b")), (80, 50))
    after = Screen((box(0, 20, 4, 24, label="a"),), (80, 50))
    found = regions.union(before, after)
    boxes = {region.box for region in found.regions}
    assert boxes == {(0, 0, 4, 4), (9, 9, 12, 12), (0, 20, 4, 24), (0, 0, 4, 24)}
    assert regions.union(Screen(None), after).regions is None
    assert regions.union(after, Screen(None)).regions is None
    with pytest.raises(StaysHere, match="viewport changed"):
        regions.union(before, Screen((), (81, 50)))


# ---- tokens -----------------------------------------------------------------------------------


class Counted:
    """An encoder whose tokens are means and how often it was asked since it began anew."""

    def __init__(self):
        self.asked = self.resets = 0

    def reset(self):
        self.asked, self.resets = 0, self.resets + 1

    def encode(self, pixels):
        self.asked += 1
        return np.array([[pixels.mean(), self.asked]], np.float32)


def test_tokens_come_from_masked_pixels_and_stay_what_they_were():
    encoder = Counted()
    stream = MaskedTokens(encoder.encode, encoder.reset, b"weights")
    screens = [Screen((box(0, 0, 160, 100),)), Screen(())]
    first = cleared([picture()], screens[:1], stream=stream).chat.parts[0]
    assert first.array[0, 0] == 0
    both = cleared([picture(), picture()], screens, stream=stream).chat.parts
    assert both[0] is first
    assert both[1].array[0, 0] == pytest.approx(PIXELS.mean())
    assert (encoder.resets, encoder.asked) == (1, 2)
    # Only the second is shown; the first then is a picture not seen before.
    cleared([picture()], screens[1:], stream=stream)
    again = cleared([picture()], screens[:1], stream=stream).chat.parts[0]
    assert encoder.resets == 2  # its mask is larger than the last one's
    assert np.array_equal(again.array, first.array)
    assert again.digest == first.digest  # the same state: anew, then this picture
    assert both[1].digest != first.digest


def test_a_failing_encoder_begins_anew():
    encoder = Counted()
    stream = MaskedTokens(encoder.encode, encoder.reset)
    cleared([picture()], [Screen(())], stream=stream)
    stream._encode = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        cleared([picture(PIXELS[::-1])], [Screen(())], stream=stream)
    stream._encode = encoder.encode
    cleared([picture(PIXELS[::-1])], [Screen(())], stream=stream)
    assert encoder.resets == 2


@pytest.mark.slow
def test_a_differential_encoder_forgets_what_a_mask_hides_now(square):
    model = dv.Model(square.config, square.params)
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (72, 72, 3), np.uint8)
    later = frame.copy()
    later[30:40, 30:40] = 0
    hidden = np.zeros((72, 72), bool)
    grown = hidden.copy()
    grown[30:40, 30:40] = True
    found, kept = [], []
    for shade in (0, 255):  # what stood there before it was hidden
        before = frame.copy()
        before[30:40, 30:40] = shade
        encoder = dv.DifferentialVisionEncoder(model, dv.Policy.fast())
        stream = MaskedTokens(lambda x, e=encoder: np.asarray(e.encode(x)[0]), encoder.reset_cache)
        found.append(stream.of([(before, hidden), (later, grown)])[1].array)
        encoder.reset_cache()
        encoder.encode(before)
        kept.append(np.asarray(encoder.encode(later)[0]))
    assert np.array_equal(*found)
    assert not np.array_equal(*kept)  # which is why
