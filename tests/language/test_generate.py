"""Prefill and decoding: against the pass without a cache, and against brute force."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import LANGUAGE, ROUNDING, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.language import generate
from diffvis_jax.language.answer import advance, answers, first_id
from diffvis_jax.language.decoder import embed
from diffvis_jax.language.kv_cache import init_kv_cache
from diffvis_jax.language.sampling import choose, make_sampling
from diffvis_jax.towers.init import cast_params

PADDED, NEW = 32, 9
BEAMS = 25  # of every search: another number is another program
UNTIED = dataclasses.replace(LANGUAGE, tied=False)


def prompt(length=20, seed=0):
    return np.random.default_rng(seed).integers(0, 90, length)


def prefilled(config, prompts, capacity=128):
    """Logits and cache of prompts of different lengths."""
    params = random_params(config)
    ids = np.stack([np.pad(p, (0, PADDED - len(p))) for p in prompts])
    length = jnp.array([len(p) for p in prompts], jnp.int32)
    cache = init_kv_cache(config, len(prompts), capacity)
    x = embed(params, jnp.asarray(ids))
    return generate.jit_prefill(params, cache, x, length, config=config)[:2]


def logits_of(config, ids):
    """Of every position, without a cache; padded, so that it compiles once."""
    padded = np.pad(np.asarray(ids), (0, 64 - len(ids)))
    x = embed(random_params(config), jnp.asarray(padded)[None])
    return np.asarray(generate.jit_all_logits(random_params(config), x, config=config))[0]


def answer(config, prompts, **options):
    options = dv.AnswerOptions(**{"max_new_tokens": NEW, "stop_ids": [], **options})
    params = random_params(config)
    return answers(params, *prefilled(config, prompts), options, config=config)[0]


# An untied head is that of test_vlm.py.
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(LANGUAGE, id="tied"),
        pytest.param(UNTIED, id="untied", marks=pytest.mark.slow),
    ],
)
def test_greedy_takes_the_likeliest_id_of_the_pass_without_a_cache(config):
    ids = list(prompt())
    found = answer(config, [prompt()])[0]
    assert len(found) == NEW
    for token in found:
        assert token == logits_of(config, ids)[len(ids) - 1].argmax()
        ids.append(token)


def test_prefill_gives_the_logits_of_the_last_position():
    for length in (1, 20, PADDED):
        found, cache = prefilled(LANGUAGE, [prompt(length)])
        assert deviation(found[0], logits_of(LANGUAGE, prompt(length))[length - 1]) < ROUNDING
        assert cache.length.tolist() == [length]


def test_prompts_of_different_lengths_are_answered_as_if_alone():
    prompts = [prompt(20), prompt(7, seed=1)]
    together = answer(LANGUAGE, prompts)
    for one, found in zip(prompts, together, strict=True):
        assert found.tolist() == answer(LANGUAGE, [one])[0].tolist()


def test_an_answer_ends_at_a_stop_id():
    whole = answer(LANGUAGE, [prompt()])[0].tolist()
    stop = whole[4]
    first = whole.index(stop)
    assert answer(LANGUAGE, [prompt()], stop_ids=[3, stop])[0].tolist() == whole[: first + 1]
    own = dataclasses.replace(LANGUAGE, eos_ids=(stop,))
    given = random_params(LANGUAGE), *prefilled(LANGUAGE, [prompt()])
    ended = answers(*given, dv.AnswerOptions(max_new_tokens=NEW), config=own)[0][0]
    assert ended.tolist() == whole[: first + 1]
    with pytest.raises(dv.PromptError, match=r"stop ids \[96\]"):
        answer(LANGUAGE, [prompt()], stop_ids=[96])


def test_an_answer_in_pieces_is_the_same():
    params = random_params(LANGUAGE)
    options = dv.AnswerOptions(max_new_tokens=NEW, stop_ids=[], temperature=0.8)
    whole = answer(LANGUAGE, [prompt()], temperature=0.8)[0]
    generation = first_id(*prefilled(LANGUAGE, [prompt()]), options, config=LANGUAGE)
    for until in (2, 3, 7, NEW):
        generation = advance(params, generation, until, options, config=LANGUAGE)
        assert int(generation.step) == until
        assert np.asarray(generation.ids)[0, :until].tolist() == whole[:until].tolist()


def test_no_chance_but_the_seeds():
    one, same, other = (
        answer(LANGUAGE, [prompt()], temperature=1.5, seed=seed)[0].tolist() for seed in (1, 1, 2)
    )
    assert one == same != other


def test_ids_beyond_the_vocabulary_are_never_chosen():
    found = answer(LANGUAGE, [prompt()], vocabulary=5, temperature=3.0)[0]
    assert (found < 5).all()
    assert (answer(LANGUAGE, [prompt()], vocabulary=5, num_beams=BEAMS)[0] < 5).all()


def test_what_is_there_already_is_penalised():
    """Greedy, a step at a time, by the rule of CTRL; of two prompts of different lengths."""
    prompts, penalty = [prompt(), prompt(12, 1)], 1.3
    ids = np.stack([np.pad(p, (0, PADDED - len(p)), constant_values=-1) for p in prompts])
    options = dv.AnswerOptions(max_new_tokens=NEW, stop_ids=[], repetition_penalty=penalty)
    found, plain = (
        answers(
            random_params(LANGUAGE),
            *prefilled(LANGUAGE, prompts),
            dataclasses.replace(options, repetition_penalty=value),
            config=LANGUAGE,
            prompt=ids,
        )[0]
        for value in (penalty, 1.0)
    )
    assert not np.array_equal(found, plain)
    for before, chosen in zip(prompts, found, strict=True):
        there = before.tolist()
        for token in chosen:
            scores = logits_of(LANGUAGE, there)[len(there) - 1].copy()
            for i in set(there):
                scores[i] = scores[i] * penalty if scores[i] < 0 else scores[i] / penalty
            assert token == scores.argmax()
            there.append(token)


def test_the_models_own_penalty_is_the_default():
    config = dataclasses.replace(LANGUAGE, repetition_penalty=1.3)
    assert dv.AnswerOptions().sampling(config).repetition_penalty == np.float32(1.3)
    assert dv.AnswerOptions(repetition_penalty=1).sampling(config).repetition_penalty is None
    given = random_params(LANGUAGE), *prefilled(LANGUAGE, [prompt()])
    with pytest.raises(dv.ConfigError, match="needs the ids of the prompt"):
        answers(*given, dv.AnswerOptions(max_new_tokens=NEW), config=config)
    with pytest.raises(dv.ConfigError, match="repetition_penalty must be above 0, got 0"):
        answer(LANGUAGE, [prompt()], repetition_penalty=0)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"temperature": 1.0}, [0, 1, 2, 3]),
        ({"temperature": 0.5}, [0, 1, 2, 3]),
        ({"temperature": 1.0, "top_k": 2}, [1, 3]),
        ({"temperature": 1.0, "top_p": 0.7}, [1, 3]),
        ({"temperature": 1.0, "top_p": 0.65, "top_k": 3}, [1, 3]),
        ({"temperature": 1.0, "top_p": 1e-6}, [3]),
        ({"temperature": 0.0, "top_p": 0.7}, [3]),
    ],
)
def test_ids_are_chosen_as_often_as_is_right(options, allowed):
    probability = np.array([0.1, 0.3, 0.2, 0.4])
    draws = 4000
    logits = jnp.broadcast_to(jnp.log(probability), (draws, 4))
    sampling = make_sampling(**options, vocabulary=4)
    chosen = np.asarray(choose(logits, jax.random.key(0), sampling))
    expected = np.zeros(4)
    expected[allowed] = probability[allowed] ** (1 / (options["temperature"] or 1))
    expected /= expected.sum()
    found = np.bincount(chosen, minlength=4) / draws
    np.testing.assert_allclose(found, expected, atol=4 * 0.5 / draws**0.5)
    assert not found[expected == 0].any()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_p": 1.5},
        {"temperature": 1.0, "top_k": 0},
        {"num_beams": 0},
        {"num_beams": 2, "temperature": 0.2},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(dv.ConfigError, match=r"temperature|top_p|top_k|num_beams"):
        dv.AnswerOptions(**options).sampling(LANGUAGE)


# ---- beam search ------------------------------------------------------------------------------


def score_of(ids, first):
    """Sum of log probabilities of the ids from `first` on, among the ids below 5."""
    logits = logits_of(LANGUAGE, ids)[first - 1 : len(ids) - 1]
    whole = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    whole -= logits.max(-1, keepdims=True)
    return sum(whole[i, token] for i, token in enumerate(ids[first:]))


def test_a_search_that_is_wide_enough_finds_the_likeliest_answer():
    """25 beams among 5 ids: every answer of 3 ids is looked at."""
    start = list(prompt())
    every = list(itertools.product(range(5), repeat=3))
    best = max(every, key=lambda ids: score_of([*start, *ids], len(start)))
    options = {"max_new_tokens": 3, "vocabulary": 5}
    found = answer(LANGUAGE, [prompt()], num_beams=BEAMS, **options)[0]
    assert found.tolist() == list(best)


def test_a_search_prefers_the_better_score_per_length():
    """With a stop id among 4 others: every way to end is looked at."""
    start, stop = list(prompt()), 2
    every = [
        ids[: ids.index(stop) + 1] if stop in ids else ids
        for ids in itertools.product(range(5), repeat=3)
    ]
    for penalty in (0.0, 1.0, 3.0):
        best = max(
            set(every),
            key=lambda ids, p=penalty: score_of([*start, *ids], len(start)) / len(ids) ** p,
        )
        found = answer(
            LANGUAGE,
            [prompt()],
            num_beams=BEAMS,
            max_new_tokens=3,
            vocabulary=5,
            stop_ids=[stop],
            length_penalty=penalty,
        )[0]
        assert found.tolist() == list(best), penalty


def test_prompts_are_searched_as_if_alone():
    prompts = [prompt(20), prompt(7, seed=1)]
    together = answer(LANGUAGE, prompts, num_beams=BEAMS)
    for one, found in zip(prompts, together, strict=True):
        assert found.tolist() == answer(LANGUAGE, [one], num_beams=BEAMS)[0].tolist()


# ---- dtypes and lengths -----------------------------------------------------------------------


def test_bfloat16_is_near_float32():
    config = dataclasses.replace(LANGUAGE, dtype="bfloat16")
    params = cast_params(random_params(LANGUAGE), "bfloat16")
    x = embed(params, jnp.asarray(np.pad(prompt(), (0, 44)))[None])
    found = generate.jit_all_logits(params, x, config=config)[0, :20]
    assert found.dtype == jnp.float32
    assert 1e-4 < deviation(found, logits_of(LANGUAGE, prompt())[:20]) < 0.06
    cache = init_kv_cache(config, 1, 64)
    assert cache.keys[0].dtype == jnp.bfloat16
    last, cache, _ = generate.jit_prefill(
        params, cache, x, jnp.array([20], jnp.int32), config=config
    )
    assert deviation(last[0], found[19]) < 0.01


def test_few_lengths_serve_all_prompts():
    for length in range(1, 9000, 7):
        padded = generate.padded_length(length)
        assert length <= padded <= max(32, 2 * length)
    assert generate.padded_length(280) == 320
    assert len({generate.padded_length(n) for n in range(1, 8193)}) == 16
    assert generate.capacity_for(280, 256) == 320 + 256
