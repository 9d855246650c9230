"""Prefill and decoding inside a host that has set JAX otherwise: same results, same dtypes."""

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from jax.sharding import AxisType
from tiny import LANGUAGE, ROUNDING, deviation, random_params, strict

import diffvis_jax as dv
from diffvis_jax.language.language_model import Language
from diffvis_jax.language.prompt_session import PromptSession

SETTINGS = {
    "strict": strict,
    "nans": lambda: jax.debug_nans(True),
    "device": lambda: jax.default_device(jax.devices()[1]),
    "mesh": lambda: jax.set_mesh(jax.make_mesh((4,), ("x",), axis_types=(AxisType.Explicit,))),
}
OPTIONS = {
    "greedy": {},
    "sampled": {"temperature": 0.9, "top_k": 20, "top_p": 0.9},
    "beams": {"num_beams": 2},
}


def conversation(seed: int = 0):
    """Logits, reports, attention and answers over a picture that changes."""
    params = jax.tree.map(np.asarray, random_params(LANGUAGE))
    session = PromptSession(
        Language(LANGUAGE, params), dv.PrefillPolicy.approximate(3), attention=True
    )
    shape = (1, 16, LANGUAGE.projector_input)
    tokens = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    for number, options in enumerate(OPTIONS.values()):
        session.options = dv.AnswerOptions(max_new_tokens=5, stop_ids=(), **options)
        tokens[0, 3 + number] += 1
        found = session.prefill(tokens, [5, -200, 6, 7])
        yield np.asarray(found.logits), found.report, found.attention, session.generate().tolist()


def assert_same(found, expected):
    for (logits, report, attention, ids), (*theirs, their_ids) in zip(found, expected, strict=True):
        assert logits.dtype == attention.dtype == np.float32
        assert deviation(logits, theirs[0]) < ROUNDING
        assert report == theirs[1]
        assert deviation(attention, theirs[2]) < ROUNDING
        assert ids == their_ids


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.slow
def test_answers_are_the_same(setting):
    expected = list(conversation())
    assert [report["path"] for _, report, *_ in expected] == ["full", "partial", "partial"]
    with SETTINGS[setting]():
        found = list(conversation())
    assert_same(found, expected)


@pytest.mark.slow
def test_threads_do_not_meet():
    """Each with a session of its own."""
    expected = [list(conversation(seed)) for seed in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for found, theirs in zip(
            pool.map(lambda seed: list(conversation(seed)), range(3)), expected, strict=True
        ):
            assert_same(found, theirs)
