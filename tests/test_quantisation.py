"""Quantised towers and decoders: the promises of a step still hold, and nothing is lost unseen."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLIP, LANGUAGE, Kit, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.language.decoder import forward, read_out
from diffvis_jax.language.kv_cache import init_kv_cache
from diffvis_jax.measure.weights import compare_weights
from diffvis_jax.ops.quantised import QuantKernel, dequantise

W8A8 = dv.QuantConfig(activations=8)
# A code of an activation may round the other way where floats before it were summed in another
# order; by how much that moves the tokens of these towers.
ONE_CODE = 0.005


@dataclasses.dataclass(frozen=True, eq=False)
class QuantisedKit(Kit):
    """A tower with quantised parameters."""

    quant: dv.QuantConfig = W8A8

    @functools.cached_property
    def params(self):
        return dv.quantise(self.config, random_params(self.config), self.quant)[0]


KITS = {
    "clip": W8A8,
    **{f"clip-{name}": dv.QuantConfig.named(name) for name in ("int8", "w8a16")},
    "qwen": W8A8,
    "fastvithd": W8A8,
}


@pytest.fixture(
    scope="module",
    params=[
        name if name == "clip" else pytest.param(name, marks=pytest.mark.slow) for name in KITS
    ],
)
def quantised(request):
    config = request.getfixturevalue(request.param.split("-")[0]).config
    return QuantisedKit(config, KITS[request.param])


def same_bits(a, b) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def matrices(params) -> list[QuantKernel]:
    leaves = jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, QuantKernel))
    return [leaf for leaf in leaves if isinstance(leaf, QuantKernel)]


# ---- a step -------------------------------------------------------------------------------------


def test_a_step_keeps_its_promises(quantised):
    kit, exact = quantised, dv.Policy.exact()
    assert matrices(kit.params)
    frames, tokens, cache = kit.start(exact)
    assert kit.error(tokens, frames) < ONE_CODE  # of its own full encode

    again, cache, report = kit.step(kit.params, cache, frames, exact)
    assert same_bits(again, tokens)
    assert not np.asarray(report.recomputed).any()

    # A stream's tokens do not hang on what the other one shows.
    changed = kit.change_patch(frames, 1, 1, stream=0)
    alone, *_ = kit.step(kit.params, cache, changed, exact)
    assert kit.error(alone, changed) < ONE_CODE
    assert same_bits(alone[1], tokens[1])
    both, *_ = kit.step(kit.params, cache, kit.change_patch(changed, 2, 0, stream=1), exact)
    assert deviation(both[0], alone[0]) < ONE_CODE  # chunks of other sizes sum in another order

    # What is not recomputed keeps its bits.
    few, *_ = kit.step(kit.params, cache, changed, dv.Policy(margin=0))
    assert same_bits(few[1], tokens[1])
    assert not same_bits(few[0], tokens[0])


@pytest.mark.slow
def test_inside_jit_and_scan(clip):
    kit = QuantisedKit(clip.config)
    frames = np.stack([kit.frames(seed, 1) for seed in (0, 0, 1)])

    @jax.jit
    def episode(params, cache, frames):
        def one(cache, frame):
            tokens, cache, _ = dv.encode_step(params, cache, frame, config=kit.config)
            return cache, tokens

        return jax.lax.scan(one, cache, frames)[1]

    tokens = episode(kit.params, dv.init_cache(kit.config), frames)
    assert same_bits(tokens[0], tokens[1])
    cache = dv.init_cache(kit.config)
    for frame, found in zip(frames, tokens, strict=True):
        served, cache, _ = kit.serve(kit.params, cache, frame)
        assert deviation(found, served) < ONE_CODE


# ---- what is quantised, and what it cost ---------------------------------------------------------


def test_the_report_is_true():
    params = random_params(CLIP)
    found, report = dv.quantise(CLIP, params, dv.QuantConfig())
    assert report.before == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert report.after == sum(leaf.nbytes for leaf in jax.tree.leaves(found))
    assert len(report.matrices) == len(matrices(found)) == 5 * CLIP.layers
    assert report.kept == ("vision/embed/patch/weight", "vision/projection/weight")
    by_path = {each.path: each for each in report.matrices}
    weight, kernel = (tree["block_1"]["mlp"]["fc1"]["weight"] for tree in (params, found))
    told = by_path["vision/block_1/mlp/fc1/weight"]
    assert (told.before, told.after) == (4 * 64 * 32, 64 * 32 + 4 * 64)
    lost = np.linalg.norm(np.asarray(dequantise(kernel) - weight)) / np.linalg.norm(weight)
    assert told.error == pytest.approx(lost, rel=1e-4)
    assert 1e-3 < told.error < 2e-2
    assert {name: len(some) for name, some in report.groups().items()} == {
        f"vision/{name}": CLIP.layers
        for name in ("attention/kv", "attention/output", "attention/query", "mlp/fc1", "mlp/fc2")
    }
    # Nothing else has moved.
    assert found["block_0"]["mlp"]["fc1"]["bias"] is params["block_0"]["mlp"]["fc1"]["bias"]
    assert found["embed"]["patch"]["weight"] is params["embed"]["patch"]["weight"]


def test_patterns_name_what_stays_a_float():
    skip = ("block_0/*", "vision/*/fc2/weight")
    found, report = dv.quantise(CLIP, random_params(CLIP), dv.QuantConfig(skip=skip))
    assert len(matrices(found["block_0"])) == 0
    assert len(matrices(found["block_1"])) == 4
    assert "vision/block_2/mlp/fc2/weight" in report.kept


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: dv.QuantConfig(skip=("block_9/*",)), r"no matrix is called 'block_9/\*'"),
        (lambda: dv.QuantConfig(skip=("*",)), "no matrix to be quantised"),
        (lambda: dv.QuantConfig("int4"), "int4 is for a language model's decoder"),
        (lambda: dv.QuantConfig("int8", 4), "got 'int8' with 4"),
        (lambda: dv.QuantConfig("int4", 8), "got 'int4' with 8"),
        (lambda: dv.QuantConfig(group=3), "even number of inputs, got 3"),
        (lambda: dv.QuantConfig.named("fp8"), "there are int8, w8a8, w8a16, int4"),
    ],
)
def test_what_cannot_be_asked_for(make, told):
    with pytest.raises(dv.ConfigError, match=told):
        dv.quantise(CLIP, random_params(CLIP), make())


def test_what_cannot_be_quantised():
    params = random_params(CLIP)
    with pytest.raises(dv.ConfigError, match="quantised already"):
        dv.quantise(CLIP, dv.quantise(CLIP, params, W8A8)[0], W8A8)
    block = params["block_0"]
    query = {**block["attention"]["query"], "weight": jnp.full((32, 32), jnp.nan)}
    broken = {**params, "block_0": {**block, "attention": {**block["attention"], "query": query}}}
    with pytest.raises(dv.ConfigError, match="vision/block_0/attention/query/weight: NaN"):
        dv.quantise(CLIP, broken, W8A8)
    with pytest.raises(dv.ConfigError, match="config must be one of"):
        dv.quantise(W8A8, params, W8A8)


# ---- tokens and logits ---------------------------------------------------------------------------


def test_weights_compared_with_themselves(clip):
    first = clip.frames(0, 1)
    frames = np.concatenate([first, first, clip.change_patch(first, 1, 1)])
    exact = compare_weights(clip.config, clip.params, clip.params, frames, dv.Policy.exact())
    assert exact.token_error["max"] == exact.change_error["max"] == 0
    assert exact.missed_changed["max"] < 1e-3  # a step sums in another order
    assert exact.jitter["max"] is None  # the change was encoded in full
    few = compare_weights(clip.config, clip.params, clip.params, frames, dv.Policy(margin=0))
    assert few.jitter["max"] == 0
    assert few.jitter_stream["max"] > 0  # what it left out
    with pytest.raises(dv.FrameError, match="frames must be uint8"):
        compare_weights(clip.config, clip.params, clip.params, frames[0])


@pytest.mark.slow
def test_fidelity_of_frames(clip):
    first = clip.frames(0, 1)
    frames = np.concatenate([first, clip.change_patch(first, 1, 1), clip.frames(1, 1)])
    errors = {}
    for name in ("int8", "w8a8", "w8a16"):
        quant = dv.QuantConfig.named(name)
        report = dv.quantise(clip.config, clip.params, quant, frames=frames)[1]
        errors[name] = report.fidelity.token_error["median"]
    assert 1e-3 < errors["int8"] < errors["w8a8"] < 0.1
    assert errors["w8a16"] == pytest.approx(errors["int8"], rel=0.05)
    with pytest.raises(dv.ConfigError, match="frames are for a tower"):
        dv.quantise(LANGUAGE, random_params(LANGUAGE), quant, frames=frames)


@pytest.mark.parametrize("name", ["int4", "w8a16"])
def test_a_decoder(name):
    params = random_params(LANGUAGE)
    quant = dv.QuantConfig.named(name, **({"group": 16} if name == "int4" else {}))
    found, report = dv.quantise(LANGUAGE, params, quant)
    assert len(report.matrices) == 7 * LANGUAGE.layers
    assert "language/projector/linear_0/weight" in report.kept
    plain = jax.tree.map(
        lambda x: dequantise(x) if isinstance(x, QuantKernel) else x,
        found,
        is_leaf=lambda x: isinstance(x, QuantKernel),
    )
    x = jax.random.normal(jax.random.key(0), (1, 5, LANGUAGE.width))
    at = jnp.arange(5, dtype=jnp.int32)[None]

    @jax.jit
    def logits(params):
        hidden, cache, _ = forward(params, init_kv_cache(LANGUAGE, 1, 8), x, at, config=LANGUAGE)
        assert cache.keys[0].dtype == jnp.float32
        return read_out(params, hidden, config=LANGUAGE)

    assert deviation(logits(found), logits(plain)) < (1e-5 if name == "int4" else 1e-3)
