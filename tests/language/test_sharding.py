"""The language side split over simulated devices: the same numbers, and no device has it all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import FASTVITHD, LANGUAGE, ROUNDING, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.architectures import expected_shapes
from diffvis_jax.language import generate
from diffvis_jax.language.answer import answers
from diffvis_jax.language.decoder import embed
from diffvis_jax.language.differential_prefill import jit_prefill_fresh, jit_prefill_step
from diffvis_jax.language.kv_cache import init_kv_cache
from diffvis_jax.language.prefill_policy import PrefillPolicy
from diffvis_jax.language.prompt_cache import Prompt, init_prompt_cache
from diffvis_jax.language.sharding import (
    batch_sharding,
    cache_shardings,
    param_shardings,
    param_spec,
)

CONFIG = dataclasses.replace(LANGUAGE, tied=False)
SEVEN_B = dv.DecoderConfig(
    vocabulary=152064, width=3584, layers=28, heads=28, kv_heads=4, head_width=128,
    mlp_width=18944, tied=False,
)  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[(1, 2), *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ((2, 2), (1, 4)))],
    ids=str,
)
def mesh(request):
    shape = request.param
    devices = np.array(jax.devices()[: shape[0] * shape[1]]).reshape(shape)
    return jax.sharding.Mesh(devices, ("data", "model"))


def run(params, place, place_cache):
    """Logits of two prompts, and their answers."""
    ids = np.random.default_rng(0).integers(0, 90, (2, 32))
    length = place(jnp.array([32, 20], jnp.int32))
    cache = place_cache(init_kv_cache(CONFIG, 2, 96))
    x = place(embed(params, jnp.asarray(ids)))
    logits, cache, _ = generate.jit_prefill(params, cache, x, length, config=CONFIG)
    options = dv.AnswerOptions(max_new_tokens=5, stop_ids=())
    return np.asarray(logits), answers(params, logits, cache, options, config=CONFIG)[0]


@pytest.mark.slow
def test_a_split_model_says_the_same(mesh):
    params = random_params(CONFIG)
    split = jax.device_put(params, param_shardings(CONFIG, mesh))
    whole = run(params, lambda x: x, lambda x: x)
    parts = run(
        split,
        lambda x: jax.device_put(x, batch_sharding(mesh)),
        lambda x: jax.device_put(x, cache_shardings(CONFIG, mesh)),
    )
    assert deviation(parts[0], whole[0]) < ROUNDING
    assert [a.tolist() for a in parts[1]] == [a.tolist() for a in whole[1]]


@pytest.mark.slow
def test_a_split_prompt_is_prefilled_differentially(mesh):
    x = np.random.default_rng(0).standard_normal((2, 32, CONFIG.width)).astype(np.float32)
    image = (np.arange(32) > 4) & (np.arange(32) < 20) & np.ones((2, 1), bool)
    old = Prompt(embeddings=x, image=image, length=np.array([30, 28], np.int32))
    new = dataclasses.replace(old, embeddings=np.where(np.arange(32)[:, None] == 9, x + 1, x))
    expected = init_prompt_cache(CONFIG, 2, 32, 48)
    expected = jit_prefill_fresh(random_params(CONFIG), expected, new, config=CONFIG)[0]

    streams = batch_sharding(mesh)
    empty = init_prompt_cache(CONFIG, 2, 32, 48)
    placed = jax.tree.map(lambda _: streams, empty)
    placed = dataclasses.replace(placed, kv=cache_shardings(CONFIG, mesh))
    cache = jax.device_put(empty, placed)
    params = jax.device_put(random_params(CONFIG), param_shardings(CONFIG, mesh))
    for prompt in (old, new):
        cache, report = jit_prefill_step(
            params, cache, jax.device_put(prompt, streams), PrefillPolicy(), config=CONFIG
        )
    assert report.prefilled.tolist() == [21, 19]
    assert deviation(cache.logits, expected.logits) < ROUNDING


def test_no_device_holds_more_than_its_part(mesh):
    split = jax.device_put(random_params(CONFIG), param_shardings(CONFIG, mesh))
    parts = mesh.shape["model"]
    matrices = {p: x for p, x in store.flatten(split).items() if x.ndim == 2}
    for path, x in matrices.items():
        share = x.addressable_shards[0].data.size / x.size
        of_group = "attention/key" in path or "attention/value" in path
        whole = of_group and CONFIG.kv_heads % parts
        assert share == (1 if whole else 1 / parts), path


def test_the_largest_model_is_split_evenly_over_four():
    bytes_whole = bytes_part = 0
    for path, shape in expected_shapes(SEVEN_B).items():
        size = np.prod(shape)
        spec = param_spec(path, shape, SEVEN_B, 4)
        bytes_whole += size
        bytes_part += size / 4 if any(spec) else size
    assert bytes_part / bytes_whole < 0.2501


def test_a_vocabulary_that_does_not_divide_stays_whole():
    odd = dataclasses.replace(CONFIG, vocabulary=97)
    assert not any(param_spec("head/weight", (97, 32), odd, 2))
    assert any(param_spec("head/weight", (96, 32), odd, 2))


def test_meshes_that_do_not_fit_are_refused():
    devices = np.array(jax.devices()[:3])
    with pytest.raises(dv.ConfigError, match=r"4 attention heads.*over 3.*\[1, 2, 4\]"):
        param_shardings(CONFIG, jax.sharding.Mesh(devices, ("model",)))
    with pytest.raises(dv.ConfigError, match="needs an axis 'model'"):
        cache_shardings(CONFIG, jax.sharding.Mesh(devices, ("x",)))


def test_parameters_are_loaded_in_parts(tmp_path, mesh):
    directory = store.save(
        tmp_path / "out",
        config=FASTVITHD,
        params=random_params(FASTVITHD),
        language_config=CONFIG,
        language_params=random_params(CONFIG),
    )
    config, params = store.load_language(directory, mesh=mesh)
    expected = store.flatten(param_shardings(config, mesh))
    for path, x in store.flatten(params).items():
        assert x.sharding.is_equivalent_to(expected[path], x.ndim), path
    assert deviation(params["head"]["weight"], random_params(CONFIG)["head"]["weight"]) == 0
