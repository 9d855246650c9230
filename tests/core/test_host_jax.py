"""The step inside a host that has set JAX otherwise: same results, same dtypes."""

import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.extend
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tiny import ROUNDING, deviation, strict

import diffvis_jax as dv
from diffvis_jax.core.slots import encode_slots, init_slots, make_slot_step
from diffvis_jax.core.streams import AXIS, init_streams, make_stream_step, on_all, on_devices

pytestmark = pytest.mark.slow  # each setting compiles programs of its own

POLICIES = (None, dv.Policy(margin=0, settle=0), dv.Policy.exact(), dv.Policy(refresh_patches=2))


def explicit_mesh(devices: int):
    return jax.make_mesh(
        (devices,), (AXIS,), axis_types=(AxisType.Explicit,), devices=jax.devices()[:devices]
    )


SETTINGS = {
    "strict": strict,
    "nans": lambda: jax.debug_nans(True),
    "device": lambda: jax.default_device(jax.devices()[1]),
    "mesh of 1": lambda: jax.set_mesh(explicit_mesh(1)),
    "mesh of 4": lambda: jax.set_mesh(explicit_mesh(4)),
}


def numpy(tree):
    return jax.tree.map(np.asarray, tree)


def screens(kit, batch=2):
    frames = kit.frames(batch=batch)
    edited = kit.change_patch(frames, 1, 1)
    return [frames, edited, edited, kit.change_patch(edited, 2, 3, stream=0)]


def episode(kit, step):
    """Tokens, reports and dtypes of a few steps; the parameters are the host's own."""
    params, cache = numpy(kit.params), dv.init_cache(kit.config, 2)
    dtypes = jax.tree.map(lambda x: x.dtype, cache)
    for frames, policy in zip(screens(kit), POLICIES, strict=True):
        tokens, cache, report = step(params, cache, frames, policy)
        assert jax.tree.map(lambda x: x.dtype, cache) == dtypes
        yield np.asarray(tokens), numpy(report)


@pytest.mark.parametrize("name", ["toy", "clip"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_step_gives_the_same(setting, name, request):
    kit = request.getfixturevalue(name)
    expected = list(episode(kit, kit.step))
    with SETTINGS[setting]():
        found = list(episode(kit, dv.make_step(kit.config, donate=False)))
    for (tokens, report), (other, other_report) in zip(expected, found, strict=True):
        assert other.dtype == np.float32
        assert deviation(other, tokens) < ROUNDING
        np.testing.assert_array_equal(report.path, other_report.path)
        for one, two in zip(jax.tree.leaves(report), jax.tree.leaves(other_report), strict=True):
            assert one.dtype == two.dtype
            np.testing.assert_allclose(one, two, rtol=1e-5)


def test_the_full_encode_and_the_audit_give_the_same(toy):
    frames, _, cache = toy.start()
    cache, params = numpy(cache), numpy(toy.params)
    with strict():
        tokens = dv.encode(params, frames, config=toy.config)
        error = dv.audit(params, cache, config=toy.config)
    assert tokens.dtype == error.dtype == np.float32
    assert toy.error(tokens, frames) < ROUNDING
    assert np.asarray(error).max() < ROUNDING * 10


def test_slots_give_the_same(toy):
    other = toy.frames(5)
    frames = [toy.frames(), other, toy.frames(), toy.change_patch(other, 0, 0)]

    def walk():
        step, slots = make_slot_step(toy.config, donate=False), init_slots(toy.config, 2)
        for frame in frames:
            tokens, slots, report, at = step(numpy(toy.params), slots, frame)
            yield np.asarray(tokens), np.asarray(report.path), np.asarray(at)

    expected = list(walk())
    with strict():
        found = list(walk())
    for (tokens, path, at), (other_tokens, other_path, other_at) in zip(
        expected, found, strict=True
    ):
        assert deviation(other_tokens, tokens) < ROUNDING
        assert (path.tolist(), at.tolist()) == (other_path.tolist(), other_at.tolist())
        assert at.dtype == other_at.dtype == np.int32


def equations(jaxpr):
    """All equations of a traced program, those of loops and branches included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.parametrize("name", ["toy", "clip"])
def test_no_array_is_float64(name, request):
    """Half as fast, and not what the same step computes elsewhere."""
    kit = request.getfixturevalue(name)
    params, frames = numpy(kit.params), kit.frames()
    with jax.enable_x64(True):
        cache, slots = dv.init_cache(kit.config, 2), init_slots(kit.config, 2)
        focus = np.zeros((2, *kit.tower.grid), bool)
        step = functools.partial(dv.encode_step, config=kit.config)
        programs = [
            jax.make_jaxpr(functools.partial(step, focus=focus))(params, cache, frames),
            jax.make_jaxpr(functools.partial(encode_slots, config=kit.config))(
                params, slots, frames
            ),
        ]
    for program in programs:
        found = list(equations(program.jaxpr))
        assert len(found) > 500  # the loops were looked into
        wide = [
            f"{equation.primitive} {out.aval}"
            for equation in found
            for out in equation.outvars
            if getattr(out.aval, "dtype", None) == np.float64 and out.aval.ndim
        ]
        assert wide == []


def test_streams_on_the_devices_of_a_hosts_explicit_mesh(toy):
    """Sharded streams go through `shard_map`, as `make_stream_step` does it."""
    mesh, frames = explicit_mesh(4), toy.frames(batch=4)
    every = np.ones(4, bool)
    with jax.set_mesh(mesh):
        step = make_stream_step(toy.config, mesh)
        cache = init_streams(toy.config, 4, mesh)
        params = on_all(numpy(toy.params), mesh)
        for fresh in (every, ~every):
            given = (on_devices(x, mesh) for x in (frames, fresh, every))
            tokens, cache, _ = step(params, cache, *given, dv.Policy.exact())
            assert tokens.sharding == NamedSharding(mesh, P(AXIS, None, None))
            assert toy.error(tokens, frames) < ROUNDING
            frames = toy.change_patch(frames, 1, 2)


def test_mapped_over_caches(toy):
    """`vmap` over single streams: each as if alone."""
    step = jax.jit(jax.vmap(functools.partial(dv.encode_step, config=toy.config), (None, 0, 0)))
    cache = jax.tree.map(lambda x: x[:, None], dv.init_cache(toy.config, 2))
    single = dv.init_cache(toy.config, 2)
    for frames in screens(toy)[:3]:
        tokens, cache, report = step(toy.params, cache, frames[:, None])
        expected, single, said = toy.step(toy.params, single, frames)
        assert deviation(tokens[:, 0], expected) < ROUNDING
        assert report.path[:, 0].tolist() == said.path.tolist()


def test_threads_do_not_meet(toy):
    """Each with a cache of its own, and one compiled step."""

    def follow(seed: int):
        frames, cache, tokens = toy.frames(seed, 1), dv.init_cache(toy.config), None
        for patch in ((0, 0), (1, 3), (3, 2)):
            frames = toy.change_patch(frames, *patch)
            tokens, cache, _ = toy.serve(toy.params, cache, frames, dv.Policy.exact())
        return np.asarray(tokens), frames

    with ThreadPoolExecutor(4) as pool:
        for tokens, frames in pool.map(follow, range(8)):
            assert toy.error(tokens, frames) < ROUNDING
