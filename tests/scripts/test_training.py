"""What is trained: towers that grow, stages that stay, and the score."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

import diffvis_jax as dv
from diffvis_jax.core.step import jit_encode
from diffvis_jax.grounding.decode import Element
from diffvis_jax.grounding.find import encode_for_head
from diffvis_jax.grounding.head import HeadConfig

SHALLOW = dv.FastViTHDConfig(
    depths=(1, 1, 1, 1, 1),
    widths=(4, 8, 16, 32, 32),
    token_width=32,
    squeeze_width=8,
    size=64,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


@pytest.mark.slow
def test_grown_tower_computes_nearly_the_same(training):
    growing = training("grow")
    deep = dataclasses.replace(SHALLOW, depths=(2, 3, 1, 2, 1))
    params = growing.near_identity(random_params(SHALLOW))
    grown = growing.grow(params, SHALLOW.depths, deep.depths)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, random_params(deep))
    leaves = jax.tree.leaves(grown)
    assert len({id(leaf) for leaf in leaves}) == len(leaves)  # none is given to a step twice
    frame = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)

    def encode(params, config):
        return np.asarray(jit_encode(params, frame, config=config))

    before, after = encode(params, SHALLOW), encode(grown, deep)
    fresh = encode(growing.near_identity(random_params(deep, 1)), deep)
    size = np.linalg.norm(before)
    assert np.linalg.norm(after - before) < 0.05 * size
    assert np.linalg.norm(fresh - before) > 0.5 * size  # another tower is not near


@pytest.mark.slow
def test_muon_is_for_products_inside_blocks(training):
    learning, optimiser = training("learning"), training("optimiser")
    shallow = training("architecture").Architecture((1, 1, 1, 1, 1), helped=False)
    setup = learning.Setup(shallow, optimiser.optimiser(0.1, 4, muon=0.1))
    own = {"tower": random_params(shallow.tower), "head": random_params(setup.head)}
    named = optimiser._optimisers(own)
    block = named["tower"]["stage_3"]["block_0"]
    assert block["attention"]["query"] == {"weight": "muon"}
    assert block["ffn"]["fc1"] == {"weight": "muon", "bias": "adam"}
    assert block["ffn"]["conv"]["kernel"] == "adam"
    assert named["tower"]["stage_3"]["downsample"]["project"]["weight"] == "adam"
    assert named["head"]["hidden"]["kernel"] == "adam"
    recipe = {"rate": 0.1, "steps": 4}
    held = jax.tree.structure(setup.optimiser.init(own))
    assert held == jax.tree.structure(optimiser.optimiser_of({**recipe, "muon": 0.1}).init(own))
    assert held != jax.tree.structure(optimiser.optimiser_of(recipe).init(own))


def test_depths_that_are_no_multiples_are_refused(training):
    growing = training("grow")
    with pytest.raises(ValueError, match="not multiples"):
        growing.grow({}, (2, 2, 2, 2, 2), (2, 3, 2, 2, 2))


class Page:
    """What scoring asks of a screen."""

    size = 1024

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
            "seed": 0, "start": None, "token_helper": True, "fresh_tokens": False,
        },
        step=5,
        threshold=0.45,
        measured={"test 1024": said},
    )  # fmt: skip
    row = "| 12 test | 1024 px | 321 | 0.612 | 0.700 | 0.550 | 0.800 (0.750-0.840) | 0.900 | - |"
    assert row in text
    assert "70% of what it marks on the test pages is an element, and it marks 55%" in text
    assert "earlier run" not in text
    assert "--seed 0 --token-helper; the weights of step 5" in text
    assert all(line.count("{") == 0 for line in text.splitlines())


@pytest.mark.parametrize("frozen", [pytest.param(0, marks=pytest.mark.slow), 2, 3])
@pytest.mark.slow
def test_what_is_trained_is_what_is_used(training, frozen):
    """Folded with a batch's own statistics, the tower gives what its step saw of that batch."""
    learning = training("learning")
    shallow = training("architecture").Architecture((1, 1, 1, 1, 1), helped=False, frozen=frozen)
    setup = learning.Setup(shallow, training("optimiser").optimiser(0.1, 4))
    tower = random_params(shallow.tower, 3)
    state = setup.state({"tower": tower, "head": setup.fresh_head(setup.head, 0)})
    assert not state["kept"].keys() & state["params"]["tower"].keys()
    assert state["kept"].keys() | state["params"]["tower"].keys() == tower.keys()
    crops = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    taken = shallow.before(state["kept"], crops)
    seen = shallow.see(state["params"]["tower"], taken)
    used = setup.finished(state, [crops])["tower"]
    for name in shallow.kept:
        assert jax.tree.all(jax.tree.map(np.array_equal, used[name], tower[name]))
    tokens, maps = encode_for_head(used, crops, config=shallow.tower, head=setup.head)
    for found, wanted in zip(jax.tree.leaves(seen["head"]), (tokens, *maps), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4 * float(np.abs(wanted).max()))


@pytest.mark.slow
def test_what_is_frozen_stays(training):
    learning = training("learning")
    architecture, targets = training("architecture"), training("targets").targets
    shallow = architecture.Architecture((1, 1, 1, 1, 1), helped=False, token_helped=True, frozen=3)
    setup = learning.Setup(shallow, training("optimiser").optimiser(0.1, 4))
    state = setup.state(
        {
            # A step takes its state over, and others have these parameters too.
            "tower": jax.tree.map(jnp.copy, random_params(shallow.tower, 3)),
            **{name: setup.fresh_head(head, 0) for name, head in shallow.heads.items()},
        }
    )
    before = jax.tree.map(np.array, {k: state[k] for k in ("kept", "params")})
    boxes = np.array([[8.0, 8, 60, 40]])
    batch = {
        "pixels": np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8),
        **{k: v[None] for k, v in targets(setup.head, 64, boxes, [0], np.ones(1, bool)).items()},
    }
    for _ in range(2):  # the rate of the first step is 0
        state, parts = setup.step(state, batch)
    assert np.isfinite(parts["loss"])
    assert parts["token_helper"] > 0
    same = lambda kind: jax.tree.map(np.array_equal, state[kind], before[kind])  # noqa: E731
    assert jax.tree.all(same("kept"))
    changed = same("params")
    assert not changed["tower"]["stage_3"]["downsample"]["conv"]["kernel"]
    assert not changed["head"]["detail_places"]["kernel"]
    assert not changed["head"]["finest_places"]["kernel"]
    assert not changed["token_helper"]["hidden"]["kernel"]
    assert shallow.heads["token_helper"].maps == ()  # the tokens alone
    assert setup.finished(state, [batch["pixels"]]).keys() == {"tower", "head"}
