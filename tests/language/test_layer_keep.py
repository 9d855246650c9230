"""Image tokens that go no deeper, against a decoder that computes all rows and masks them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import LANGUAGE, ROUNDING, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.language import decoder, generate
from diffvis_jax.language.kv_cache import init_kv_cache
from diffvis_jax.language.layer_keep import LayerKeep, image_tokens, jit_prefill_kept
from diffvis_jax.ops.attention import rms_norm
from diffvis_jax.ops.matmul import linear

CONFIG = dataclasses.replace(LANGUAGE, layers=4)
R, LENGTH, IMAGES, CAPACITY = 40, 30, 16, 64
KEEP = LayerKeep(at=(0.25, 0.75), keep=(0.5, 0.25))


def prompts(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, R, CONFIG.width)).astype(np.float32)
    image = np.zeros((2, R), bool)
    image[0, 4 : 4 + IMAGES] = True
    image[1, 2 : 2 + IMAGES // 2] = image[1, 14 : 14 + IMAGES // 2] = True
    return jnp.asarray(x), jnp.asarray(image), jnp.asarray([LENGTH, LENGTH - 1], jnp.int32)


def prefill(keep, x, image, length):
    cache = init_kv_cache(CONFIG, 2, CAPACITY)
    return jit_prefill_kept(
        random_params(CONFIG), cache, x, image, length, config=CONFIG, keep=keep, images=IMAGES
    )


def masked(x, image, length, keep, told=None):
    """All rows through all layers; a dropped token is seen by nobody. -> logits of the last row of
    each prompt, or of what was `told` after it."""
    params, found = random_params(CONFIG), []
    for stream in range(len(x)):
        n = int(length[stream])
        h, is_image = x[stream : stream + 1, :n], np.asarray(image[stream, :n])
        if told is not None:
            h = jnp.concatenate([h, told[stream : stream + 1]], axis=1)
            is_image = np.concatenate([is_image, np.zeros(told.shape[1], bool)])
        total = h.shape[1]
        alive, looked = np.ones(total, bool), np.zeros(total)
        rotation = decoder._rotation(jnp.arange(total)[None, :, None], CONFIG)
        for number, (layers, count) in enumerate(keep.segments(CONFIG.layers, IMAGES)):
            if number:
                score = np.where(is_image & alive, looked, -np.inf)
                alive = ~is_image
                alive[np.argsort(-score, kind="stable")[:count]] = True
            for layer in layers:
                own = params[f"layer_{layer}"]
                normed = rms_norm(h, own["input_norm"]["scale"], CONFIG.norm_epsilon)
                q, k, v = decoder._query_key_value(own["attention"], normed, rotation, CONFIG)
                per = CONFIG.heads // CONFIG.kv_heads
                k, v = np.repeat(k[0], per, axis=1), np.repeat(v[0], per, axis=1)
                score = np.einsum("qhd,khd->hqk", q[0], k) / CONFIG.head_width**0.5
                visible = np.tril(np.ones((total, total), bool)) & alive[None]
                score = np.where(visible, score, -np.inf)
                weight = np.exp(score - score.max(-1, keepdims=True))
                weight /= weight.sum(-1, keepdims=True)
                looked = weight[:, n - 1].sum(0)
                mixed = np.einsum("hqk,khd->qhd", weight, v).reshape(1, total, -1)
                h = h + linear(jnp.asarray(mixed), own["attention"]["output"]["weight"])
                normed = rms_norm(h, own["mlp_norm"]["scale"], CONFIG.norm_epsilon)
                h = h + decoder._mlp(own["mlp"], normed)
        found.append(decoder.read_out(params, h[:, -1], config=CONFIG)[0])
    return np.stack(found)


def test_what_goes_no_deeper_is_as_if_masked():
    x, image, length = prompts()
    logits, cache = prefill(KEEP, x, image, length)
    assert deviation(logits, masked(x, image, length, KEEP)) < ROUNDING
    assert cache.dropped.tolist() == [[0, 8, 8, 12]] * 2


def test_all_kept_is_a_plain_prefill():
    x, image, length = prompts(1)
    logits, cache = prefill(LayerKeep(at=(0.5,), keep=(1.0,)), x, image, length)
    plain, other, _ = generate.jit_prefill(
        random_params(CONFIG), init_kv_cache(CONFIG, 2, CAPACITY), x, length, config=CONFIG
    )
    assert deviation(logits, plain) < ROUNDING
    assert cache.dropped.tolist() == [[0] * 4] * 2
    np.testing.assert_array_equal(cache.length, other.length)


def test_an_answer_goes_on_after_what_is_left():
    """Two further rows, one after the other, against the masked decoder on all of them: the words
    of an answer stand at their own positions, in whatever slots."""
    x, image, length = prompts(2)
    _, cache = prefill(KEEP, x, image, length)
    params = random_params(CONFIG)
    ids = jnp.asarray([[3, 5], [7, 11]])
    told = decoder.embed(params, ids)
    for number in range(2):
        row, cache, _ = jax.jit(decoder.forward, static_argnames="config")(
            params, cache, told[:, number : number + 1], cache.length[:, None], config=CONFIG
        )
        cache = dataclasses.replace(cache, length=cache.length + 1)
    logits = decoder.read_out(params, row[:, 0], config=CONFIG)
    assert deviation(logits, masked(x, image, length, KEEP, told)) < ROUNDING


@pytest.mark.parametrize(
    ("at", "keep", "said"),
    [
        ((0.5, 0.25), (0.5, 0.4), "at must be rising shares above 0, at most 1"),
        ((0.25, 0.5), (0.4, 0.5), "keep must be falling shares"),
        ((0.5,), (0.0,), "keep must be falling shares above 0"),
        ((0.5,), (0.5, 0.4), "as many shares of tokens as of layers"),
        ((), (), "as many shares of tokens as of layers"),
    ],
)
def test_shares_that_make_no_sense(at, keep, said):
    with pytest.raises(dv.ConfigError, match=said):
        LayerKeep(at, keep)


def test_how_layers_fall_into_segments():
    keep = LayerKeep()
    runs = [(0, 6, 100), (6, 12, 70), (12, 18, 50), (18, 24, 40)]
    assert keep.segments(24, 100) == [(range(a, b), count) for a, b, count in runs]
    assert LayerKeep((0.01,), (0.5,)).segments(4, 10) == [(range(4), 5)]  # before all layers


def test_prompts_of_as_many_image_tokens():
    assert image_tokens(np.array([[True, False], [False, True]])) == 1
    with pytest.raises(dv.ConfigError, match="as many image tokens each"):
        image_tokens(np.array([[True, True], [False, True]]))
