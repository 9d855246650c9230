"""Differential prefill: what is kept, what is recomputed, and how far it is from a fresh one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import LANGUAGE, ROUNDING, deviation, random_params

import diffvis_jax as dv
from diffvis_jax.language.differential_prefill import jit_prefill_fresh, prefill_step
from diffvis_jax.language.language_model import Language
from diffvis_jax.language.prefill_policy import PrefillPolicy, describe_prefill
from diffvis_jax.language.prompt_cache import Prompt, init_prompt_cache, resize_prompt_cache
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.language.tuning import PrefillTuning
from diffvis_jax.measure.prefill_error import compare_prefill

T, CAPACITY, BATCH = 64, 96, 2
IMAGES = slice(6, 38)  # 32 image tokens between 6 and 7 of text
LENGTH = 45
EXACT, BOUNDED = PrefillPolicy.exact(), PrefillPolicy(bounded=True)

# Prompts of some dozens of positions in several chunks, too.
SHORT_CHUNKS = PrefillTuning(chunk=8, full_above=0.55)

step = jax.jit(prefill_step, static_argnames=("config", "tuning"))


def make(seed=0, length=LENGTH):
    """Two prompts that differ."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((BATCH, T, LANGUAGE.width)).astype(np.float32)
    x[:, length:] = 0
    image = np.zeros((BATCH, T), bool)
    image[:, IMAGES] = True
    return Prompt(embeddings=jnp.asarray(x), image=jnp.asarray(image), length=lengths(length))


def lengths(length):
    return jnp.full((BATCH,), length, jnp.int32)  # a weak type would be one more program


def changed(prompt, *positions, stream=slice(None), by=1.0):
    x = prompt.embeddings.at[stream, jnp.array(positions)].add(by)
    return dataclasses.replace(prompt, embeddings=x)


def cut(prompt, length):
    x = prompt.embeddings.at[:, length:].set(0)
    return dataclasses.replace(prompt, embeddings=x, length=lengths(length))


def empty():
    return init_prompt_cache(LANGUAGE, BATCH, T, CAPACITY, attention=True)


def fresh(prompt):
    return jit_prefill_fresh(random_params(LANGUAGE), empty(), prompt, config=LANGUAGE)[0]


def advance(cache, prompt, policy, tuning=None):
    params = random_params(LANGUAGE)
    cache, report = step(params, cache, prompt, policy, config=LANGUAGE, tuning=tuning)
    return cache, describe_prefill(report)


def error(cache, expected, length=LENGTH):
    """Largest deviation of anything that an answer depends on."""
    pairs = [(cache.logits, expected.logits), (cache.attention, expected.attention)]
    for name in ("keys", "values"):
        for mine, theirs in zip(getattr(cache.kv, name), getattr(expected.kv, name), strict=True):
            pairs.append((mine[:, :, :length], theirs[:, :, :length]))
    assert cache.kv.length.tolist() == expected.kv.length.tolist() == [length] * BATCH
    return max(deviation(*pair) for pair in pairs)


EDITS = {
    "nothing": lambda p: p,
    "the first token": lambda p: changed(p, 0),
    "an image token": lambda p: changed(p, 20),
    "image tokens": lambda p: changed(p, 9, 10, 31),
    "the last image token": lambda p: changed(p, 37),
    "the question": lambda p: changed(p, 40, 41),
    "the last token": lambda p: changed(p, LENGTH - 1),
    "another prompt": lambda p: make(seed=5),
}


@pytest.mark.parametrize("tuning", [None, SHORT_CHUNKS], ids=["shipped", "short"])
@pytest.mark.parametrize("edit", EDITS)
def test_exact_equals_a_fresh_prefill(edit, tuning):
    old = make()
    new = EDITS[edit](old)
    cache, reports = advance(fresh(old), new, EXACT, tuning)
    assert error(cache, fresh(new)) < ROUNDING
    differs = np.asarray((new.embeddings != old.embeddings).any(-1))
    for row, report in zip(differs, reports, strict=True):
        first = int(row.argmax()) if row.any() else LENGTH
        assert report["first"] == first
        assert report["prefilled"] == LENGTH - first
        assert report["changed"] == row.sum()
        assert report["path"] == {0: "full", LENGTH: "reuse"}.get(first, "partial")


def test_an_empty_cache_is_filled_by_a_step():
    prompt = make()
    for policy in (EXACT, BOUNDED):
        cache, reports = advance(empty(), prompt, policy)
        assert [r["path"] for r in reports] == ["full", "full"]
        assert error(cache, fresh(prompt)) < ROUNDING
        assert cache.exact.tolist() == [LENGTH, LENGTH]


def test_shorter_and_longer_prompts():
    cache = fresh(make())
    cache, reports = advance(cache, cut(make(), 30), EXACT)
    assert reports[0]["prefilled"] == 1  # the answer begins at another position
    assert error(cache, fresh(cut(make(), 30)), 30) < ROUNDING
    cache, reports = advance(cache, make(), EXACT)
    assert reports[0]["prefilled"] == LENGTH - 30
    assert error(cache, fresh(make())) < ROUNDING


def test_nothing_changed_nothing_is_touched():
    cache = fresh(make())
    after, reports = advance(cache, make(), EXACT)
    assert [r["path"] for r in reports] == ["reuse", "reuse"]
    for one, other in zip(jax.tree.leaves(cache), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(one, other)


def test_bounded_replaces_what_changed_and_keeps_what_did_not():
    old = make()
    new = changed(old, 10, 20)
    before = fresh(old)
    cache, reports = advance(before, new, BOUNDED)
    text = LENGTH - IMAGES.stop
    assert [r["prefilled"] for r in reports] == [2 + text] * BATCH
    assert cache.exact.tolist() == [11, 11]
    kept = [*range(10), *range(11, 20), *range(21, IMAGES.stop)]
    expected = fresh(new)
    for layer in range(LANGUAGE.layers):
        for name in ("keys", "values"):
            mine = np.asarray(getattr(cache.kv, name)[layer])
            was = np.asarray(getattr(before.kv, name)[layer])
            np.testing.assert_array_equal(mine[:, :, kept], was[:, :, kept])
            assert (mine[:, :, [10, 20]] != was[:, :, [10, 20]]).any(-1).all()
            text_moved = np.abs(mine - was)[:, :, IMAGES.stop : LENGTH].max() > 1e-3
            assert text_moved == (layer > 0)  # the first layer sees its own position alone
    assert deviation(cache.kv.keys[0][:, :, :LENGTH], expected.kv.keys[0][:, :, :LENGTH]) < ROUNDING
    # The rest is an approximation, and better than doing nothing.
    apart = deviation(cache.logits, expected.logits)
    assert ROUNDING < apart < 0.7 * deviation(before.logits, expected.logits)


def test_bounded_at_the_end_of_the_image_is_exact():
    new = changed(make(), 36, 37)
    cache, _ = advance(fresh(make()), new, BOUNDED)
    assert error(cache, fresh(new)) < ROUNDING
    assert cache.exact.tolist() == [LENGTH, LENGTH]


@pytest.mark.parametrize("tuning", [None, SHORT_CHUNKS], ids=["shipped", "short"])
def test_bounded_is_refreshed_in_time(tuning):
    policy = PrefillPolicy(bounded=True, refresh_every=3)
    prompt = make()
    cache = fresh(prompt)
    refreshed = []
    for t in range(7):
        prompt = changed(prompt, 12 + 2 * t)
        cache, reports = advance(cache, prompt, policy, tuning)
        refreshed.append(reports[0]["refreshed"])
        exact = cache.exact.tolist() == [LENGTH, LENGTH]
        assert exact == refreshed[-1] == (error(cache, fresh(prompt)) < ROUNDING)
        if refreshed[-1]:  # from the first position on that may be wrong
            assert reports[0]["prefilled"] == LENGTH - (12 + 2 * (t - 2) + 1)
    assert refreshed == [False, False, True, False, False, True, False]


def test_exact_after_bounded_is_exact():
    prompt = changed(make(), 10)
    cache, _ = advance(fresh(make()), prompt, BOUNDED)
    cache, reports = advance(cache, prompt, EXACT)
    assert reports[0]["prefilled"] == LENGTH - 11
    assert error(cache, fresh(prompt)) < ROUNDING


def test_streams_do_not_influence_each_other():
    old = make()
    new = changed(changed(old, 30, stream=0), 8, 9, 22, stream=1)
    for policy in (EXACT, BOUNDED):
        together, reports = advance(fresh(old), new, policy)
        for b in range(BATCH):
            twice = jax.tree.map(lambda x, b=b: jnp.repeat(x[b : b + 1], 2, axis=0), (old, new))
            alone, one = advance(fresh(twice[0]), twice[1], policy)
            assert one[0] == reports[b]
            assert deviation(together.logits[b], alone.logits[0]) < ROUNDING
            for mine, theirs in zip(together.kv.keys, alone.kv.keys, strict=True):
                assert deviation(mine[b, :, :LENGTH], theirs[0, :, :LENGTH]) < ROUNDING


def test_a_slow_fade_within_the_tolerance_is_picked_up():
    policy = PrefillPolicy(tolerance=0.5)
    prompt = make()
    cache, found = fresh(prompt), []
    for _ in range(7):
        prompt = changed(prompt, 20, by=0.15)
        cache, reports = advance(cache, prompt, policy)
        found.append(reports[0]["changed"])
        difference = jnp.abs(prompt.embeddings - cache.reference).max(-1)
        scale = jnp.sqrt(jnp.square(cache.reference).mean(-1))
        assert bool((difference <= 0.5 * scale + 1e-6).all())
    assert 0 in found
    assert 1 in found


def test_an_answer_in_between_does_not_matter():
    rng = np.random.default_rng(0)
    session = PromptSession(Language(LANGUAGE, random_params(LANGUAGE)), options=OPTIONS)
    tokens = rng.standard_normal((1, 16, LANGUAGE.projector_input)).astype(np.float32)
    for t in range(4):
        tokens[0, 10 + t] += 1
        ids = [5, -200, 6, 7, 8]
        prefilled = session.prefill(tokens, ids)
        other = PromptSession(Language(LANGUAGE, random_params(LANGUAGE)), options=OPTIONS)
        expected = other.prefill(tokens, ids)
        assert deviation(prefilled.logits, expected.logits) < ROUNDING
        assert prefilled.report["path"] == ("partial" if t else "full")
        whole = list(other.stream())
        assert list(session.stream())[:3] == whole[:3]
        assert session.generate().tolist() == whole


OPTIONS = dv.AnswerOptions(max_new_tokens=7, stop_ids=())


def session_of(**options):
    return PromptSession(Language(LANGUAGE, random_params(LANGUAGE)), options=OPTIONS, **options)


def vision_tokens(images=1, seed=0):
    shape = (images, 16, LANGUAGE.projector_input)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_session_counts_what_it_does():
    session = session_of()
    tokens = vision_tokens()
    session.prefill(tokens, [5, -200, 6])
    session.prefill(tokens, [5, -200, 6])
    moved = tokens.copy()
    moved[0, 12] += 1
    session.prefill(moved, [5, -200, 6])
    session.prefill(moved, [5] * 20 + [-200, 6])
    stats = session.get_stats()
    assert (stats["prompts"], stats["full"], stats["partial"], stats["reuse"]) == (4, 2, 1, 1)
    assert stats["resized"] == 1  # 37 positions do not fit into 32
    assert (stats["prefilled_total"], stats["tokens_total"]) == (18 + 0 + 5 + 37, 3 * 18 + 37)
    session.reset()
    assert session.prefill(moved, [5, -200, 6]).report["path"] == "full"


def test_a_conversation_that_grows_keeps_what_it_has():
    """Through several paddings, and back: what is new is read, and what it says is what a fresh
    prefill says."""
    session, fresh = session_of(), session_of(differential=False)
    ids, known = [5, -200, 6], 0
    for number, further in enumerate(([], [7] * 20, [8] * 40, [9] * 2)):
        ids = [*ids, *further]
        found = session.prefill(vision_tokens(), ids)
        assert found.report["prefilled"] == found.report["total"] - known
        expected = fresh.prefill(vision_tokens(), ids)
        assert deviation(found.logits, expected.logits) < ROUNDING
        known = found.report["total"]
        assert session.get_stats()["resized"] == min(number, 2)
    shorter = session.prefill(vision_tokens(), ids[:3])
    assert shorter.report["prefilled"] == 1  # the answer begins elsewhere
    assert deviation(shorter.logits, fresh.prefill(vision_tokens(), ids[:3]).logits) < ROUNDING


def test_a_conversation_that_grows_at_once():
    """From a padding of 32 to one of 128: by way of 64."""
    session = session_of(tuning=PrefillTuning(chunk=8, full_above=1.0))
    ids = [5, -200, 6]
    for further, prefilled in (([], 18), ([7] * 70, 70)):
        ids = [*ids, *further]
        found = session.prefill(vision_tokens(), ids)
        assert found.report["prefilled"] == prefilled
    expected = session_of(differential=False).prefill(vision_tokens(), ids)
    assert deviation(found.logits, expected.logits) < ROUNDING


def test_a_cache_of_too_few_slots():
    with pytest.raises(dv.CacheError, match="10 slots do not hold a prompt padded to 12"):
        resize_prompt_cache(empty(), 12, 10)


def test_a_session_that_is_not_differential_prefills_everything():
    session = session_of(differential=False)
    for _ in range(2):
        report = session.prefill(vision_tokens(), [5, -200, 6]).report
        assert (report["path"], report["prefilled"]) == ("full", 18)


def test_a_large_change_takes_the_dense_pass():
    session = session_of()
    session.prefill(vision_tokens(), [5, -200, 6])
    report = session.prefill(vision_tokens(seed=1), [5, -200, 6]).report
    assert (report["path"], report["prefilled"]) == ("full", 18)
    assert (report["changed"], report["first"]) == (16, 1)  # what was found stays true


def test_the_share_above_which_a_pass_is_dense_is_given():
    session = session_of(tuning=PrefillTuning(chunk=8, full_above=1.0))
    session.prefill(vision_tokens(), [5, -200, 6])
    report = session.prefill(vision_tokens(seed=1), [5, -200, 6]).report
    assert (report["path"], report["prefilled"]) == ("partial", 17)  # the first id is kept


def test_anything_may_stand_in_a_leaf_of_a_policy():
    policy = PrefillPolicy.approximate()
    assert jax.tree.map(np.shape, policy).tolerance == ()
    assert jax.tree.map(lambda x: "?", policy).bounded == "?"
    assert jax.tree.map(lambda x: x, policy) == policy


def test_attention_is_over_the_image_tokens():
    session = session_of(attention=True)
    tokens = vision_tokens(2)
    ids = [5, -200, 6, -200, 7, 8]
    found = session.prefill(tokens, ids).attention
    assert found.shape == (LANGUAGE.layers, LANGUAGE.heads, 32)
    assert (found > 0).all()
    assert (found.sum(-1) < 1).all()  # the text has the rest
    tokens[1, 15] += 1
    report = session.prefill(tokens, ids)
    assert report.report["path"] == "partial"
    again = session_of(attention=True).prefill(tokens, ids).attention
    assert deviation(report.attention, again) < ROUNDING
    assert session_of().prefill(tokens, ids).attention is None


def test_a_session_tells_what_it_cannot_do():
    session = session_of()
    with pytest.raises(dv.PromptError, match="prefill a prompt first"):
        session.generate()
    with pytest.raises(dv.PromptError, match="one prompt at a time, got 2"):
        session.prefill(None, [[5], [6]])
    session.prefill(None, [5, 6])
    stream = session.stream()
    next(stream)
    session.prefill(None, [5, 7])
    with pytest.raises(dv.PromptError, match="given up"):
        list(stream)
    session.options = dv.AnswerOptions(max_new_tokens=100)
    with pytest.raises(dv.PromptError, match="room for an answer of 64"):
        session.generate()
    session.options = dv.AnswerOptions(max_new_tokens=7, num_beams=3)
    with pytest.raises(dv.PromptError, match="generate"):
        session.stream()
    assert len(session.generate())


def test_a_session_outlives_a_step_that_fails(monkeypatch):
    session = session_of()
    session.prefill(None, [5, 6, 7])
    stream = session.stream()
    first = next(stream)

    def fail(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("diffvis_jax.language.answer.advance", fail)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    with pytest.raises(dv.PromptError, match="prefill a prompt first"):
        session.generate()
    assert session.prefill(None, [5, 6, 7]).report["path"] == "full"
    assert session.generate()[0] == first


def test_searching_leaves_the_prompt_as_it_is():
    session = session_of()
    session.prefill(None, [5, 6, 7])
    greedy = session.generate().tolist()
    session.options = dataclasses.replace(OPTIONS, num_beams=3)
    searched = session.generate().tolist()
    session.options = OPTIONS
    assert session.generate().tolist() == greedy
    session.options = dataclasses.replace(OPTIONS, num_beams=3)
    assert session.generate().tolist() == searched


def test_an_episode_compiles_nothing(compilations):
    prompt, cache = make(), fresh(make())
    edits = [changed(prompt, p) for p in (0, 7, 20, 37, 44)]
    policies = (EXACT, BOUNDED, PrefillPolicy.approximate(4), PrefillPolicy(tolerance=1))
    cache, _ = advance(cache, prompt, EXACT)
    del compilations[:]
    for policy in policies:
        for edit in edits:
            cache, _ = advance(cache, edit, policy)
    assert compilations == []


def test_bad_caches_and_policies_are_refused():
    cache = init_prompt_cache(LANGUAGE, 1, 32, 64)
    with pytest.raises(dv.CacheError, match=r"\[2, 64, 32\].*\[1, 32, 32\]"):
        advance(cache, make(), EXACT)
    with pytest.raises(dv.CacheError, match="32 slots"):
        init_prompt_cache(LANGUAGE, 1, 64, 32)
    for wrong in ({"tolerance": -1.0}, {"refresh_every": 2.5}, {"bounded": "no"}, {"bounded": 1}):
        with pytest.raises(dv.ConfigError, match=next(iter(wrong))):
            PrefillPolicy(**wrong)


def test_the_comparison_tells_exact_from_bounded():
    old, new = make(), changed(make(), 10, 20)
    params = random_params(LANGUAGE)
    found = {}
    for name, policy in (("exact", EXACT), ("bounded", BOUNDED)):
        cache, _ = advance(fresh(old), new, policy)
        found[name] = compare_prefill(params, cache, new, config=LANGUAGE, new_tokens=8)
    exact, bounded = found["exact"], found["bounded"]
    assert exact.logit_error.max() < 1e-4
    assert exact.agreement.tolist() == [1.0, 1.0]
    assert exact.same_text.all()
    assert (bounded.logit_error > 1e-3).all()
    assert (bounded.divergence > exact.divergence).all()
