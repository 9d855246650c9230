"""The threshold that a camera's noise hardly ever exceeds."""

import itertools

import numpy as np
import pytest
from tiny import patch_distance

import diffvis_jax as dv
from diffvis_jax.measure.static_scene import MOST_FALSE, static_scene


def noisy(sigma: float, frames: int = 12, seed: int = 0):
    rng = np.random.default_rng(seed)
    scene = rng.integers(40, 215, (32, 48, 3))
    noise = rng.normal(0, sigma, (frames, *scene.shape))
    return np.round(scene + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("metric", ["max", "mean", "p99"])
@pytest.mark.parametrize("sigma", [1.0, 4.0])
def test_it_is_the_smallest_with_few_false_changes(metric, sigma):
    frames = noisy(sigma)
    scene = static_scene(frames, 8, metric)
    differences = np.concatenate(
        [
            patch_distance(frames[i : i + 1], frames[j : j + 1], 8, metric)
            for i in range(len(frames))
            for j in range(i + 1, len(frames))
        ]
    )
    assert scene.comparisons == differences.size == 66 * 24

    def false(threshold: float) -> float:
        return float((differences > threshold + 1e-6).mean())

    step = 1e-4 if metric == "mean" else 1 / 255
    assert false(scene.threshold) <= MOST_FALSE < false(scene.threshold - step)
    assert scene.false_changes == pytest.approx(false(scene.threshold))
    assert scene.worst_patch >= scene.false_changes
    # What a step makes of it: other frames of the same scene hardly change.
    others = noisy(sigma, frames=24)[12:]
    seen = [
        dv.compute_patch_diff(a, b, 8, scene.threshold, metric)
        for a, b in itertools.pairwise(others)
    ]
    assert np.mean(seen) <= 10 * MOST_FALSE


def test_metrics_are_dominated_by_other_things():
    """One bright value decides the maximum; it is less than a hundredth of a patch."""
    frames = noisy(1.0)
    for number, frame in enumerate(frames):
        frame[3, 3, 1] = 255 * (number % 2)
    quiet = {metric: static_scene(noisy(1.0), 8, metric).threshold for metric in ("max", "p99")}
    loud = {metric: static_scene(frames, 8, metric) for metric in ("max", "p99")}
    assert loud["max"].threshold == 1
    assert loud["p99"].threshold < 3 * quiet["p99"]


def test_a_scene_without_noise_needs_no_threshold():
    scene = static_scene(noisy(0), 8, "max")
    assert (scene.threshold, scene.false_changes, scene.worst_patch) == (0, 0, 0)


def test_too_few_frames_are_refused():
    with pytest.raises(dv.FrameError, match=r"5 frames give 240 comparisons .* too few"):
        static_scene(noisy(1.0, frames=5), 8, "max")
