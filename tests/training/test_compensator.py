"""The plug-in of the Token Compensator: what its formula says exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compensator_file import load_compensator, save_compensator
from compensator_update import (
    BOTTLENECK,
    compensate,
    degree_mask,
    init_compensator,
)
from tiny import CLIP, STEM, deviation, random_params

from diffvis_jax.errors import ConfigError
from diffvis_jax.towers import build

BLOCKS = ["block_0", "block_1"]
PARAMS = random_params(CLIP)


@pytest.fixture(scope="module")
def plugin():
    """As if it had been trained: `up` is not zero."""
    fresh = init_compensator(BLOCKS, CLIP.width, jax.random.key(0))
    return jax.tree.map(lambda x: x + 0.3 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), fresh)


def added(plugin, source, target):
    """What the plug-in adds to queries, keys and values of a row, `[3, R, D]` a block."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, CLIP.width)).astype(np.float32)
    found, changed = [], compensate(PARAMS, plugin, source, target)
    for block in BLOCKS:
        own, new = PARAMS[block]["attention"], changed[block]["attention"]
        change = [
            np.asarray(new[n]["weight"]) - np.asarray(own[n]["weight"]) for n in ("query", "kv")
        ]
        found += [x @ part.T for part in (change[0], *np.split(change[1], 2))]
    return np.stack(found), x


def test_masks_are_exact():
    assert degree_mask(0).sum() == 0
    assert degree_mask(16).tolist() == [1.0] * BOTTLENECK
    assert degree_mask(3).tolist() == [0.0] * (BOTTLENECK - 6) + [1.0] * 6
    masks = np.asarray(degree_mask(jnp.arange(17)))
    for a in range(17):
        for b in range(17):
            difference = masks[b] - masks[a]
            np.testing.assert_array_equal(difference, -(masks[a] - masks[b]))
            np.testing.assert_array_equal(difference + (masks[9] - masks[b]), masks[9] - masks[a])


def test_it_is_the_formula(plugin):
    found, x = added(plugin, 2, 11)
    mask = np.asarray(degree_mask(11)) - np.asarray(degree_mask(2))
    for number, block in enumerate(BLOCKS):
        own = plugin[block]
        query, value = (
            0.1 * ((x @ np.asarray(own[part]["down"])) * mask) @ np.asarray(own[part]["up"])
            for part in ("query", "value")
        )
        assert np.abs(query).max() > 0.1
        np.testing.assert_allclose(found[3 * number], query, atol=1e-5)
        np.testing.assert_array_equal(found[3 * number + 1], 0)  # keys
        np.testing.assert_allclose(found[3 * number + 2], value, atol=1e-5)


def test_nothing_to_itself_there_and_back_and_two_steps(plugin):
    np.testing.assert_array_equal(added(plugin, 5, 5)[0], 0)
    np.testing.assert_array_equal(added(plugin, 0, 0)[0], 0)
    there, back = added(plugin, 3, 12)[0], added(plugin, 12, 3)[0]
    np.testing.assert_allclose(there, -back, atol=2e-5)
    steps = added(plugin, 3, 7)[0] + added(plugin, 7, 12)[0]
    np.testing.assert_allclose(steps, there, atol=2e-5)


def test_untrained_it_adds_nothing_and_the_rest_is_untouched(plugin):
    fresh = init_compensator(BLOCKS, CLIP.width, jax.random.key(0))
    np.testing.assert_array_equal(added(fresh, 0, 16)[0], 0)
    changed = compensate(PARAMS, plugin, 0, 16)
    assert changed["embed"] is PARAMS["embed"]
    assert changed["block_0"]["mlp"] is PARAMS["block_0"]["mlp"]
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), PARAMS)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), changed) == shapes


def test_degrees_are_traced(plugin, compilations):
    both = jax.jit(lambda s, t: compensate(PARAMS, plugin, s, t)["block_1"]["attention"])
    jax.block_until_ready(both(jnp.int32(0), jnp.int32(4)))
    compilations.clear()
    found = both(jnp.int32(9), jnp.int32(2))
    assert not compilations
    own = compensate(PARAMS, plugin, 9, 2)["block_1"]["attention"]
    assert deviation(found["kv"]["weight"], own["kv"]["weight"]) < 1e-6


def test_windowed_towers_have_other_names():
    params = random_params(STEM)
    full = [layer.path[0] for layer in build(STEM).layers if layer.global_]
    plugin = init_compensator(full, STEM.width, jax.random.key(0))
    assert set(plugin) == {"full_1", "full_3"}
    assert compensate(params, plugin, 0, 16).keys() == params.keys()


def test_bad_input(plugin):
    for degree in (-1, 17, 2.5):
        with pytest.raises(ConfigError, match="0-16"):
            degree_mask(degree)
    with pytest.raises(ConfigError, match="block_0"):
        compensate(random_params(STEM), plugin, 0, 4)


def test_a_file_and_back(plugin, tmp_path):
    path = tmp_path / "plugin.npz"
    save_compensator(plugin, path)
    back = load_compensator(path)
    assert jax.tree.structure(back) == jax.tree.structure(plugin)
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(plugin))
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), plugin, back)
    assert max(jax.tree.leaves(apart)) < 2**-11 * largest  # float16
    assert [file.name for file in tmp_path.iterdir()] == ["plugin.npz"]


def test_files_that_are_none(tmp_path):
    path = tmp_path / "plugin.npz"
    with pytest.raises(ConfigError, match="no file of a compensator"):
        load_compensator(path)
    path.write_bytes(b"text")
    with pytest.raises(ConfigError, match="no file of a compensator"):
        load_compensator(path)
    np.savez(path, bias=np.zeros(3))
    with pytest.raises(ConfigError, match="'bias'"):
        load_compensator(path)
    np.savez(path, **{"block_0/query/down": np.zeros((8, BOTTLENECK))})
    with pytest.raises(ConfigError, match="block_0/query"):
        load_compensator(path)
