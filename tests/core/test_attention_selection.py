"""Cells that are recomputed because they attend to what changed."""

import jax
import numpy as np
from tiny import ROUNDING

import diffvis_jax as dv

PATCH = (1, 2)


def changed(kit, attending: float, margin: float = 0):
    """Two streams, the same patch changed in each: frames, tokens, report."""
    frames, _, cache = kit.start()
    frames = kit.change_patch(frames, *PATCH)
    policy = dv.Policy(margin=margin, attending=attending, settle=0)
    tokens, _, report = kit.step(kit.params, cache, frames, policy)
    return frames, tokens, report


def attention_to_change(kit, before, after) -> np.ndarray:
    """By hand, in float64, for the first block of CLIP: `[P]`, what every token attends to the
    changed one; its keys are new, the others' queries and keys old."""
    config, held = kit.config, kit.params["block_0"]["attention"]

    def normed(x):
        x = np.asarray(x, np.float64).reshape(-1, config.width)
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * held["norm_scale"] + held["norm_bias"]

    kv = np.asarray(held["kv"]["kernel"]), np.asarray(held["kv"]["bias"])
    key = (normed(after) @ kv[0] + kv[1])[:, : config.width]
    query = normed(before) @ np.asarray(held["query"]["kernel"]) + held["query"]["bias"]
    dirty = 1 + PATCH[0] * config.grid + PATCH[1]
    total, wide = np.zeros(config.length), config.width // config.heads
    for head in range(config.heads):
        own = slice(head * wide, (head + 1) * wide)
        scores = np.asarray(query[:, own] @ key[:, own].T / wide**0.5)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        total += weights[:, dirty] / weights.sum(1)
    return total


def test_those_that_attend_most_are_recomputed(clip):
    frames, _, cache = clip.start()
    after = clip.change_patch(frames, *PATCH)
    policy = dv.Policy(margin=0, attending=0.3, settle=0)
    _, _, report = clip.step(clip.params, cache, after, policy)
    for stream in range(2):
        maps = [clip.maps(x[stream])["embed"] for x in (frames, after)]
        score = attention_to_change(clip, *maps)[1:]
        at = PATCH[0] * clip.config.grid + PATCH[1]
        score[at] = -1  # changed, and recomputed anyway
        most = np.argsort(-score)[: int(np.ceil(0.3 * clip.config.length))]
        done = np.asarray(report.cell_recomputed[stream, 1:])
        unchanged = np.delete(np.arange(len(score)), at)
        found = unchanged[done[unchanged] > done[unchanged].min() + 1e-3]
        assert set(found) == set(most)


def test_all_that_attend_is_everything(clip):
    frames, tokens, report = changed(clip, 1.0)
    assert clip.error(tokens, frames) < ROUNDING
    # Choosing costs: the queries and scores of one layer, of every cell.
    layer = clip.tower.layers[1]
    extra = layer.width * (layer.width + clip.config.length)
    share = np.asarray(report.recomputed)
    dense = np.asarray(changed(clip, 0.0, margin=99)[2].recomputed)
    expected = extra * clip.tower.cells / clip.tower.macs
    np.testing.assert_allclose(share - dense, expected, rtol=1e-3)


def test_more_is_nearer_to_the_truth(clip):
    errors = [clip.error(*changed(clip, share)[1::-1]) for share in (0.0, 0.5, 1.0)]
    assert errors[0] > errors[1] > errors[2]


def test_an_idle_step_chooses_nothing(clip):
    frames, _, cache = clip.start()
    after = clip.change_patch(frames, *PATCH)
    policy = dv.Policy(margin=0, attending=0.5, settle=0)
    _, cache, _ = clip.step(clip.params, cache, after, policy)
    _, _, report = clip.step(clip.params, cache, after, policy)
    assert np.asarray(report.recomputed).tolist() == [0, 0]


def test_convolutions_before_attention_are_left_alone(fastvithd):
    share = [changed(fastvithd, x, margin=0)[2].stage_recomputed for x in (0.0, 0.5)]
    none, some = (np.asarray(x) for x in jax.device_get(share))
    np.testing.assert_array_equal(none[:, :3], some[:, :3])
    assert (some[:, 3:].sum((1, 2)) > none[:, 3:].sum((1, 2))).all()
