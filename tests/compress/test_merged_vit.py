"""Tokens merged inside a vision transformer, against the papers' definitions in NumPy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import CLIP, FASTVITHD, QWEN, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.compress.merge_schedule import MergeSchedule
from diffvis_jax.compress.merged_vit import alternate_matching, encode_merged
from diffvis_jax.core.step import jit_encode
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.towers import build

N = CLIP.grid**2  # 16, and 2 blocks
NOT_CLASS = dataclasses.replace(CLIP, class_token=False, patch_bias=True, projection_width=0)
run = jax.jit(encode_merged, static_argnames=("config", "schedule"))


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(3).integers(0, 256, (2, CLIP.size, CLIP.size, 3), np.uint8)


# ---- the definitions, one token after the other, in float64 -----------------------------------


def paired(metric, r):
    """ToMe's round: {token that gives: token that takes}."""
    unit = metric / np.linalg.norm(metric, axis=-1, keepdims=True)
    pairs = []
    for a in range(0, len(unit), 2):
        likeness = [unit[a] @ unit[b] for b in range(1, len(unit), 2)]
        best = int(np.argmax(likeness))  # the first of equals
        pairs.append((likeness[best], a, 2 * best + 1))
    pairs.sort(key=lambda pair: -pair[0])  # stable
    return {a: b for _, a, b in pairs[:r]}


def softmax(x):
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def by_hand(config, params, rows, schedule):
    """Rows `[prefix + N, D]` as embedded -> tokens, and the members of each."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x, prefix, heads = np.asarray(rows, np.float64), config.num_prefix_tokens, config.heads
    groups = [[i] for i in range(len(x) - prefix)]

    def norm(own, x):
        spread = np.sqrt(x.var(-1, keepdims=True) + config.norm_epsilon)
        return (x - x.mean(-1, keepdims=True)) / spread * own["norm_scale"] + own["norm_bias"]

    def linear(own, x):
        return x @ own["weight"].T + own["bias"]

    for number, r in enumerate(schedule.r):
        own, mlp = params[f"block_{number}"]["attention"], params[f"block_{number}"]["mlp"]
        h = norm(own, x)
        query = linear(own["query"], h).reshape(len(x), heads, -1)
        key, value = (
            part.reshape(len(x), heads, -1) for part in np.split(linear(own["kv"], h), 2, -1)
        )
        size = np.array([1.0] * prefix + [len(group) for group in groups])
        scores = np.einsum("rhd,nhd->hrn", query, key) / np.sqrt(query.shape[-1])
        if schedule.proportional:
            scores = scores + np.log(size)
        weights = softmax(scores)
        mixed = np.einsum("hrn,nhd->rhd", weights, value).reshape(len(x), -1)
        x = x + linear(own["output"], mixed)
        tokens = list(x[prefix:])
        if r and schedule.by == "keys":
            for a, b in paired(key.mean(1)[prefix:], r).items():
                na, nb = len(groups[a]), len(groups[b])
                tokens[b] = (na * tokens[a] + nb * tokens[b]) / (na + nb)
                groups[b], groups[a] = groups[b] + groups[a], []
        elif r:
            looks = weights[:, 0, prefix:].mean(0)
            rest = sorted(np.argsort(-looks, kind="stable")[len(tokens) - r - 1 :].tolist())
            fused = sum(looks[i] * tokens[i] for i in rest) / sum(looks[i] for i in rest)
            tokens[rest[0]] = fused
            groups[rest[0]] = [member for i in rest for member in groups[i]]
            for i in rest[1:]:
                groups[i] = []
        left = sorted((min(group), i) for i, group in enumerate(groups) if group)
        x = np.stack([*x[:prefix], *(tokens[i] for _, i in left)])
        groups = [sorted(groups[i]) for _, i in left]
        hidden = linear(mlp["fc1"], norm(mlp, x))
        x = x + linear(mlp["fc2"], hidden / (1 + np.exp(-1.702 * hidden)))
    return x[prefix:], groups


SCHEDULES = {
    "pairs": MergeSchedule((5, 3)),
    "half, then half": MergeSchedule((8, 4)),
    "without sizes": MergeSchedule((5, 3), proportional=False),
    "class token": MergeSchedule((5, 4), by="attention", proportional=False),
    "no class token": MergeSchedule((5, 3)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_it_does_what_the_papers_define(frames, name):
    config, schedule = NOT_CLASS if name == "no class token" else CLIP, SCHEDULES[name]
    params, tower = random_params(config), build(config)
    found, grouping = run(params, frames, config=config, schedule=schedule)
    rows = tower.layers[0].embed_all(params, jnp.asarray(frames), tower.patch)
    for stream in range(2):
        tokens, groups = by_hand(config, params, rows[stream], schedule)
        slot = np.asarray(grouping.slot[stream])
        assert [np.flatnonzero(slot == m).tolist() for m in range(len(groups))] == groups
        assert deviation(found.tokens[stream], tokens) < 2e-5
        assert found.size[stream].tolist() == [len(group) for group in groups]
    assert found.count.tolist() == grouping.count.tolist() == [len(tokens)] * 2


@pytest.mark.parametrize("config", [CLIP, NOT_CLASS])
def test_without_a_merger_it_is_encode(frames, config):
    params = random_params(config)
    found, grouping = run(params, frames, config=config, schedule=MergeSchedule.constant(config, 0))
    assert deviation(found.tokens, jit_encode(params, frames, config=config)) < 1e-6
    assert (np.asarray(grouping.slot) == np.arange(N)).all()
    assert (np.asarray(found.size) == 1).all()


def test_of_equal_pairs_and_partners_the_first_count():
    """Directions along the axes: all likenesses are exactly 0 or 1."""
    axes = np.eye(4, dtype=np.float32)
    #                 0  1  2  3  4  5  6  7  8  9
    metric = axes[[0, 0, 1, 1, 0, 0, 2, 3, 1, 1]] * np.float32(2)
    match = jax.jit(alternate_matching, static_argnames="r")
    for r in (1, 3, 5):
        grouping = match(jnp.asarray(metric)[None], r=r)
        slot = np.asarray(grouping.slot[0])
        expected = list(range(10))
        for giving, taking in list({0: 1, 2: 3, 4: 1, 8: 3, 6: 1}.items())[:r]:
            expected[giving] = taking
        assert expected == [paired(metric, r).get(i, i) for i in range(10)]
        same = np.asarray(expected)[:, None] == np.asarray(expected)
        np.testing.assert_array_equal(slot[:, None] == slot, same)
        assert grouping.count.tolist() == [10 - r]


# ---- what must hold -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copies():
    """Parameters without positions, and a frame of four colours: four copies of each token."""
    params = random_params(CLIP)
    place = jnp.zeros_like(params["embed"]["position"])
    params = {**params, "embed": {**params["embed"], "position": place}}
    colours = np.random.default_rng(0).integers(0, 256, (4, 3), np.uint8)
    which = np.repeat(np.arange(4), 4).reshape(4, 4).repeat(8, 0).repeat(8, 1)
    frame = np.zeros((1, CLIP.size, CLIP.size, 3), np.uint8)
    frame[0, :32, :32] = colours[which]
    return params, frame


def test_merged_copies_count_as_often_as_they_are(copies):
    params, frame = copies
    full = np.asarray(jit_encode(params, frame, config=CLIP))

    def spread(schedule):
        found, grouping = run(params, frame, config=CLIP, schedule=schedule)
        return deviation(np.asarray(found.tokens)[0, np.asarray(grouping.slot[0])][None], full)

    uneven = (5, 3)  # groups of several sizes before the second block
    assert spread(MergeSchedule(uneven)) < 1e-5
    assert spread(MergeSchedule((8, 4))) < 1e-5
    assert spread(MergeSchedule(uneven, proportional=False)) > 1e-3


@pytest.mark.parametrize("name", ["half, then half", "class token"])
def test_sizes_add_up_and_boxes_tile_the_frame(frames, name):
    found, grouping = run(random_params(CLIP), frames, config=CLIP, schedule=SCHEDULES[name])
    assert found.size.sum(1).tolist() == [N, N]
    for stream in range(2):
        slot = np.asarray(grouping.slot[stream])
        assert sorted(set(slot)) == list(range(int(found.count[stream])))
        _, first = np.unique(slot, return_index=True)
        assert (np.diff(first) > 0).all()  # slots come in the order of their first members
        for m in range(len(first)):
            row, column = np.divmod(np.flatnonzero(slot == m), CLIP.grid)
            hull = [column.min(), row.min(), column.max() + 1, row.max() + 1]
            assert found.box[stream, m].tolist() == [CLIP.patch * side for side in hull]


def test_streams_do_not_mix(frames):
    one = functools.partial(run, random_params(CLIP), config=CLIP, schedule=SCHEDULES["pairs"])
    both, grouping = one(frames)
    turned, other = one(frames[::-1])
    assert deviation(turned.tokens[::-1], both.tokens) < 1e-6
    np.testing.assert_array_equal(other.slot[::-1], grouping.slot)


def test_work_falls_as_counted(frames):
    def flops(schedule):
        lowered = run.lower(random_params(CLIP), frames, config=CLIP, schedule=schedule)
        return lowered.cost_analysis()["flops"]

    none, most = MergeSchedule.constant(CLIP, 0), MergeSchedule((8, 4))
    assert none.macs(CLIP) == build(CLIP).macs
    saved = 2 * 2 * (none.macs(CLIP) - most.macs(CLIP))  # two frames, two FLOP
    # Norms, activations and the means themselves are not counted as products.
    assert 0.75 * saved < flops(none) - flops(most) < 1.25 * saved


# ---- schedules ----------------------------------------------------------------------------------


def test_schedules():
    large = dv.CLIPConfig()  # 23 blocks, 576 tokens
    assert MergeSchedule.constant(large, 12).r == (12,) * 23
    linear = MergeSchedule.linear(large, 12)
    assert sum(linear.r) == 12 * 23
    assert linear.r[0] == 24
    assert linear.r[-1] == 0
    early = MergeSchedule.to_length(large, 288, blocks=8)
    assert early.left(576) == 288
    assert early.r == (36,) * 8 + (0,) * 15
    assert MergeSchedule.degree(large, 0).left(576) == 576
    assert MergeSchedule.degree(large, 16).left(576) == 72
    evit = MergeSchedule.attentive(large, 0.7)
    assert [block for block, r in enumerate(evit.r) if r] == [5, 11, 17]
    assert evit.r[5] == 576 - 404 - 1
    assert hash(early) == hash(MergeSchedule(early.r))
    costs = [s.macs(large) for s in (MergeSchedule.to_length(large, 288), linear, early)]
    assert costs == sorted(costs, reverse=True)


BAD = {
    "at most": lambda: MergeSchedule.constant(CLIP, 9),
    "block 1 has 8 tokens": lambda: MergeSchedule((8, 5)).check(CLIP),
    "2 blocks": lambda: MergeSchedule((1,)).check(CLIP),
    "whole numbers": lambda: MergeSchedule((1.5, 0)),
    "at least 0": lambda: MergeSchedule((-1, 0)),
    "'keys' or 'attention'": lambda: MergeSchedule((1, 0), by="luck"),
    "class token": lambda: MergeSchedule.attentive(NOT_CLASS, 0.5),
    "share": lambda: MergeSchedule.attentive(CLIP, 1.5),
    "degree": lambda: MergeSchedule.degree(CLIP, 17),
    "n must be in 1-16": lambda: MergeSchedule.to_length(CLIP, 0),
    "FastViTHDConfig": lambda: MergeSchedule.constant(FASTVITHD, 1),
    "Qwen25VisionConfig": lambda: MergeSchedule((1, 1)).check(QWEN),
}


@pytest.mark.parametrize("said", BAD)
def test_what_a_tower_cannot_follow(said):
    with pytest.raises(ConfigError, match=said):
        BAD[said]()


def test_bad_frames(frames):
    schedule = MergeSchedule.constant(CLIP, 1)
    with pytest.raises(FrameError, match="uint8"):
        encode_merged({}, frames.astype(np.float32), config=CLIP, schedule=schedule)
    with pytest.raises(ConfigError, match="36 x 36"):
        encode_merged({}, frames[:, :24], config=CLIP, schedule=schedule)
    with pytest.raises(ConfigError, match="2 blocks"):
        encode_merged({}, frames, config=CLIP, schedule=MergeSchedule((1,)))
