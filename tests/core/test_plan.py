"""What a step decides, without any arithmetic: plans of the toy tower and of full-size ones."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import ToyConfig

import diffvis_jax as dv
from diffvis_jax.core.budget import cost, oldest, within_budget
from diffvis_jax.core.plan import Change, make_plan
from diffvis_jax.core.tuning import CPU
from diffvis_jax.towers import build

TOY = build(ToyConfig(160, 160))  # 10 x 10 patches: margins have room
EXACT = dv.Policy.exact()
compiled_plan = jax.jit(make_plan, static_argnums=(0, 5))
compiled_budget = jax.jit(within_budget, static_argnums=(0, 4))
compiled_oldest = jax.jit(oldest)


def change_of(tower, *patches, batch=1):
    """Some patches of the first stream differ, in a stream that is being followed."""
    acted = np.zeros((batch, *tower.grid), bool)
    for patch in patches:
        acted[(0, *patch)] = True
    idle = ~acted.any((1, 2))
    none, every = np.zeros(batch, bool), np.ones(batch, bool)
    return Change(
        changed=acted, acted=jnp.asarray(acted), count=acted.sum((1, 2)), skipped=none,
        must=jnp.asarray(none), idle=jnp.asarray(idle), active=jnp.asarray(every),
        work=jnp.asarray(every),
    )  # fmt: skip


def planned(tower, change, policy=EXACT, cache=None, focus=None, tuning=CPU):
    cache = dv.init_cache(tower.config) if cache is None else cache
    return compiled_plan(tower, cache, change, policy.resolved(tower), focus, tuning)


def grid_of(tower, cells):
    return np.asarray(cells).reshape(*cells.shape[:-1], *tower.grid)


def test_a_change_reaches_as_far_as_windows_do():
    plan = planned(TOY, change_of(TOY, (4, 4)), dv.Policy(margin=0, settle=0))
    reached = grid_of(TOY, (plan.stale | plan.compute)[0])
    # The first layer's windows look up and left: what lies below and to the right is reached.
    assert np.argwhere(reached[0]).tolist() == [[4, 4], [4, 5], [5, 4], [5, 5]]
    # Two blocks of a halo of 2 positions of 4 px: 11 and 19 px.
    sides = [int(layer.any(0).sum()) for layer in reached[:4]]
    assert sides == [2, 3, 5, 5]
    assert reached[4:].all()  # from the first attention on, all


@given(margin=st.tuples(st.integers(0, 4), st.integers(0, 4)), patch=st.integers(0, 99))
def test_margins_bound_what_is_computed(margin, patch):
    at = divmod(patch, 10)
    plan = planned(TOY, change_of(TOY, at), dv.Policy(margin=margin, settle=0))
    distance = np.maximum(*(abs(i - p) for i, p in zip(np.indices((10, 10)), at, strict=True)))
    for number, layer in enumerate(TOY.layers):
        computed = grid_of(TOY, plan.compute[0])[number]
        if not plan.dense[0, number]:
            assert (distance[computed] <= margin[layer.stage]).all()
        assert computed[at]
    # Nothing that a change reaches is lost: computed from exact inputs, or stale.
    again = planned(TOY, change_of(TOY, at))
    reached = np.asarray(again.compute[0] | again.stale[0])
    assert (np.asarray(plan.compute[0] | plan.stale[0]) | ~reached).all()


def test_an_exact_plan_leaves_nothing_stale():
    for patches in ([(0, 0)], [(4, 4), (9, 9)]):
        plan = planned(TOY, change_of(TOY, *patches))
        assert not plan.stale.any()
    cache = dv.init_cache(TOY.config)
    cache = dataclasses.replace(cache, stale=jnp.ones_like(cache.stale))
    assert not planned(TOY, change_of(TOY, (1, 1)), cache=cache).stale.any()


def test_what_is_computed_from_stale_inputs_stays_stale():
    plan = planned(TOY, change_of(TOY, (4, 4)), dv.Policy(margin=(9, 0), settle=0))
    computed, stale = np.asarray(plan.compute[0]), np.asarray(plan.stale[0])
    assert not stale[:3].any()  # margins let all of them in
    assert (computed[3] & ~stale[3]).sum() == 1  # of inputs that are all exact
    assert computed[4:].any(-1).all()
    assert stale[4:].all()  # attention to some inputs that are not


def test_what_would_cost_nearly_everything_is_done_in_full():
    everywhere = [(row, column) for row in range(10) for column in range(10)]
    plan = planned(TOY, change_of(TOY, *everywhere))
    assert plan.full.all()
    assert plan.compute.all()
    assert plan.dense.all()
    assert np.asarray(plan.macs).sum() == pytest.approx(TOY.macs, rel=1e-5)
    assert not planned(TOY, change_of(TOY, *everywhere), dv.Policy(margin=0)).stale.any()
    assert not planned(TOY, change_of(TOY, (0, 0)), dv.Policy(margin=0)).full.any()


@given(seed=st.integers(0, 2**16), share=st.sampled_from([0.1, 0.5, 1.0]))
def test_idle_steps_spend_their_budget_layer_by_layer_nearest_first(seed, share):
    rng = np.random.default_rng(seed)
    stale = rng.random((1, len(TOY.layers), 100)) < share
    distance = rng.integers(0, 10, (1, 100)).astype(np.int32)
    budget = float(rng.random() * TOY.macs)
    chosen = np.asarray(compiled_budget(TOY, stale, distance, jnp.array([budget]), CPU))[0]
    assert not (chosen & ~stale[0]).any()
    spent, over = 0.0, False
    for number, layer in enumerate(TOY.layers):
        mine = chosen[number]
        if over:
            assert not mine.any()
            continue
        count, all_of_it = int(mine.sum()), int(stale[0, number].sum())
        if count < all_of_it:
            over = True
            left = stale[0, number] & ~mine
            if count:
                assert distance[0, mine].max() <= distance[0, left].min()
        kv = TOY.layers[number + 1].kv_macs if number + 1 < len(TOY.layers) else 0
        alone, dense = count * (layer.window_macs + kv), 100 * (layer.macs + kv)
        spent += dense if alone > CPU.break_even * dense else alone
        if over:
            assert spent >= budget  # it stopped for lack of budget
    most = max(layer.macs + layer.kv_macs for layer in TOY.layers) * 100
    assert spent <= budget + most


def test_no_budget_means_no_settling():
    stale = np.ones((1, len(TOY.layers), 100), bool)
    distance = np.zeros((1, 100), np.int32)
    assert not compiled_budget(TOY, stale, distance, jnp.zeros(1), CPU).any()
    assert compiled_budget(TOY, stale, distance, jnp.ones(1), CPU).sum() == 1


@given(ages=st.lists(st.integers(0, 5), min_size=6, max_size=6), count=st.integers(0, 7))
def test_the_oldest_are_refreshed(ages, count):
    chosen = np.asarray(compiled_oldest(jnp.array([ages], jnp.int32), jnp.full((1, 1), count)))[0]
    waiting = sorted((age for age in ages if age), reverse=True)
    assert sorted(np.array(ages)[chosen], reverse=True) == waiting[:count]


def test_focus_is_computed_in_every_layer_whatever_the_margins():
    focus = jnp.zeros((1, 10, 10), bool).at[0, 9, 0].set(True)
    policy = dv.Policy(margin=0, settle=0)
    plan = planned(TOY, change_of(TOY, (4, 4)), policy, focus=focus)
    computed = grid_of(TOY, plan.compute[0])
    assert computed[4:, 9, 0].all()  # from where the change reaches it on
    assert not computed[:4, 9, 0].any()
    cache = dataclasses.replace(dv.init_cache(TOY.config), stale=plan.stale, distance=plan.distance)
    idle = planned(TOY, change_of(TOY), policy, cache=cache, focus=focus)
    assert grid_of(TOY, idle.compute[0])[4:, 9, 0].all()
    assert idle.compute.sum() == len(TOY.layers) - 4


@pytest.mark.slow
def test_costs_of_the_full_size_tower():
    """Its multiply-accumulates do not fit into 32 bits."""
    tower = build(dv.FastViTHDConfig())
    for margin, low, high in ((0, 0.003, 0.006), ((1, 1, 2, 3, 4), 0.08, 0.12), (math.inf, 0.6, 1)):
        plan = planned(tower, change_of(tower, (5, 5)), dv.Policy(margin=margin, settle=0))
        share = float(plan.macs.sum()) / tower.macs
        assert low < share <= high
        costs, dense = cost(tower, plan.compute, CPU)
        assert float(costs[0]) / tower.macs == pytest.approx(share, rel=0.02)
        assert (np.asarray(dense) >= np.asarray(plan.dense)).all()


def test_a_stack_of_blocks_settles_some_blocks_at_a_time():
    tower = build(dv.CLIPConfig(width=32, layers=9, heads=4, mlp_width=64, patch=8, size=64))
    cache = dv.init_cache(tower.config)
    cache = dataclasses.replace(cache, stale=jnp.ones_like(cache.stale))
    done = []
    while cache.stale.any():
        plan = planned(tower, change_of(tower), dv.Policy(settle=0.3), cache=cache)
        done.append((int(plan.start[0]), int(plan.blocks[0])))
        cache = dataclasses.replace(cache, stale=plan.stale, progress=plan.progress)
    assert done == [(0, 3), (3, 3), (6, 2)]
    assert int(cache.progress[0]) == 0


def test_streams_are_planned_apart():
    plan = planned(TOY, change_of(TOY, (3, 3), batch=2), cache=dv.init_cache(TOY.config, 2))
    assert plan.compute[0].any()
    assert not plan.compute[1].any()
    assert not plan.stale[1].any()


def test_a_budget_narrows_margins_before_it_leaves_changes_out():
    change = change_of(TOY, (2, 2), (7, 7))
    shares, counts = [], []
    patch = sum(layer.window_macs + layer.kv_macs for layer in TOY.layers) + TOY.head_macs
    for budget in (1, 0.5, 0.3, 0.2, 0.1, 0.05, 1.5 * patch / TOY.macs):
        plan = planned(TOY, change, dv.Policy(margin=4, settle=0, budget=budget))
        shares.append(float(plan.margin_share[0]))
        computed = grid_of(TOY, plan.compute[0])
        counts.append(int(computed.sum()))
        if shares[-1]:
            assert computed[:, 2, 2].all()
            assert computed[:, 7, 7].all()
        assert np.asarray(plan.macs).sum() <= budget * TOY.macs
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == 1
    assert shares[-1] == 0
    assert plan.waiting.sum() == 1
    assert counts == sorted(counts, reverse=True)


def test_what_fits_least_is_done_in_turn_and_focus_comes_first():
    everywhere = [(row, column) for row in range(10) for column in range(10)]
    policy = dv.Policy(margin=1, settle=0, budget=0.1)
    cache = dv.init_cache(TOY.config)
    age = np.zeros((1, 100), np.int32)
    age[0, 40:50] = np.arange(10) + 5
    stale = jnp.zeros_like(cache.stale).at[:, :, 40:50].set(True)
    cache = dataclasses.replace(cache, age=jnp.asarray(age), stale=stale)
    focus = jnp.zeros((1, 10, 10), bool).at[0, 0, 3].set(True)
    plan = planned(TOY, change_of(TOY, *everywhere), policy, cache=cache, focus=focus)
    computed = np.flatnonzero(np.asarray(plan.compute[0]).all(0))
    # In focus, those that wait for longest, and of this frame's those that come first.
    turns = [3, *range(49, 39, -1), *(cell for cell in range(40) if cell != 3)]
    assert len(computed) > 1
    assert sorted(turns[: len(computed)]) == computed.tolist()
    assert not plan.full.any()
    assert plan.update.all()  # of the pixels nothing is forgotten
    assert np.asarray(plan.stale)[0, 0].sum() == 100 - len(computed)


def test_a_budget_that_is_none_is_refused():
    for budget in (0, -0.1, 1.5, np.nan, "half"):
        with pytest.raises(dv.ConfigError, match="budget must be"):
            dv.Policy(budget=budget)
