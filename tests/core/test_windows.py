"""Lists of cells, chunks and windows, against loops in numpy, in both lowerings."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.core.recompute import runs_of_streams
from diffvis_jax.core.tuning import CPU, GPU
from diffvis_jax.core.windows import (
    Grid,
    for_each_chunk,
    for_each_stream,
    listed,
    located,
    loop_if,
    read,
    write,
)

GRID = (3, 4)
masks = st.builds(
    lambda seed, share: np.random.default_rng(seed).random((2, 12)) < share,
    st.integers(0, 2**16),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)


list_cells = jax.jit(listed, static_argnums=(1, 2))  # once for all examples, as what follows


@given(mask=masks)
def test_listed_cells_are_the_marked_ones_in_order(mask):
    cells = list_cells(mask, GRID, 5)
    assert cells.at.shape == (3, 24 + 5)
    expected = [(b, *divmod(cell, GRID[1])) for b, cell in np.argwhere(mask)]
    assert int(cells.count) == len(expected)
    assert np.asarray(cells.at).T[: len(expected)].tolist() == [list(each) for each in expected]
    # What does not count is of a cell that exists.
    assert (np.asarray(cells.at) < np.array([[2], [3], [4]])).all()


@given(mask=masks)
def test_lists_of_several_layers(mask):
    several = np.stack([mask, ~mask, np.zeros_like(mask)])
    cells = list_cells(several, GRID, 0)
    for layer in range(3):
        alone = list_cells(several[layer], GRID, 0)
        np.testing.assert_array_equal(cells.of(layer).at, alone.at)
        assert int(cells.of(layer).count) == int(alone.count)


@functools.partial(jax.jit, static_argnames="size")
def visits_of_cells(mask, size):
    def body(visits, at, count):
        index = at[0] * 12 + at[1] * GRID[1] + at[2]
        return visits.at[jnp.where(jnp.arange(size) < count, index, 24)].add(1, mode="drop")

    return for_each_chunk(listed(mask, GRID, size), size, body, jnp.zeros(24, int))


@given(mask=masks, size=st.sampled_from([1, 4, 5]))
def test_each_cell_is_visited_once(mask, size):
    np.testing.assert_array_equal(visits_of_cells(mask, size), mask.reshape(-1))


@jax.jit
def visits_of_streams(mask):
    return for_each_stream(
        listed(mask[:, None], (1, 1)),
        lambda visits, b: visits.at[b].add(1),
        jnp.zeros(len(mask), int),
    )


@pytest.mark.parametrize("streams", [[True], [False], [True, False, True], [False, False]])
def test_each_stream_is_visited_once(streams):
    mask = np.array(streams)
    np.testing.assert_array_equal(visits_of_streams(mask), mask)


@functools.partial(jax.jit, static_argnames="size")
def every_run(mask, size):
    """How many there are, and stream, cells and count of each: 24 entries."""
    runs = runs_of_streams(listed(mask, GRID, size), 2, size)
    return runs.total, jax.lax.map(runs.at, jnp.arange(24, dtype=jnp.int32))


@given(mask=masks, size=st.sampled_from([1, 3, 12]))
def test_runs_hold_the_cells_of_one_stream(mask, size):
    total, runs = every_run(mask, size)
    found = []
    for number in range(int(total)):
        b, at, count = (np.asarray(each)[number] for each in runs)
        assert 1 <= int(count) <= size
        assert set(at[0, : int(count)].tolist()) == {int(b)}
        found += at[:, : int(count)].T.tolist()
    assert found == [[b, *divmod(cell, GRID[1])] for b, cell in np.argwhere(mask).tolist()]


@functools.partial(jax.jit, static_argnames="tuning")
def cut_out(maps, at, count, tuning):
    return read(maps, Grid(jnp.int32(1), 2, 0), at, 4, count, tuning)


@functools.partial(jax.jit, static_argnames="tuning")
def put_back(maps, windows, at, count, tuning):
    return write(maps, windows, Grid(jnp.int32(2), 2, 1), at, count, tuning)


@pytest.mark.parametrize("tuning", [CPU, GPU], ids=["loops", "gathers"])
@pytest.mark.parametrize("dtype", ["float32", "uint16"])
@given(seed=st.integers(0, 2**16), count=st.integers(1, 5))
def test_windows_are_read_and_written(tuning, dtype, seed, count):
    rng = np.random.default_rng(seed)
    maps = rng.integers(0, 1000, (2, 3, 10, 12, 2)).astype(dtype)  # border 1, cells of 2 or more
    at = np.stack([rng.integers(0, 2, 5), *divmod(rng.permutation(12)[:5], 4)]).astype(np.int32)
    found = cut_out(maps, at, count, tuning)
    windows = rng.integers(0, 1000, (5, 2, 2, 2)).astype("float32")
    expected = maps.copy()
    for k, (b, row, column) in enumerate(at.T):
        if k < count:
            cut = maps[b, 1, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
            np.testing.assert_array_equal(
                np.asarray(found)[k].view(dtype[0] + "2" if dtype == "uint16" else "f4"), cut
            )
            if dtype == "float32":
                place = slice(2 * row + 1, 2 * row + 3), slice(2 * column + 1, 2 * column + 3)
                expected[b, 2][place] = windows[k]
    if dtype == "float32":
        np.testing.assert_array_equal(put_back(maps, windows, at, count, tuning), expected)


def test_a_loop_of_one_trip_is_a_conditional():
    run = jax.jit(lambda needed, x: loop_if(needed, lambda x: x + 1, x))
    assert [int(run(flag, 3)) for flag in (True, False)] == [4, 3]


def test_cells_are_found_by_their_number():
    found = np.stack(located(jnp.arange(24, dtype=jnp.int32), GRID))
    np.testing.assert_array_equal(found, np.stack(np.unravel_index(np.arange(24), (2, *GRID))))


@pytest.mark.parametrize("tuning", [CPU, GPU])
def test_window_sizes_ascend_and_fit(tuning):
    for positions in (1, 16, 256):
        for cells in (1, 16, 577):
            sizes = tuning.window_sizes(positions, cells)
            assert list(sizes) == sorted(set(sizes))
            assert sizes[-1] <= cells
            assert sizes[-1] * positions <= max(positions, tuning.window_rows[-1])


def test_a_tuning_is_hashable_and_comparable():
    assert dataclasses.replace(CPU) == CPU
    assert hash(dataclasses.replace(CPU)) == hash(CPU)
    assert CPU != GPU
