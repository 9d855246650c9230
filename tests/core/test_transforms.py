"""The step under JAX's transformations: jit, scan, shard_map, donation, gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy as toy_tower
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from tiny import ROUNDING, deviation, edit

import diffvis_jax as dv
from diffvis_jax import towers
from diffvis_jax.core.step import jit_encode
from diffvis_jax.ops.storage import values_of
from diffvis_jax.towers.init import cast_params

# Each is a program of its own for every tower: the smallest one is enough most of the time.
TOWERS = ["clip", *(pytest.param(name, marks=pytest.mark.slow) for name in ("toy", "fastvithd"))]


def episode(kit, steps: int, streams: int):
    """`uint8 [T, B, H, W, 3]`."""
    frames = [kit.frames(seed=3, batch=streams)]
    for t in range(1, steps):
        kinds = ("rectangle", "nothing", "pixel", "scroll")
        last = frames[-1]
        frames.append(
            np.stack([edit(x, kinds[(t + b) % 4], 9 * t + b, x) for b, x in enumerate(last)])
        )
    return np.stack(frames)


def one_by_one(kit, frames, policy):
    """The same episode with `kit.step`, two streams at a time -> tokens, reports, last caches."""
    tokens, reports, caches = [], [], []
    for b in range(0, frames.shape[1], 2):
        cache, some, told = dv.init_cache(kit.config, 2), [], []
        for pictures in frames[:, b : b + 2]:
            token, cache, report = kit.step(kit.params, cache, pictures, policy)
            some.append(token)
            told.append(report)
        tokens.append(np.stack(some))
        reports.append(jax.tree.map(lambda *x: np.stack(x), *told))
        caches.append(cache)
    join = lambda axis: lambda *x: np.concatenate(x, axis)  # noqa: E731
    return join(1)(*tokens), jax.tree.map(join(1), *reports), jax.tree.map(join(0), *caches)


def pointers(cache):
    """Where the large arrays of a cache lie, on the second device if there are several."""
    arrays = (*cache.maps, *cache.keys, *cache.values)
    return [x.addressable_shards[-1].data.unsafe_buffer_pointer() for x in arrays]


def scanned(kit):
    def over_time(params, cache, frames, policy):
        def body(cache, pictures):
            tokens, cache, report = dv.encode_step(
                params, cache, pictures, config=kit.config, policy=policy
            )
            return cache, (tokens, report)

        return jax.lax.scan(body, cache, frames)

    return over_time


@pytest.mark.parametrize("name", TOWERS)
def test_jit_scan_shard_map_and_donation_in_one(name, request):
    """Four streams on four devices, over time, with the cache donated: equal to single steps."""
    kit = request.getfixturevalue(name)
    mesh = jax.make_mesh((4,), ("streams",), axis_types=(jax.sharding.AxisType.Auto,))
    run = jax.jit(
        jax.shard_map(
            scanned(kit),
            mesh=mesh,
            in_specs=(P(), P("streams"), P(None, "streams"), P()),
            out_specs=(P("streams"), P(None, "streams")),
        ),
        donate_argnums=1,
    )
    frames = episode(kit, 5, 4)
    for policy in (dv.Policy.exact(), dv.Policy(margin=0)):
        policy = policy.resolved(kit.tower)
        cache = jax.device_put(dv.init_cache(kit.config, 4), NamedSharding(mesh, P("streams")))
        before = pointers(cache)
        new, (tokens, report) = run(kit.params, cache, frames, policy)
        assert pointers(new) == before  # they stayed where they were
        assert cache.keys[0].is_deleted()
        expected, told, caches = one_by_one(kit, frames, policy)
        assert deviation(tokens, expected) < ROUNDING
        np.testing.assert_array_equal(report.path, told.path)
        np.testing.assert_allclose(report.recomputed, told.recomputed, rtol=1e-5)
        assert deviation(new.keys[-1], caches.keys[-1]) < ROUNDING


@pytest.mark.slow
def test_inside_a_callers_jit(clip):
    kit = clip

    @jax.jit
    def served(params, cache, frames):
        policy = dv.Policy.exact(change_threshold=1 / 255)  # made under the trace
        tokens, cache, report = dv.encode_step(
            params, cache, frames[:, ::-1], config=kit.config, policy=policy
        )
        return tokens.mean(-1), cache, report.recomputed.sum()

    first = kit.frames()
    cache = dv.init_cache(kit.config, 2)
    for frames in (first, kit.change_patch(first, 1, 1)):
        means, cache, _ = served(kit.params, cache, frames)
        assert deviation(means, kit.full(frames[:, ::-1]).mean(-1)) < 10 * ROUNDING


def test_a_policy_may_be_made_under_a_trace(clip):
    """Traced only; the test above runs it."""

    def served(params, cache, frames, threshold):
        policy = dv.Policy.exact(change_threshold=threshold)
        return dv.encode_step(params, cache, frames, config=clip.config, policy=policy)

    cache = dv.init_cache(clip.config, 2)
    tokens, new, report = jax.eval_shape(served, clip.params, cache, clip.frames(), 1 / 255)
    assert tokens.shape == (2, clip.tower.tokens, clip.tower.token_width)
    assert report.path.shape == (2,)
    like = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert like(new) == like(cache)


@pytest.mark.slow
def test_scan_over_frames(clip):
    frames = episode(clip, 6, 2)
    policy = dv.Policy().resolved(clip.tower)
    _, (tokens, report) = jax.jit(scanned(clip))(
        clip.params, dv.init_cache(clip.config, 2), frames, policy
    )
    expected, told, _ = one_by_one(clip, frames, policy)
    assert deviation(tokens, expected) < ROUNDING
    np.testing.assert_array_equal(report.path, told.path)


@pytest.mark.slow
def test_without_jit_is_the_same(clip):
    frames = clip.frames(batch=1)
    cache = dv.init_cache(clip.config)
    tokens = dv.encode_step(clip.params, cache, frames, config=clip.config)[0]
    assert clip.error(tokens, frames) < ROUNDING
    tokens = dv.encode(clip.params, frames, config=clip.config)
    assert clip.error(tokens, frames) < ROUNDING


# ---- donation ----------------------------------------------------------------------------------


# Donated steps of one stream against kept ones of two: test_invariants.py.
@pytest.mark.slow
def test_donated_and_kept_agree(clip):
    frames = clip.frames(batch=1)
    donated = kept = None
    for policy in (dv.Policy(), dv.Policy(margin=0), dv.Policy.exact()):
        results = []
        for step, cache in ((clip.serve, donated), (dv.make_step(clip.config, donate=False), kept)):
            cache = dv.init_cache(clip.config) if cache is None else cache
            results.append(step(clip.params, cache, frames, policy))
        (tokens, donated, _), (other, kept, _) = results
        np.testing.assert_array_equal(tokens, other)
        assert all(
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(donated), jax.tree.leaves(kept), strict=True)
        )
        frames = clip.change_patch(frames, 2, 2, seed=int(frames[0, 0, 0, 0]))


def test_a_kept_cache_can_be_used_again(clip):
    frames, _, cache = clip.start()
    before = jax.tree.map(np.array, cache)
    one = clip.step(clip.params, cache, clip.change_patch(frames, 0, 0))[0]
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, cache, before)))
    two = clip.step(clip.params, cache, clip.change_patch(frames, 0, 0))[0]
    np.testing.assert_array_equal(one, two)


def test_a_donated_cache_is_aliased(kit):
    frames, cache = kit.frames(batch=1), dv.init_cache(kit.config)
    compiled = kit.serve.lower(kit.params, cache, frames).compile()
    large = sum(x.nbytes for x in (*cache.maps, *cache.keys, *cache.values, cache.pixels))
    assert compiled.memory_analysis().alias_size_in_bytes >= large
    before = pointers(cache)
    _, new, _ = kit.serve(kit.params, cache, frames)
    assert pointers(new) == before
    assert cache.keys[0].is_deleted()


def test_no_two_leaves_of_a_new_cache_share_memory(kit):
    leaves = jax.tree.leaves(dv.init_cache(kit.config, 2))
    pointers = {x.unsafe_buffer_pointer() for x in leaves}
    assert len(pointers) == len(leaves)
    assert sum(x.nbytes for x in leaves) == dv.init_cache(kit.config, 2).nbytes


# ---- gradients ---------------------------------------------------------------------------------


def grouped(x, kernel, bias, stride=1):
    return bias + jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=x.shape[-1],
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_the_full_encode_is_differentiable(name, request, monkeypatch):
    kit = request.getfixturevalue(name)
    frames = kit.frames(batch=1)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((kit.tower.tokens, kit.tower.token_width)).astype(np.float32)

    def loss(params):
        return (dv.encode(params, frames, config=kit.config) * weights).sum()

    # The gradient of 15 depthwise convolutions as shifts takes a minute to compile: that of one
    # is in test_ops.py, here they are grouped convolutions.
    monkeypatch.setattr(towers.fastvithd, "depthwise_conv", grouped)
    monkeypatch.setattr(toy_tower, "depthwise_conv", grouped)
    start = kit.params
    if name == "fastvithd":  # off the kink of the gate's ReLU, whose inputs are all but zero
        gate = start["head"]["gate"]
        reduce = gate["reduce"] | {"bias": gate["reduce"]["bias"] + 1}
        start = start | {"head": start["head"] | {"gate": gate | {"reduce": reduce}}}
    gradient = jax.jit(jax.grad(loss))(start)
    used = {path: x for path, x in jax.tree_util.tree_leaves_with_path(gradient) if np.any(x)}
    assert all(np.isfinite(x).all() for x in used.values())
    # CLIP: the last block, the post norm and the projection do not reach the tokens.
    unused = {p[0].key for p, x in jax.tree_util.tree_leaves_with_path(gradient) if not np.any(x)}
    assert unused <= {"block_2", "post", "projection"}
    direction = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), start)
    slopes = jax.tree.map(lambda a, b: float((a * b).sum()), gradient, direction)
    slope = sum(jax.tree.leaves(slopes))

    def moved(step):
        params = jax.tree.map(lambda x, d: x + step * d, start, direction)
        tokens = jit_encode(params, frames, config=kit.config, output="intermediates")["tokens"]
        return float((np.asarray(tokens[0], np.float64) * weights).sum())

    step = 1e-3 if name == "clip" else 3e-4
    assert slope == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOWERS)
def test_bfloat16_step_equals_its_encode(name, request):
    kit = request.getfixturevalue(name)
    config = dataclasses.replace(kit.config, dtype="bfloat16")
    params = cast_params(kit.params, "bfloat16")
    frames = kit.frames(batch=1)
    step = dv.make_step(config)
    tokens, cache, _ = step(params, dv.init_cache(config), frames, dv.Policy.exact())
    frames = kit.change_patch(frames, 1, 1)
    tokens, cache, _ = step(params, cache, frames, dv.Policy.exact())
    # Two bytes a value: bfloat16, as its bits.
    assert values_of(cache.keys[0]).dtype == jnp.bfloat16
    assert all(values_of(x).dtype == jnp.bfloat16 for x in cache.maps)
    full = jit_encode(params, frames, config=config)
    assert tokens.dtype == full.dtype == jnp.float32
    assert deviation(tokens, full) < 2e-2  # a bit of bfloat16 is 0.4 %
    assert deviation(full, kit.full(frames)) < 5e-2
