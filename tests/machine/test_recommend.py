"""What fits, and what is recommended."""

import dataclasses
import itertools
from pathlib import Path

import jax
import pytest

import diffvis_jax as dv
from diffvis_jax.errors import ConfigError
from diffvis_jax.evaluation.setups import Setup, ready
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.machine.catalogue import CATALOGUE
from diffvis_jax.machine.recommend import Machine, Need, Speed, recommend
from diffvis_jax.machine.sizes import PRECISIONS, sizes

GB = 10**9
BY_NAME = {entry.name: entry for entry in CATALOGUE}
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
HERE = {
    "screens-vit": Speed(170, 22, "faithful"),
    "fastvithd-screens": Speed(480, 260, "fast"),
}


@pytest.mark.parametrize(
    ("memory", "need", "expected"),
    [
        (16, Need(), "qwen2.5-vl-7b int8"),
        (64, Need(), "qwen2.5-vl-7b float32"),
        (8, Need(), "qwen2.5-vl-3b int8"),
        (3, Need(), "fastvlm-0.5b bfloat16"),
        (1, Need(), "fastvithd-screens float32"),
        (0.1, Need(), "fastvithd-screens bfloat16"),
        (0.001, Need(), None),
        (64, Need({"screenspot": 80}), "qwen2.5-vl-7b float32"),
        (24, Need({"screenspot": 50}), "qwen2.5-vl-7b bfloat16"),
        (8, Need({"screenspot": 80}), None),
        (8, Need({"screenspot": 50}), "qwen2.5-vl-3b int8"),
        (24, Need({"docvqa": 80}, budget_ms=3000), "fastvlm-7b bfloat16"),
        (24, Need({"docvqa": 80}, budget_ms=1), None),
        (24, Need(budget_ms=200), "screens-vit float32"),
        (24, Need({"sample clicks": 70}), "fastvithd-screens float32"),
        (24, Need({"sample clicks": 60}, budget_ms=300), "screens-vit float32"),
        (3, Need(answers=True), "fastvlm-0.5b bfloat16"),
        (3, Need(answers=True, sessions=8), None),
        (24, Need(answers=True, memory=4 * GB), "fastvlm-1.5b int8"),
        (24, Need({"textvqa": 70}), "fastvlm-7b bfloat16"),
    ],
)
def test_what_machines_are_recommended(memory, need, expected):
    machine = Machine(memory=int(memory * GB), macs_per_s=150e9)
    best, found = recommend(machine, CATALOGUE, need, HERE)
    said = None if best is None else f"{best.entry.name} {best.precision}"
    assert said == expected
    assert len(found) == len(CATALOGUE) * len(PRECISIONS)
    assert all(each.fault for each in found) == (best is None)


def test_more_memory_never_gives_a_smaller_answer():
    for need in (Need(), Need({"docvqa": 50}), Need(answers=True)):
        order = []
        for memory in (1, 2, 4, 8, 16, 32, 64, 128):
            best, _ = recommend(Machine(memory * GB, 150e9), CATALOGUE, need, HERE)
            first = next(iter(need.accuracy), None)
            value = 0.0 if best is None or first is None else best.entry.scores[first].value
            answers = best is not None and best.entry.decoder is not None
            weights = sizes(best.entry, "float32").weights if answers else 0
            order.append((value, weights))
        assert all(a <= b for a, b in itertools.pairwise(order))


def test_what_cannot_be_asked():
    machine = Machine(GB, 1e9)
    with pytest.raises(ConfigError, match="no numbers of 'mmlu'"):
        recommend(machine, CATALOGUE, Need({"mmlu": 3}), {})
    with pytest.raises(ConfigError, match="0-100"):
        Need({"docvqa": 101})
    with pytest.raises(ConfigError, match="sessions"):
        Need(sessions=0)
    with pytest.raises(ConfigError, match="budget_ms"):
        Need(budget_ms=0)


@pytest.mark.parametrize("name", ["screens-vit", "fastvithd-screens"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_sizes_of_the_bundled_weights_are_foretold(name, precision):
    model = ready(WEIGHTS / name, Setup(precision=precision), (1920, 1080))
    actual = sum(leaf.nbytes for leaf in jax.tree.leaves(model.params))
    found = sizes(BY_NAME[name], precision)
    assert found.weights == pytest.approx(actual, rel=0.1)
    assert found.stream == dv.init_cache(model.config).nbytes
    floats = model.config if precision != "int8" else None
    if floats is not None:
        assert vars(BY_NAME[name].vision) | {"dtype": 0} == vars(floats) | {"dtype": 0}


def test_sizes_of_a_known_decoder():
    """Qwen2 0.5B has 494.0 million parameters."""
    decoder = DecoderConfig(projector_layers=0, projector_input=896)
    tower = sizes(BY_NAME["fastvithd-screens"], "float32")
    both = sizes(dataclasses.replace(BY_NAME["fastvithd-screens"], decoder=decoder), "float32")
    assert both.weights - tower.weights == pytest.approx(4 * 494.0e6, rel=0.001)
    assert both.total > 1.1 * (both.weights + both.stream)
