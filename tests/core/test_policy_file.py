"""Policies as files: what is written comes back, and what is no policy is refused."""

import contextlib
import json
import math

import numpy as np
import pytest
from fuzzing import fuzz, json_texts
from hypothesis import given
from hypothesis import strategies as st

import diffvis_jax as dv
from diffvis_jax.core.policy_file import FORMAT, policy_fields

NAMED = {name: getattr(dv.Policy, name)() for name in ("exact", "faithful", "fast", "classic")}


def same(a: dv.Policy, b: dv.Policy) -> bool:
    return all(
        np.array_equal(np.asarray(getattr(a, name)), np.asarray(getattr(b, name)))
        and np.asarray(getattr(a, name)).dtype == np.asarray(getattr(b, name)).dtype
        for name in policy_fields(a)
    )


@pytest.mark.parametrize("name", NAMED)
def test_named_policies_come_back(name, tmp_path):
    dv.save_policy(NAMED[name], tmp_path / "policy.json", about={"for": name})
    assert same(dv.load_policy(tmp_path / "policy.json"), NAMED[name])
    assert [path.name for path in tmp_path.iterdir()] == ["policy.json"]


margins = st.floats(0, 64, width=32) | st.just(math.inf)


@given(
    margin=st.sampled_from(["faithful", "fast"])
    | margins
    | st.lists(margins, min_size=1, max_size=5).map(tuple)
    | st.lists(st.tuples(margins, margins), min_size=1, max_size=3),
    change_threshold=st.floats(0, 1, width=32)
    | st.lists(st.floats(0, 1, width=32), min_size=1, max_size=3),
    max_changed_patches=st.none() | st.integers(0, 1000),
    keyframe_every=st.integers(0, 1000),
    metric=st.sampled_from(("max", "mean", "p99")),
)
def test_every_policy_comes_back(tmp_path_factory, **fields):
    path = tmp_path_factory.getbasetemp() / "policy.json"
    policy = dv.Policy(**fields)
    dv.save_policy(policy, path)
    assert same(dv.load_policy(path), policy)
    assert "Infinity" not in path.read_text()  # which is not JSON


def test_what_is_left_out_has_its_default(tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"format": FORMAT, "policy": {"margin": [1, 2, None, 4, 5]}}))
    policy = dv.load_policy(path)
    assert np.asarray(policy.margin).tolist() == [1, 2, math.inf, 4, 5]
    assert policy.settle == dv.Policy().settle


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "no policy"),
        ('{"policy": {}}', "no policy"),
        (json.dumps({"format": FORMAT}), "no fields"),
        (json.dumps({"format": FORMAT, "policy": {}, "margin": 0}), 'beside "policy": margin'),
        (json.dumps({"format": FORMAT, "policy": {"margins": 1}}), "margins"),
        (json.dumps({"format": FORMAT, "policy": {"margin": [1, "x"]}}), "margin must be numbers"),
        (json.dumps({"format": FORMAT, "policy": {"margin": [1, -2]}}), "margin must be"),
        (json.dumps({"format": FORMAT, "policy": {"settle": "much"}}), "settle must be"),
        (json.dumps({"format": FORMAT, "policy": {"settle": 2}}), "settle must be"),
        (json.dumps({"format": FORMAT, "policy": {"metric": "median"}}), "metric must be"),
        (json.dumps({"format": FORMAT, "policy": {"margin": True}}), "margin must be numbers"),
        (json.dumps({"format": FORMAT, "policy": {"margin": [1, 10**400]}}), "no values"),
        (json.dumps({"format": FORMAT, "policy": {"margin": [1, 1e308]}}), "no values"),
        (json.dumps({"format": FORMAT, "policy": {"margin": "1 2"}}), "margin must be numbers"),
        (f'{{"format": "{FORMAT}", "policy": {{"settle": 0, "settle": 1}}}}', "'settle' twice"),
        (f'{{"format": "{FORMAT}", "policy": {{"settle": {"1" * 5000}}}}}', "cannot be read as JS"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_what_is_no_policy_is_refused(content, said, tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(content)
    with pytest.raises(dv.ConfigError, match=said) as caught:
        dv.load_policy(path)
    assert "policy.json" in str(caught.value)


def test_a_byte_order_mark_is_passed_over(tmp_path):
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"format": FORMAT, "policy": {"margin": 2}}), encoding="utf-8-sig")
    assert same(dv.load_policy(path), dv.Policy(margin=2))
    path.write_text("{}", encoding="utf-16")
    with pytest.raises(dv.ConfigError, match=r"policy\.json' cannot be read: it is not in UTF-8"):
        dv.load_policy(path)


WHOLE = {"format": FORMAT, "policy": policy_fields(dv.Policy())}


@fuzz()
@given(json_texts(WHOLE))
def test_any_policy_file_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with contextlib.suppress(dv.ConfigError):
        assert isinstance(dv.load_policy(path), dv.Policy)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(dv.ConfigError, match=r"there\.json"):
        dv.load_policy(tmp_path / "there.json")


def test_scripts_take_names_and_files(script, tmp_path):
    find_policy = script("named_policies").find_policy
    for name, policy in NAMED.items():
        assert same(find_policy(name), policy)
    dv.save_policy(NAMED["fast"], tmp_path / "mine.json")
    assert same(find_policy(str(tmp_path / "mine.json")), NAMED["fast"])
    assert same(find_policy("2"), dv.Policy(margin=2))
    assert same(find_policy("1 1 2.5 4 8"), dv.Policy(margin=(1, 1, 2.5, 4, 8)))
    assert same(find_policy("1 2.5"), dv.Policy(margin=(1, 2.5)))
    several = script("named_policies").find_policies("fast, 1 1 2 4 8,0")
    assert list(several) == ["fast", "margin 1 1 2 4 8", "margin 0"]
    with pytest.raises(ValueError, match="no policy 'fastest'"):
        find_policy("fastest")
    for name in ("1 1 2@", "@0.2", "1 x", "1@0.2@0.3", "1.2.3"):
        with pytest.raises(ValueError, match=r"no policy '.*such as '2' or '1 1 2 4 8'"):
            find_policy(name)
