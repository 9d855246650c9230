"""Quantised matrices: what rounding costs, and that a row's result depends on that row alone."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from tiny import strict

from diffvis_jax.errors import ConfigError
from diffvis_jax.ops import quantised
from diffvis_jax.ops.matmul import linear
from diffvis_jax.ops.one_of import pick
from diffvis_jax.ops.quantised import KINDS, QuantKernel, dequantise, quantise_kernel

GROUP = 16


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def made(weights, kind, dtype="float32") -> QuantKernel:
    return quantise_kernel(weights, kind, GROUP if kind == "w4" else None, dtype)


def same_bits(a, b) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_rounds_to_the_nearest_code(kind):
    weights = normal(24, 64) * np.exp(normal(24, 1, seed=1))
    kernel = made(weights, kind)
    assert kernel.shape == weights.shape
    lost = np.abs(np.asarray(dequantise(kernel)) - weights).reshape(
        24, -1, 64 if kind != "w4" else 16
    )
    scale = np.asarray(kernel.scale).reshape(24, -1)[..., None]
    assert (lost <= scale / 2 * (1 + 1e-5)).all()
    largest = np.abs(weights).reshape(lost.shape).max(-1, keepdims=True)
    np.testing.assert_allclose(scale, largest / KINDS[kind], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_and_of_one_number(kind):
    weights = np.zeros((3, 32), np.float32)
    weights[1], weights[2] = 0.3, -1e-20
    kernel = made(weights, kind)
    assert (np.asarray(kernel.scale)[0] == 1).all()
    np.testing.assert_allclose(np.asarray(dequantise(kernel)), weights, rtol=1e-6)


def test_half_goes_to_even():
    codes = quantise_kernel(np.array([[127, 0.5, 1.5, -2.5]], np.float32), "w8").values
    assert codes.tolist() == [[127, 0, 2, -2]]


@pytest.mark.parametrize(
    ("weights", "kind", "group", "told"),
    [
        (np.full((2, 4), np.nan, np.float32), "w8", None, "NaN or infinite"),
        (np.array([[1, np.inf]], np.float32), "w8", None, "NaN or infinite"),
        (normal(2, 3, 4), "w8", None, "a float matrix"),
        (np.ones((2, 4), np.int8), "w8", None, "a float matrix"),
        (normal(2, 4), "w2", None, "kind must be one of"),
        (normal(2, 4), "w8", 2, "a group belongs to kind 'w4'"),
        (normal(2, 4), "w4", None, "a group belongs to kind 'w4'"),
        (normal(2, 12), "w4", 8, "divides 12, got 8"),
        (normal(1, 1 << 17), "w8a8", None, "at most 65536 inputs"),
        (quantise_kernel(normal(2, 4), "w8"), "w8", None, "quantised already"),
    ],
)
def test_what_cannot_be_quantised(weights, kind, group, told):
    with pytest.raises(ConfigError, match=told):
        quantise_kernel(weights, kind, group)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 9, 80])
def test_products_are_those_of_the_rounded_matrix(kind, rows, monkeypatch):
    monkeypatch.setattr(quantised, "_CPU_BLOCK", 500)  # several blocks, the last of which overlaps
    kernel, x, bias = made(normal(37, 48), kind), normal(rows, 48, seed=1), normal(37, seed=2)
    found = np.asarray(jax.jit(linear)(x, kernel, bias))
    expected = x @ np.asarray(dequantise(kernel)).T + bias
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < {"w8a8": 0.02, "w8a16": 1e-4}.get(kind, 1e-6)
    if kind == "w8a8":
        assert error > 1e-4  # that activations are rounded at all


@pytest.mark.parametrize("kind", ["w8a8", "w8a16"])
def test_a_row_has_the_same_bits_whoever_shares_its_product(kind):
    kernel, bias = made(normal(40, 96), kind), normal(40, seed=2)
    x = normal(150, 96, seed=1) * np.exp(2 * normal(150, 1, seed=3))
    x[7] = 0
    whole = np.asarray(jax.jit(linear)(x, kernel, bias))
    assert same_bits(whole[7], bias)
    for size in (1, 2, 7, 64, 65):
        for start in (0, 5, 150 - size):
            part = jax.jit(linear)(x[start : start + size], kernel, bias)
            assert same_bits(part, whole[start : start + size]), (size, start)
    batched = jax.jit(linear)(x.reshape(3, 5, 10, 96), kernel, bias)
    assert same_bits(batched.reshape(150, -1), whole)


@pytest.mark.parametrize("kind", ["w8a8", "w8a16"])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_sums_are_of_integers(kind, rows):
    def products(jaxpr):
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "dot_general":
                yield eqn
            for inner in jax.tree.leaves(
                list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from products(inner)

    traced = jax.make_jaxpr(linear)(normal(rows, 32), made(normal(8, 32), kind))
    found = list(products(traced.jaxpr))
    assert found
    for eqn in found:
        assert [x.aval.dtype for x in eqn.invars] == [jnp.int8, jnp.int8]
        assert eqn.outvars[0].aval.dtype == jnp.int32


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_several(kind):
    layers = [{"weight": made(normal(20, 32, seed=n), kind), "bias": normal(20)} for n in range(3)]
    x = normal(5, 32, seed=9)

    @jax.jit
    def each(x):
        def trip(n, found):
            return found.at[n].set(linear(x, **pick(layers, n)))

        return lax.fori_loop(0, 3, trip, jnp.zeros((3, 5, 20)))

    for found, layer in zip(each(x), layers, strict=True):
        np.testing.assert_allclose(found, linear(x, **layer), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["w8", "w4"])
@pytest.mark.parametrize("rows", [3, 100])
def test_no_float_copy_of_a_matrix_is_kept_beside_a_loop(kind, rows):
    kernel = made(normal(112, 96), kind)

    @jax.jit
    def many(x, kernel, trips):
        return lax.fori_loop(0, trips, lambda _, x: x + linear(x, kernel)[:, :96], x)

    text = many.lower(normal(rows, 96), kernel, jnp.int32(3)).compile().as_text()
    entry = text[text.index("\nENTRY") :]
    assert not re.search(r"f32\[(112,96|96,112)\]", entry)


def test_bfloat16_is_what_is_not_quantised():
    kernel = made(normal(16, 32), "w8", "bfloat16")
    assert kernel.dtype == "bfloat16"
    traced = jax.make_jaxpr(linear)(normal(80, 32), kernel)
    assert "bf16[16,32]" in str(traced)
    x = normal(80, 32, seed=1)
    np.testing.assert_allclose(
        linear(x, kernel), x @ np.asarray(dequantise(kernel)).T, rtol=0.1, atol=0.1
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 5, 80])
def test_with_all_that_a_host_can_forbid(kind, rows, monkeypatch):
    monkeypatch.setattr(quantised, "_CPU_BLOCK", 500)
    kernel, x = made(normal(37, 48), kind), jnp.asarray(normal(rows, 48, seed=1))
    expected = jax.jit(linear)(x, kernel)
    with strict():
        assert same_bits(jax.jit(linear)(x, kernel), expected)
