"""The fast lowerings against the plain definition."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax import lax
from tiny import deviation

from diffvis_jax.ops import pointwise
from diffvis_jax.ops.attention import attention, attention_weights, grouped_attention, layer_norm
from diffvis_jax.ops.depthwise import depthwise_conv
from diffvis_jax.ops.matmul import linear

RNG = np.random.default_rng(0)


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize(("k", "height", "width"), [(3, 9, 8), (7, 13, 14), (7, 7, 8)])
def test_depthwise_equals_the_grouped_convolution(k, height, width, stride, multiplier):
    x = normal(2, height, width, 6)
    kernel, bias = normal(k, k, 1, 6 * multiplier), normal(6 * multiplier)
    found = jax.jit(depthwise_conv, static_argnums=3)(x, kernel, bias, stride)
    expected = bias + lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=6,
    )  # fmt: skip
    assert found.dtype == jnp.float32
    assert deviation(found, expected) < 1e-6


@pytest.mark.parametrize(
    ("stride", "k", "multiplier", "side"),
    [(1, 3, 1, 8), (2, 3, 1, 8), (2, 7, 2, 13), (2, 7, 1, 14), (3, 2, 1, 9)],
)
def test_depthwise_gradient_is_that_of_the_grouped_convolution(stride, k, multiplier, side):
    width = 4 * multiplier
    x, kernel, bias = normal(1, side, side, 4), normal(k, k, 1, width), normal(width)
    weights = normal(side, side, width)

    def grouped(x, kernel, bias):
        return bias + lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=4,
        )  # fmt: skip

    def gradients(conv):
        def loss(*operands):
            y = conv(*operands)
            return (y * weights[: y.shape[1], : y.shape[2]]).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2)))(x, kernel, bias)

    found = gradients(lambda *operands: depthwise_conv(*operands, stride))
    for ours, expected in zip(found, gradients(grouped), strict=True):
        assert deviation(ours, expected) < 1e-5


def test_depthwise_sums_bfloat16_in_float32():
    x, kernel, bias = normal(1, 9, 9, 4, dtype=jnp.bfloat16), normal(7, 7, 1, 4), normal(4)
    found = depthwise_conv(x, kernel, bias)
    assert deviation(found, depthwise_conv(x.astype(jnp.float32), kernel, bias)) < 1e-6


def plain_attention(q, k, v, mask=None):
    """`[B, R, H, d]`, `[B, H, N, d]`, `[B, H, d, N]` -> `[B, R, H * d]`."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("brhd,bhnd->bhrn", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores[..., ~mask] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhrn,bhdn->brhd", weights, v).reshape(*q.shape[:2], -1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("rows", "tokens", "heads"),
    # The last in three chunks of queries on CPU.
    [(11, 11, 1), (3, 11, 4), (1, 16, 2), (2, 17, 4), (1301, 2500, 1)],
)
def test_attention_equals_plain_softmax(rows, tokens, heads, masked):
    d = 16 // heads
    q, k, v = normal(2, rows, heads, d), normal(2, heads, tokens, d), normal(2, heads, d, tokens)
    mask = np.arange(tokens) % 3 != 1 if masked else None
    found = jax.jit(lambda *x: attention(*x, mask=mask))(q, k, v)
    assert deviation(found, plain_attention(q, k, v, mask)) < 2e-6


def test_attention_survives_large_scores():
    q, k, v = 300 * normal(1, 4, 2, 4), 300 * normal(1, 2, 5, 4), normal(1, 2, 4, 5)
    assert deviation(attention(q, k, v), plain_attention(q, k, v)) < 1e-4


def test_attention_ignores_what_the_mask_hides():
    q, k, v = normal(1, 4, 2, 4), normal(1, 2, 5, 4), normal(1, 2, 4, 5)
    mask = np.array([True, True, False, True, True])
    other = attention(q, k.at[:, :, 2].set(99), v.at[..., 2].set(99), mask)
    np.testing.assert_array_equal(other, attention(q, k, v, mask))


def test_each_stream_may_have_a_mask_of_its_own():
    q, k, v = (np.asarray(normal(*s)) for s in ((2, 4, 3, 8), (2, 3, 5, 8), (2, 3, 8, 5)))
    masks = np.array([[True, True, False, True, True], [False, True, True, False, True]])
    found = np.asarray(jax.jit(attention)(q, k, v, masks))
    for b, mask in enumerate(masks):
        alone = jax.jit(attention)(*(x[b : b + 1] for x in (q, k, v)), mask)
        assert deviation(found[b : b + 1], alone) < 1e-6


@pytest.mark.parametrize("lowering", ["cpu", "default"])
def test_the_logarithm_of_a_count_is_as_many_copies(monkeypatch, lowering):
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, **of: of[lowering](*x))
    q, k, v = (np.asarray(normal(*s)) for s in ((2, 4, 3, 8), (2, 3, 5, 8), (2, 3, 8, 5)))
    counts = np.array([[1, 3, 1, 2, 1], [2, 1, 1, 1, 4]])
    mask = np.array([True, True, True, True, False])
    found = attention(q, k, v, mask, bias=jnp.log(jnp.asarray(counts, jnp.float32)))
    for b, count in enumerate(counts):
        one = slice(b, b + 1)
        copies = k[one].repeat(count, 2), v[one].repeat(count, 3)
        expected = plain_attention(q[one], *copies, mask=mask.repeat(count))
        assert deviation(found[one], expected) < 2e-6


feed_forward = jax.jit(pointwise.feed_forward, static_argnames="inset")
HIDDEN = 4096  # wide enough for chunks of 384 rows on CPU


@pytest.mark.parametrize("rows", [1, 20, 767, 768, 1000])
def test_feed_forward_in_chunks_is_the_same(rows):
    x, residual = normal(rows, 6), normal(rows, 6)
    fc1 = {"weight": normal(HIDDEN, 6), "bias": normal(HIDDEN)}
    fc2 = {"weight": normal(6, HIDDEN), "bias": normal(6)}
    hidden = np.asarray(x, np.float64) @ np.asarray(fc1["weight"]).T + np.asarray(fc1["bias"])
    hidden *= 0.5 * (1 + scipy.special.erf(hidden / math.sqrt(2)))
    expected = hidden @ np.asarray(fc2["weight"]).T + np.asarray(fc2["bias"]) + np.asarray(residual)
    assert deviation(feed_forward(x, residual, fc1, fc2), expected) < 4e-6
    found = feed_forward(*(a.reshape(1, rows, 6) for a in (x, residual)), fc1, fc2)
    assert found.shape == (1, rows, 6)
    assert deviation(found[0], expected) < 4e-6


@jax.jit
def plain_feed_forward(x, residual, fc1, fc2):
    return residual + linear(pointwise.gelu(linear(x, **fc1)), **fc2)


@pytest.mark.parametrize("height", [1, 3, 7, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 1e-2)])
def test_feed_forward_in_bands_of_a_map_is_the_same(height, dtype, tolerance):
    """Bands of at most 2 lines of 192: the last one of 7 begins inside the one before."""
    x, around = normal(2, height, 192, 6), normal(2, height + 6, 198, 6)
    fc1 = {"weight": normal(HIDDEN, 6, dtype=dtype), "bias": normal(HIDDEN)}
    fc2 = {"weight": normal(6, HIDDEN, dtype=dtype), "bias": normal(6)}
    whole = plain_feed_forward(x, np.asarray(around)[:, 3:-3, 3:-3], fc1, fc2)
    found = feed_forward(x, around, fc1, fc2, inset=3)
    assert found.shape == x.shape
    assert found.dtype == dtype
    assert deviation(found, whole) < tolerance


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("gelu", lambda t: t * 0.5 * (1 + math.erf(t / math.sqrt(2)))),
        ("quick_gelu", lambda t: t / (1 + math.exp(-1.702 * t))),
        (
            "gelu_pytorch_tanh",
            lambda t: 0.5 * t * (1 + math.tanh(math.sqrt(2 / math.pi) * (t + 0.044715 * t**3))),
        ),
    ],
)
def test_activations(name, definition):
    x = np.linspace(-9, 9, 181)
    found = pointwise.ACTIVATIONS[name](jnp.asarray(x, jnp.float32))
    assert np.abs(found - np.vectorize(definition)(x)).max() < 2e-6


def test_layer_norm_is_pytorchs():
    x, scale, bias = 3 + 5 * normal(4, 16), normal(16), normal(16)
    y = np.asarray(x, np.float64)
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    expected = y * np.asarray(scale) + np.asarray(bias)
    assert deviation(layer_norm(x, scale, bias, 1e-5), expected) < 1e-6


def test_linear_takes_the_weights_dtype_and_sums_in_float32():
    x, weight = normal(5, 300), normal(4, 300, dtype=jnp.bfloat16)
    found = linear(x, weight, normal(4) * 0)
    assert found.dtype == jnp.float32
    rounded = np.asarray(x.astype(jnp.bfloat16), np.float64) @ np.asarray(weight, np.float64).T
    assert deviation(found, rounded) < 1e-5


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(6,), (1, 6), (1, 1, 6), (3, 1, 6), (2, 3, 6), (65, 6)])
def test_linear_of_few_rows(shape, dtype):
    """On CPU their product is that of the weights with them; one of bfloat16 is padded."""
    x, weight, bias = normal(*shape), normal(5, 6, dtype=dtype), normal(5)
    found = jax.jit(linear)(x, weight, bias)
    rounded = np.asarray(x.astype(dtype), np.float64)
    expected = rounded @ np.asarray(weight, np.float64).T + np.asarray(bias, np.float64)
    assert found.dtype == jnp.float32
    assert deviation(found, expected) < 1e-6


def test_grouped_attention_equals_its_definition():
    """Head h sees key-value head h // 2, and no slot beyond its own position."""
    shapes = (2, 3, 4, 8), (2, 2, 7, 8), (2, 2, 7, 8)
    query, key, value = (np.asarray(normal(*shape)) for shape in shapes)
    positions = np.array([[0, 4, 2], [6, 1, 3]], np.int32)
    found = np.asarray(jax.jit(grouped_attention)(query, key, value, positions))
    watched = np.asarray(jax.jit(attention_weights)(query[:, 1], key, positions[:, 1]))
    for b, r, h in np.ndindex(2, 3, 4):
        last = int(positions[b, r]) + 1
        scores = key[b, h // 2, :last] @ query[b, r, h] / 8**0.5
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        expected = weights @ value[b, h // 2, :last]
        assert deviation(found[b, r, 8 * h : 8 * h + 8], expected) < 1e-5
        if r == 1:
            assert deviation(watched[b, h, :last], weights) < 1e-5
            assert not watched[b, h, last:].any()
