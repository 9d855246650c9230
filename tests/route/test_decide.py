"""Where tasks go: the whole table as a golden, and what no table of rules can do."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffvis_jax.errors import ConfigError
from diffvis_jax.route.classify import Judged
from diffvis_jax.route.decide import Rule, Rules, decide
from diffvis_jax.route.labels import OPERATIONS, Complexity, Sensitivity
from diffvis_jax.route.settings import PRESETS, ProviderSettings, RoutingSettings, preset

GOLDEN = Path(__file__).with_name("decisions.txt")
CLOUD = ProviderSettings(kind="openai", base_url="https://cloud.example/v1", model="m")
PROVIDERS = {"here": False, "cloud": True, "other": False}


def rules_of(name: str) -> Rules:
    providers = {} if name == "local_only" else {"cloud": CLOUD}
    return RoutingSettings.model_validate(preset(name)).make_rules(providers)


def table() -> str:
    """One letter an operation, in the order of `OPERATIONS`: Cloud, Here, nobody (-); small where
    there is somebody to ask after it."""
    lines = [f"{' ' * 13}{'/'.join(OPERATIONS)}"]
    for name in PRESETS:
        rules = rules_of(name)
        for down in ("none", "cloud", "here"):
            columns = "".join(f"{kind.name.lower():<10}" for kind in Complexity)
            lines += ["", f"{name}, down: {down}", f"{'':<13}{columns}".rstrip()]
            for level in Sensitivity:
                row = f"{level.name.lower():<13}"
                for kind in Complexity:
                    for operation in OPERATIONS:
                        judged = Judged(level, kind)
                        found = decide(judged, operation, rules, {down: False})
                        assert found.send == ("masked" if found.target == "cloud" else "nothing")
                        letter = (found.target or "-")[0].upper()
                        row += letter.lower() if found.then else letter
                    row += "      "
                lines.append(row.rstrip())
    return "\n".join(lines) + "\n"


def test_the_table():
    assert table() == GOLDEN.read_text()


def test_what_it_says():
    """The golden in words, lest it be written anew without being read."""
    for name in PRESETS:
        rules = rules_of(name)
        for level in Sensitivity:
            for kind in Complexity:
                for operation in OPERATIONS:
                    found = decide(Judged(level, kind), operation, rules, {})
                    hard = operation == "grounding" and kind == Complexity.COMPLEX
                    leaves = {"local_only": False, "hybrid": hard, "cloud_first": True}[name]
                    leaves &= level < Sensitivity.CONFIDENTIAL
                    assert found.target == ("cloud" if leaves else "here")
                    assert found.then == (("here",) if leaves else ())


sets = st.frozensets
tables = st.lists(
    st.builds(
        Rule,
        to=st.sampled_from(sorted(PROVIDERS)),
        what=st.sampled_from(["masked", "changes"]),
        sensitivity=sets(st.sampled_from(Sensitivity)),
        complexity=sets(st.sampled_from(Complexity)),
        operation=sets(st.sampled_from(OPERATIONS)),
    ),
    max_size=5,
)
healths = st.fixed_dictionaries({}, optional=dict.fromkeys(PROVIDERS, st.booleans()))
levels = st.sampled_from(Sensitivity)
kinds, operations = st.sampled_from(Complexity), st.sampled_from(OPERATIONS)


@settings(max_examples=300)
@given(tables, healths, levels, levels, kinds, operations, st.booleans())
def test_more_confidential_is_never_nearer_to_the_cloud(
    rows, health, one, two, kind, operation, force
):
    try:
        rules = Rules(tuple(rows), PROVIDERS, force_local=force)
    except ConfigError:
        assume(False)
    low, high = sorted((one, two))
    before = decide(Judged(low, kind), operation, rules, health)
    after = decide(Judged(high, kind), operation, rules, health)
    if after.target == "cloud":
        assert before.target == "cloud"
    assert "cloud" not in after.then  # what failed here stays here
    if high == Sensitivity.CONFIDENTIAL or force:
        assert after.target != "cloud"
        assert after.send == "nothing"
    forced = decide(
        Judged(low, kind), operation, dataclasses.replace(rules, force_local=True), health
    )
    assert forced.target != "cloud"
    for name in (before.target, *before.then):
        assert not name or health.get(name, True)


@given(tables, kinds, operations)
def test_a_failing_cloud_leads_here_and_a_failing_local_one_never_to_the_cloud(
    rows, kind, operation
):
    try:
        rules = Rules(tuple(rows), PROVIDERS)
    except ConfigError:
        assume(False)
    for level in Sensitivity:
        well = decide(Judged(level, kind), operation, rules, {})
        if well.target == "cloud":
            assert well.then == ("here",)
            down = decide(Judged(level, kind), operation, rules, {"cloud": False})
            assert (down.target, down.send) == ("here", "nothing")
        else:
            down = decide(Judged(level, kind), operation, rules, {well.target: False})
            assert down.target in ("", "here")


PUBLIC, INTERNAL, CONFIDENTIAL = map(frozenset, ([x] for x in Sensitivity))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [Rule("cloud", sensitivity=PUBLIC | CONFIDENTIAL)],
            "confidential tasks do not go to cloud",
        ),
        ([Rule("cloud", operation=frozenset({"reading"}))], "must name the sensitivities"),
        ([Rule("cloud", "nothing", PUBLIC)], "'masked' or 'changes'"),
        ([Rule("clod", sensitivity=PUBLIC)], "no provider 'clod': there are cloud, here, other"),
        ([Rule("here"), Rule("cloud", sensitivity=PUBLIC)], "rule 2: never matches"),
        (
            [Rule("cloud", sensitivity=PUBLIC), Rule("here", sensitivity=PUBLIC)],
            "rule 2: never matches",
        ),
        ([Rule("cloud", sensitivity=INTERNAL)], "internal, simple, grounding leaves, where public"),
    ],
)
def test_rules_that_are_refused(rows, message):
    with pytest.raises(ConfigError, match=message):
        Rules(tuple(rows), PROVIDERS)


def test_all_that_is_wrong_is_told_at_once():
    rows = (Rule("clod"), Rule("cloud"))
    with pytest.raises(ConfigError) as caught:
        Rules(rows, PROVIDERS)
    assert str(caught.value).count("rule ") >= 3


def test_the_local_provider_is_local():
    for local in ("cloud", "nobody"):
        with pytest.raises(ConfigError, match="is none, or is remote"):
            Rules((), PROVIDERS, local)


def test_reasons():
    rules = rules_of("cloud_first")
    judged = Judged(Sensitivity.PUBLIC, Complexity.SIMPLE, ("public: stated by the caller",))
    found = decide(judged, "reading", rules, {"cloud": False})
    assert found.reasons == (
        "public: stated by the caller",
        "rule 1: cloud",
        "cloud cannot be asked now",
    )
