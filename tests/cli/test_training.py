"""What is trained: the losses, what stays old after a change, the optimiser, and the score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

import diffvis_jax as dv
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import maps_of
from diffvis_jax.grounding.head import HeadConfig


class Page:
    """What scoring asks of a screen."""

    long_side = 1024

    def __init__(self, boxes):
        self.boxes = np.array(boxes, float)
        self.kinds = [0] * len(boxes)


def test_measure_counts_large_elements_and_small_ones_apart(training):
    score = training("score")
    page = Page([(0, 0, 40, 20), (100, 100, 140, 120), (200, 200, 240, 210)])
    found = [
        Element((1, 0, 41, 20), "button", 0.9),  # the first, with the right kind
        Element((100, 150, 140, 170), "link", 0.8),  # nothing there
        Element((200, 200, 240, 210), "button", 0.7),  # the small one
    ]
    said = score.measure(HeadConfig(token_width=8), [found], [page])
    assert said["precision"] == 0.5
    assert said["recall"] == 0.5
    assert said["small_recall"] == 1.0
    assert said["kind"] == 1.0
    assert said["elements"] == 2
    # The second element's nearest detection would click beside it.
    assert said["click"] == 0.5
    low, high = said["click_interval"]
    assert low < 0.5 < high


def test_best_threshold_separates_right_from_wrong(training):
    score = training("score")
    config = HeadConfig(token_width=8, patch=64, rows=1, columns=1)
    probability = jnp.array([[[0.45, 0.27]]])  # the first place is right, the second wrong
    answers = {
        "object": jnp.log(probability / (1 - probability)),
        "kind": jnp.zeros((1, 1, 2, 8)),
        "box": jnp.array([[[[0, 0, 40, 20], [0, 0, 40, 20]]]], jnp.float32),
    }
    page = Page([(12, 22, 52, 42)])
    assert 0.27 < score.best_threshold(config, [answers], [page]) <= 0.45


def test_card_says_what_was_measured(training):
    said = {
        "f1": 0.612, "precision": 0.7, "recall": 0.55, "kind": 0.9, "click": 0.8,
        "click_interval": (0.75, 0.84), "elements": 321, "small_recall": None, "pages": 12,
    }  # fmt: skip
    text = training("card").card(
        "name",
        tower="A tower.",
        kinds=("button", "link"),
        parameters=3_600_000,
        recipe={
            "pages": 7, "side": 256, "batch": 8, "steps": 9, "rate": 0.1,
            "seed": 0, "start": None, "teacher": "/somewhere/weights/name", "change_every": 4,
        },
        step=5,
        threshold=0.45,
        measured={"test": said},
    )  # fmt: skip
    row = "| 12 test | 321 | 0.612 | 0.700 | 0.550 | 0.800 (0.750-0.840) | 0.900 | - |"
    assert row in text
    assert "70% of what it marks on the test pages is an element, and it marks 55%" in text
    assert "earlier run" not in text
    assert "--teacher weights/name --side 256 --batch 8" in text
    assert "--change-every 4 --seed 0; the weights of step 5" in text
    assert all(line.count("{") == 0 for line in text.splitlines())


@pytest.fixture(scope="module")
def small(training):
    """The modules of the training, for a tower of two blocks."""
    architecture = training("architecture")
    tower = dv.Qwen25VisionConfig(
        width=32, depth=2, heads=2, mlp_width=48, full_blocks=(1,), patch=32, merge=1, window=64,
        token_width=24, stem_widths=(8, 16), size=(128, 128),
    )  # fmt: skip
    head = HeadConfig(
        token_width=24, map_width=16, detail_width=8, patch=32, rows=4, columns=2, hidden=16,
        detail_hidden=8, place_width=8,
    )  # fmt: skip
    learning = training("learning")
    patch = pytest.MonkeyPatch()
    for module in (architecture, learning):
        patch.setattr(module, "TOWER", tower)
        patch.setattr(module, "HEAD", head)
    yield architecture, learning
    patch.undo()


def crops(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (2, 128, 128, 3), np.uint8)


@pytest.mark.slow
def test_what_is_trained_after_a_change_is_what_a_step_makes(small):
    """Against the library's own step with margin 0, tokens and the maps that the head sees."""
    architecture, learning = small
    config = architecture.TOWER
    params = learning.Setup(None, None).fresh(0)["tower"]
    before = crops()
    now = before.copy()
    now[0, 70:80, 10:20] ^= 255
    now[1, :4, 120:] ^= 255
    old, new = jax.jit(architecture.see_after)(params, before, now)
    step = dv.make_step(config, donate=False)
    policy = dv.Policy(margin=0)
    tokens, cache, _ = step(params, dv.init_cache(config, 2), before, policy)
    np.testing.assert_allclose(old.tokens, tokens, atol=1e-4)
    tokens, cache, _ = step(params, cache, now, policy)
    np.testing.assert_allclose(new.tokens, tokens, atol=1e-4)
    assert np.abs(new.tokens - old.tokens).max() > 0.01
    for found, wanted in zip(new.for_head[1], maps_of(architecture.HEAD, cache), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def batch_for(training, head):
    boxes = np.array([[8.0, 8, 60, 40]])
    target = training("targets").targets(head, 128, boxes, [0], np.ones(1, bool))
    return {"pixels": crops(), **{key: np.stack([value] * 2) for key, value in target.items()}}


@pytest.mark.slow
def test_a_step_learns_from_labels_teacher_and_change(small, training):
    architecture, learning = small
    teacher = training("teacher").Teacher(
        dv.FastViTHDConfig(
            depths=(1, 1, 1, 1, 1), widths=(4, 8, 16, 32, 32), token_width=32, squeeze_width=8,
            size=128,
        ),
        HeadConfig(token_width=32, map_width=32, hidden=8, place_width=8),
    )  # fmt: skip
    taught = {"tower": random_params(teacher.config), "head": random_params(teacher.head)}
    taught = training("teacher").measured(teacher, taught, [crops(1), crops(2)])
    setup = learning.Setup(training("optimiser").optimiser(1e-3, 8), teacher)
    state = setup.state(setup.fresh(0))
    first = jax.tree.map(np.array, state["params"])
    batch = batch_for(training, architecture.HEAD)
    for _ in range(2):  # the rate of the first step is 0
        state, parts = setup.step(state, batch, taught)
    assert all(np.isfinite(value) for value in parts.values())
    assert parts["hint"] > 0
    same = jax.tree.map(np.array_equal, state["params"], first)
    assert not same["tower"]["stem_0"]["squares"]["weight"]
    assert not same["head"]["answers"]["kernel"]
    assert not same["probes"][2]["weight"]
    before = batch["pixels"].copy()
    before[:, 64:96, 64:96] = 0
    state, parts = setup.step(state, {**batch, "before": before}, taught)
    assert 0 < parts["missed"] < 10
    assert learning.finished(state).keys() == {"tower", "head"}


@pytest.mark.slow
def test_hints_are_scaled_by_many_crops_and_not_by_their_neighbours(training):
    teach = training("teacher")
    teacher = teach.Teacher(
        dv.FastViTHDConfig(
            depths=(1, 1, 1, 1, 1), widths=(4, 8, 16, 32, 32), token_width=32, squeeze_width=8,
            size=128,
        ),
        HeadConfig(token_width=32, map_width=32, hidden=8, place_width=8),
    )  # fmt: skip
    params = {"tower": random_params(teacher.config), "head": random_params(teacher.head)}
    both = [crops(1), crops(2)]
    taught = teach.measured(teacher, params, both)
    seen = [teacher(taught, pixels)["hints"] for pixels in both]
    for maps in zip(*seen, strict=True):
        together = np.concatenate(maps)
        np.testing.assert_allclose(together.mean((0, 1, 2)), 0, atol=1e-3)
        np.testing.assert_allclose(together.std((0, 1, 2)), 1, atol=0.05)
    beside_another = teacher(taught, np.stack([both[0][0], both[1][1]]))["hints"]
    for alone, found in zip(seen[0], beside_another, strict=True):
        np.testing.assert_allclose(found[0], alone[0], atol=1e-3)


def test_imitating_costs_nothing_when_scores_agree(training):
    imitation_loss = training("loss").imitation_loss
    wanted = jnp.array([[[0.1, 0.9]]])
    agreeing = imitation_loss(jnp.log(wanted / (1 - wanted)), wanted)
    assert agreeing < 1e-9
    assert imitation_loss(jnp.array([[[2.0, -2.0]]]), wanted) > 1
