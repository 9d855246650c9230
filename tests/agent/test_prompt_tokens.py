"""What prompts show: histories that a prefill can go on with, and fewer tokens of a frame."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import FASTVITHD, LANGUAGE, QWEN, ROUNDING, STEM, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.agent.prompt_tokens import (
    CompressOptions,
    pool_factor,
    prompt_tokens,
    tokens_of_patches,
)
from diffvis_jax.compress import HistoryPolicy
from diffvis_jax.language.language_model import Language
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.language.splice import PackedTokens, make_prompt
from diffvis_jax.towers import build

TOWER = build(FASTVITHD)
N, P = TOWER.tokens, LANGUAGE.projector_input
IDS = [5, 6, -200, 7, 8]
SHORT = dv.AnswerOptions(max_new_tokens=8)


@pytest.fixture(scope="module")
def language():
    return Language(LANGUAGE, random_params(LANGUAGE))


def frames_of(count: int, seed: int = 0):
    """Tokens `[T, N, P]` of which one moves from frame to frame."""
    rng = np.random.default_rng(seed)
    frames = [rng.normal(size=(N, P)).astype(np.float32)]
    changed = [np.ones(N, bool)]
    for _ in range(count - 1):
        moved = np.arange(N) == rng.integers(N)
        frames.append(np.where(moved[:, None], frames[-1] + 3, frames[-1]).astype(np.float32))
        changed.append(moved)
    return np.stack(frames), np.stack(changed)


@pytest.mark.parametrize("layout", ["changes", "current"])
def test_a_history_reads_what_a_fresh_prompt_would(language, layout):
    """One session goes on from frame to frame; at each, a fresh one reads the same tokens as the
    tower gave them, projected in the usual way."""
    frames, changed = frames_of(4)
    options = CompressOptions("history", budget=3 * N, layout=layout)
    memory = prompt_tokens(options, language, FASTVITHD)
    assert memory is not None
    session = PromptSession(language, options=SHORT)
    fresh = PromptSession(language, options=SHORT, differential=False)
    expected = list(frames[0])
    padded = 64
    for number, (frame, moved) in enumerate(zip(frames, changed, strict=True)):
        shown = memory.show(jnp.asarray(frame)[None], moved)
        found = session.prefill([shown.image], IDS, padded=padded)
        if number:
            expected += list(frame[moved])
        if layout == "changes":
            rows = np.stack(expected)
        else:
            past = [row for row in expected if not (row == frame).all(-1).any()]
            rows = np.stack([*past, *frame])
        other = fresh.prefill([jnp.asarray(rows)], IDS, padded=padded)
        assert deviation(found.logits, other.logits) < ROUNDING
        assert found.report["total"] == len(IDS) - 1 + len(rows)
        assert shown.report["tokens"] == N + number
        assert shown.report["tokens_of_frames"] == (number + 1) * N
        if number and layout == "changes":  # the new run and the text behind it
            assert found.report["prefilled"] == 1 + 2


def test_idle_frames_add_nothing(language):
    frames, changed = frames_of(1)
    memory = prompt_tokens(CompressOptions("history"), language, FASTVITHD)
    half = prompt_tokens(CompressOptions("history"), language, STEM)
    for number in range(3):  # of a ViT, half of the tokens share the run of another
        moved = changed[0] & (number == 0)
        assert half.show(jnp.asarray(frames[:1]), moved).report["tokens"] == N // 2
    session = PromptSession(language, options=SHORT)
    for number in range(3):
        moved = changed[0] & (number == 0)
        shown = memory.show(jnp.asarray(frames[:1]), moved)
        report = session.prefill([shown.image], IDS, padded=64).report
        assert shown.report["tokens"] == N
    assert report["path"] == "reuse"
    assert shown.report["whitened_error"] == 0


def test_a_full_history_stays_within_its_budget(language):
    frames, changed = frames_of(30)
    options = CompressOptions("history", budget=2 * N)
    memory = prompt_tokens(options, language, FASTVITHD)
    most = 0
    for frame, moved in zip(frames, changed, strict=True):
        shown = memory.show(jnp.asarray(frame)[None], moved)
        most = max(most, shown.report["tokens"])
        assert shown.image.packing.max() < 2 * N
    assert most <= 2 * N < 30 * N
    assert shown.report["whitened_error"] == 0


@pytest.mark.parametrize("method", ["merge", "pool", "random"])
def test_fewer_tokens_of_a_frame(language, method):
    frames, changed = frames_of(2)
    budget = 4
    made = prompt_tokens(CompressOptions(method, budget=budget), language, FASTVITHD)
    first = made.show(jnp.asarray(frames[:1]), changed[0])
    rows = np.asarray(first.image.tokens)[first.image.packing]
    assert len(rows) <= budget
    assert 0 < first.report["whitened_error"] < 2.5
    if method == "pool":
        image = frames[0].reshape(*TOWER.token_grid, P)
        k = pool_factor(TOWER.token_grid, budget)
        np.testing.assert_allclose(rows[0], image[:k, :k].mean((0, 1)), atol=1e-5)
    again = made.show(jnp.asarray(frames[:1]), np.zeros(N, bool))
    np.testing.assert_array_equal(first.image.tokens, again.image.tokens)
    moved = made.show(jnp.asarray(frames[1:2]), changed[1])
    same = (np.asarray(moved.image.tokens) == np.asarray(first.image.tokens)).all(-1)
    assert same.sum() >= budget - 2 if method != "random" else True


def test_changed_patches_of_windows():
    tower = build(QWEN)
    per, (rows, columns) = tower.patch // tower.token, tower.token_grid
    changed = np.zeros((-(-rows // per), -(-columns // per)), bool)
    changed[0, 0] = True
    found = tokens_of_patches(tower, changed).reshape(rows, columns)
    assert found[:per, :per].all()
    assert found.sum() == per * per


def test_prompts_of_projected_and_other_images(language):
    rows = jnp.zeros((3, LANGUAGE.width))
    packed = PackedTokens(rows, np.array([2, 0]), projected=True)
    prompt = make_prompt(language, [packed, packed], [-200, 1, -200])
    assert int(prompt.length[0]) == 5
    with pytest.raises(dv.PromptError, match="either all images"):
        make_prompt(language, [packed, jnp.zeros((3, P))], [-200, 1, -200])
    wrong = packed._replace(tokens=jnp.zeros((3, LANGUAGE.width + 1)))
    with pytest.raises(dv.PromptError, match=f"{LANGUAGE.width}. for this decoder"):
        make_prompt(language, [wrong], [-200, 1])
    # Some of an image's rows, in an order of their own, beside an image as it is.
    tokens = jax.random.normal(jax.random.key(0), (3, P))
    some = make_prompt(language, [PackedTokens(tokens, np.array([2, 0])), tokens], [-200, -200])
    both = make_prompt(language, [tokens[jnp.array([2, 0])], tokens], [-200, -200])
    np.testing.assert_array_equal(some.embeddings, both.embeddings)


def test_bad_options(language):
    with pytest.raises(dv.ConfigError, match="method must be one of"):
        CompressOptions("zip")  # pyright: ignore[reportArgumentType]
    with pytest.raises(dv.ConfigError, match="layout must be one of"):
        CompressOptions("history", layout="frames")  # pyright: ignore[reportArgumentType]
    with pytest.raises(dv.ConfigError, match="needs a method that keeps to it"):
        CompressOptions(budget=3)
    for method, budget, said in (
        ("history", 2 * N - 1, f"at least {2 * N}, got {2 * N - 1}"),
        ("merge", N + 1, f"whole number in 1-{N}, got {N + 1}"),
    ):
        with pytest.raises(dv.ConfigError, match=said):
            prompt_tokens(CompressOptions(method, budget), language, FASTVITHD)
    assert prompt_tokens(CompressOptions(), language, FASTVITHD) is None
    by_tokens = CompressOptions("history", policy=HistoryPolicy(tolerance=0.2))
    assert dataclasses.replace(by_tokens, budget=4 * N).tokens(N) == 4 * N
