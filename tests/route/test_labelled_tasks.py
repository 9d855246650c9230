"""Sixty tasks as agents have them, labelled by hand: what leaves under each preset."""

import csv
from pathlib import Path

import pytest

from diffvis_jax.route.classify import classify
from diffvis_jax.route.decide import decide
from diffvis_jax.route.labels import Sensitivity, Task
from diffvis_jax.route.marks import find_built_in
from diffvis_jax.route.settings import ProviderSettings, RoutingSettings, preset

with Path(__file__).with_name("tasks.tsv").open(encoding="utf-8", newline="") as file:
    ROWS = list(csv.DictReader(file, dialect="excel-tab"))
CLOUD = ProviderSettings(kind="openai", base_url="https://cloud.example/v1", model="m")
# Tasks that leave, in docs/routing.md.
SENT = {"local_only": 0, "hybrid": 7, "cloud_first": 36}


def task_of(row) -> Task:
    stated = Sensitivity[row["stated"].upper()] if row["stated"] else None
    titles = tuple(filter(None, [row["titles"]]))
    return Task(row["operation"], row["text"], stated, titles=titles)


def may_leave(row, name: str) -> bool:
    """By its labels."""
    if name == "local_only" or row["is"] == "confidential":
        return False
    return name == "cloud_first" or (row["operation"] == "grounding" and row["complex"] == "yes")


@pytest.mark.parametrize("name", SENT)
def test_what_leaves(name):
    settings = RoutingSettings.model_validate(preset(name))
    rules = settings.make_rules({} if name == "local_only" else {"cloud": CLOUD})
    words, sent = settings.make_words(), []
    for row in ROWS:
        judged = classify(task_of(row), words, find_built_in)
        if decide(judged, row["operation"], rules, {}).send != "nothing":
            sent.append(row)
    assert sent == [row for row in ROWS if may_leave(row, name)]
    assert len(ROWS) == 60
    assert len(sent) == SENT[name]
