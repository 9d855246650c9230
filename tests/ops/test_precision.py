"""No product of float32 operands is left to what a platform takes for it by default."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLIP, FASTVITHD, LANGUAGE, random_params

import diffvis_jax as dv
from diffvis_jax.language.decoder import forward, read_out
from diffvis_jax.language.kv_cache import init_kv_cache

PRODUCTS = ("dot_general", "conv_general_dilated")


def products(jaxpr) -> list:
    """All products in a traced function, inner functions and every platform's branch included."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in PRODUCTS:
            found.append(eqn)
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                found += products(inner)
    return found


def traced(function, *operands):
    return products(jax.make_jaxpr(function)(*operands).jaxpr)


def calls(config):
    params, cache = random_params(config), dv.init_cache(config)
    frames = np.zeros((1, config.size, config.size, 3), np.uint8)
    if config.dtype != "float32":
        params = jax.tree.map(lambda x: x.astype(config.dtype), params)
    return [
        lambda: traced(lambda p, f: dv.encode(p, f, config=config), params, frames),
        lambda: traced(lambda *x: dv.encode_step(*x, config=config), params, cache, frames),
    ]


def left_to_the_platform(found):
    """Of the products of float32 operands, those without the highest precision."""
    exact = [eqn for eqn in found if all(x.aval.dtype == jnp.float32 for x in eqn.invars)]
    highest = jax.lax.Precision.HIGHEST
    return [eqn for eqn in exact if eqn.params["precision"] not in (highest, (highest, highest))]


@pytest.mark.slow
@pytest.mark.parametrize("config", [FASTVITHD, CLIP], ids=["fastvithd", "clip"])
def test_float32_towers(config):
    for call in calls(config):
        found = call()
        assert len(found) > 10
        assert not left_to_the_platform(found)


def test_float32_language_model():
    params, cache = random_params(LANGUAGE), init_kv_cache(LANGUAGE, capacity=16)
    positions = jnp.arange(4)[None]

    def run(params, cache, x):
        watch = jnp.zeros(1, jnp.int32)
        x, _, watched = forward(params, cache, x, positions, config=LANGUAGE, watch=watch)
        return read_out(params, x, config=LANGUAGE), watched

    found = traced(run, params, cache, jnp.zeros((1, 4, LANGUAGE.width)))
    assert len(found) > 10
    assert not left_to_the_platform(found)


def test_bfloat16_takes_the_platforms_own():
    config = dataclasses.replace(CLIP, dtype="bfloat16")
    found = calls(config)[0]()
    assert len(found) > 10
    highest = jax.lax.Precision.HIGHEST
    assert all(eqn.params["precision"] not in (highest, (highest, highest)) for eqn in found)
