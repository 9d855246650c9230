"""Compaction, windows and write-back, against loops in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.core import cells
from diffvis_jax.ops.storage import kept_dtype, values_of


@pytest.mark.parametrize("sizes", [(1,), (3,), (4,), (12,), (4, 1), (8, 1), (6, 2), (12, 3)])
@given(seed=st.integers(0, 2**16), share=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]))
def test_every_marked_cell_is_visited(sizes, seed, share):
    mask = np.random.default_rng(seed).random((2, 5)) < share

    def body(carry, index):
        marks, trips = carry
        return marks.at[index].set(1 + index), trips + 1  # as often as it stands there: the same

    run = jax.jit(lambda m: cells.for_each_chunk(m, sizes, body, (jnp.zeros(10, int), 0)))
    marks, trips = run(mask)
    expected = np.where(mask.reshape(-1), 1 + np.arange(10), 0)
    np.testing.assert_array_equal(marks, expected)
    # Work follows the change, and a small rest goes into narrow chunks.
    full, rest = divmod(int(mask.sum()), sizes[0])
    narrow = -(-rest // sizes[-1])
    assert trips == full + (narrow if narrow <= 2 else 1)


@pytest.mark.parametrize("marked", [1, 3, 4, 5, 8, 10])
def test_a_chunk_knows_how_many_cells_it_holds(marked):
    mask = np.arange(10) < marked
    run = jax.jit(lambda m: cells.for_each_chunk(m, (4,), lambda n, i: n + cells.present(i), 0))
    assert run(mask) == marked


@given(seed=st.integers(0, 2**16), count=st.integers(0, 12))
def test_the_lowest_are_those_that_sorting_puts_first(seed, count):
    rng = np.random.default_rng(seed)
    keys, among = rng.integers(0, 4, (3, 10)), rng.random((3, 10)) < 0.6
    expected = np.zeros_like(among)
    for row, (key, mine) in enumerate(zip(keys, among, strict=True)):
        expected[row, [i for i in np.argsort(key, kind="stable") if mine[i]][:count]] = True
    np.testing.assert_array_equal(cells.lowest(jnp.asarray(keys), among, count), expected)


@pytest.mark.parametrize("streams", [1, 3])
def test_every_marked_stream_is_visited_once(streams):
    for bits in range(2**streams):
        mask = np.array([bits >> b & 1 for b in range(streams)], bool)
        visits = cells.for_each_stream(mask, lambda c, b: c.at[b].add(1), jnp.zeros(streams, int))
        np.testing.assert_array_equal(visits, mask)


WHERE = np.array([1, 0, 1]), np.array([0, 3, 2]), np.array([4, 0, 1])


def test_windows_are_read_where_they_are():
    x = np.random.default_rng(0).standard_normal((2, 6, 7, 3))
    found = jax.jit(lambda x: cells.read(x, *map(jnp.asarray, WHERE), 3, 2))(x)
    expected = [x[b, i : i + 3, j : j + 2] for b, i, j in zip(*WHERE, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])  # each reads in its own way
@pytest.mark.parametrize("side", [2, 5, 9])  # also windows that are larger than the map
def test_windows_are_zero_beyond_the_map(side, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = np.random.default_rng(0).standard_normal((2, 6, 7, 3)).astype(np.float32)
    where = np.array([1, 0, 1, 0]), np.array([-3, 0, 4, -2]), np.array([2, -3, 5, 1])
    read = jax.jit(lambda x: cells.read(x, *map(jnp.asarray, where), side, side, 9))
    padded = np.pad(x, ((0, 0), (9, 9 + side), (9, 9 + side), (0, 0)))
    expected = [
        padded[b, i + 9 : i + 9 + side, j + 9 : j + 9 + side]
        for b, i, j in zip(*where, strict=True)
    ]
    np.testing.assert_array_equal(read(x), expected)


def test_windows_are_written_where_they_belong():
    x = np.random.default_rng(0).standard_normal((2, 6, 7, 3)).astype(np.float32)
    windows = np.random.default_rng(1).standard_normal((3, 3, 2, 3)).astype(np.float32)
    found = jax.jit(lambda x: cells.write(x, windows, *map(jnp.asarray, WHERE)))(x)
    expected = x.copy()
    for k, (b, i, j) in enumerate(zip(*WHERE, strict=True)):
        expected[b, i : i + 3, j : j + 2] = windows[k]
    np.testing.assert_array_equal(found, expected)


def test_windows_that_are_not_wanted_are_left_alone():
    x = np.random.default_rng(0).standard_normal((2, 6, 7, 3)).astype(np.float32)
    at = [jnp.asarray(each) for each in WHERE]

    def copy(x, count):
        windows = cells.read(x, *at, 3, 2, 1, count)
        return windows, cells.write(jnp.full_like(x, 7), windows, *at, count)

    copy = jax.jit(copy)
    for count in (1, 2, 3):
        windows, written = copy(x, jnp.int32(count))
        assert np.isfinite(windows).all()
        expected = np.full_like(x, 7)
        for b, i, j in list(zip(*WHERE, strict=True))[:count]:
            expected[b, i : i + 3, j : j + 2] = x[b, i : i + 3, j : j + 2]
        np.testing.assert_array_equal(written, expected)


@pytest.mark.parametrize("positions", [1, 4, 64, 256, 4096])
@pytest.mark.parametrize("count", [1, 16, 577])
@pytest.mark.parametrize("wide", [1, 8, 10**9])
@pytest.mark.parametrize("attending", [False, True])
def test_chunks_are_of_sensible_sizes(positions, count, wide, attending, monkeypatch):
    monkeypatch.setitem(cells._WIDE_CELLS, "cpu", wide)
    sizes = cells.chunk_sizes(positions, count, attending=attending)
    assert len(sizes) in (1, 2)
    assert 1 <= sizes[-1] <= sizes[0] <= count


def test_inside_changes_no_values():
    tree = {"a": jnp.arange(3.0), "b": (jnp.ones((2, 2)),)}
    found = jax.jit(cells.inside)(tree, jnp.int32(0))
    assert jax.tree.all(jax.tree.map(np.array_equal, found, tree))


def test_bfloat16_is_kept_as_bits_and_comes_back_rounded():
    values = np.random.default_rng(0).normal(size=(2, 2, 2, 3)).astype(np.float32)
    kept = jnp.zeros((1, 6, 6, 3), kept_dtype(jnp.dtype(jnp.bfloat16)))
    at = jnp.array([0, 0]), jnp.array([1, 4]), jnp.array([3, 0])
    found = cells.write(kept, jnp.asarray(values), *at)
    assert found.dtype == jnp.uint16
    back = cells.read(found, *at, 2, 2)
    assert back.dtype == jnp.bfloat16
    np.testing.assert_array_equal(back, jnp.asarray(values, jnp.bfloat16))
    assert (np.asarray(values_of(found)) != 0).sum() == values.size
