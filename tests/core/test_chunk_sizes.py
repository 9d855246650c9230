"""Chunks of a wide and a narrow size do what chunks of one size do.

Elsewhere the tests have one size alone (conftest.py): each is compiled.
"""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import EDITS, FASTVITHD, ROUNDING, deviation, edit, random_params

import diffvis_jax as dv
from diffvis_jax.core import cells

CONFIG = dataclasses.replace(FASTVITHD, depths=(1, 1, 1, 1, 1))


@pytest.fixture(scope="module")
def steps():
    """The step with chunks of one size, and of two in stages 2 to 4, of which attention's in stage
    3 are others."""

    def compiled(wide, queries):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(cells._WIDE_CELLS, "cpu", wide)
            patch.setitem(cells._CHUNK_QUERIES, "cpu", queries)
            step = jax.jit(lambda *args: dv.encode_step(*args[:3], config=CONFIG, policy=args[3]))
            step(*arguments)  # later calls find it compiled
            sizes = [cells.chunk_sizes(positions, 16) for positions in (16, 4, 1)]
            sizes.append(cells.chunk_sizes(4, 16, attending=True))
        return step, sizes

    frames = np.zeros((2, 256, 256, 3), np.uint8)
    margins = np.zeros(5, np.float32)
    arguments = random_params(CONFIG), dv.init_cache(CONFIG, 2), frames, dv.Policy(margin=margins)
    one, two = compiled(10**9, 512), compiled(8, 32)
    assert one[1] == [(8,), (16,), (16,), (16,)]
    assert two[1] == [(8, 1), (16, 2), (16, 2), (8, 1)]
    return one[0], two[0]


@pytest.mark.parametrize("margins", [(0, 0, 0, 0, 0), (1, 1, 1, 1, 1), (0, 0, 1, 1, 2)])
def test_two_sizes_do_what_one_does(steps, margins):
    params, policy = random_params(CONFIG), dv.Policy(margin=np.asarray(margins, np.float32))
    first = np.random.default_rng(3).integers(0, 256, (2, 256, 256, 3), np.uint8)
    frames, caches = first, [dv.init_cache(CONFIG, 2)] * 2
    for seed, kind in enumerate(("nothing", *EDITS)):
        frames = np.stack([edit(frames[b], kind, seed + b, first[b]) for b in range(2)])
        (one, caches[0], report), (two, caches[1], other) = (
            step(params, cache, frames, policy) for step, cache in zip(steps, caches, strict=True)
        )
        assert deviation(two, one) <= ROUNDING
        np.testing.assert_array_equal(other.recomputed, report.recomputed)
