"""Scores of any agent's answers to a data set, by the rules under which it was published.

Every question counts: one that was not answered is wrong. A question is a record with a target, or
with an action and no target.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diffvis_jax.datasets.coordinates import Boxes, boxes_in_pixels, in_pixels, pixels
from diffvis_jax.datasets.predictions import Prediction
from diffvis_jax.datasets.records import Dataset, Record
from diffvis_jax.evaluation.summary import LEAST_IOU
from diffvis_jax.metrics import OUTCOMES, click_accuracy, iou, mcnemar, wilson_interval
from diffvis_jax.metrics.actions import click_score, same_text, word_f1
from diffvis_jax.report.text import decimal, interval, percent

_TEXT_ACTIONS = ("write", "type")

Row = Mapping[str, Any]


def questions(dataset: Dataset) -> list[Record]:
    """The records that ask something. Of Mind2Web those with a visible positive candidate."""
    acts = dataset.kind == "agentnetbench"
    return [r for r in dataset.records if r.target is not None or (acts and r.action)]


def score(dataset: Dataset, predictions: Mapping[str, Prediction]) -> list[dict[str, Any]]:
    """A row for each question: id, stream, groups, and the score of the answer.

    outcome: of `OUTCOMES` (None: the record has no target); correct: bool; iou: overlap of the
    predicted box and the target's, where both are boxes; of AgentNetBench score, 0-1; of Mind2Web
    f1 of the operation, and success of the whole step.
    """
    rows = []
    for record in questions(dataset):
        prediction = predictions.get(record.id)
        row: dict[str, Any] = {
            "id": record.id,
            "stream": record.stream,
            "groups": dict(record.groups),
            "action": record.action,
            "outcome": None,
        }
        if record.target is not None:
            assert record.size is not None
            target = in_pixels(record.target, *record.size)
            answer = prediction and prediction.answer
            row["outcome"] = click_accuracy([answer], [target]).outcomes[0]
            if prediction and prediction.box is not None and isinstance(record.target, Boxes):
                boxes = boxes_in_pixels(record.target.corners, *record.size)
                row["iou"] = float(iou(prediction.box, boxes).max())
        row["correct"] = row["outcome"] == "correct"
        if dataset.kind == "agentnetbench":
            row["score"] = _action_score(record, prediction)
            row["correct"] = row["score"] == 1
        if dataset.kind == "mind2web":
            operation = f"{prediction.action} {prediction.text}" if prediction else ""
            row["f1"] = word_f1(operation, f"{record.action} {record.text}")
            row["success"] = row["correct"] and row["f1"] == 1
        rows.append(row)
    return rows


def _action_score(record: Record, prediction: Prediction | None) -> float:
    """AgentNetBench: 0 for another action; a click by its distance, a text by its similarity."""
    if prediction is None or prediction.action.lower() != record.action.lower():
        return 0.0
    if isinstance(record.target, Boxes):
        if not isinstance(prediction.answer, np.ndarray):
            return 0.0
        assert record.size is not None
        boxes = boxes_in_pixels(record.target.corners, *record.size)
        position = (boxes[0, :2] + boxes[0, 2:]) / 2
        if record.position is not None:
            position = record.position.to(pixels(*record.size)).xy
        return click_score(prediction.answer, boxes, position, record.size)
    if record.action.lower() in _TEXT_ACTIONS:
        return float(same_text(prediction.text, record.text))
    return float(prediction.text.strip().lower() == record.text.strip().lower())


def summarise_answers(rows: Sequence[Row]) -> dict[str, Any]:
    """Numbers over some rows of one data set; None where there is nothing to take them of."""
    correct = sum(row["correct"] for row in rows)
    outcomes = [row["outcome"] for row in rows if row["outcome"] is not None]
    overlaps = [row["iou"] for row in rows if "iou" in row]
    result: dict[str, Any] = {
        "questions": len(rows),
        "correct": correct / len(rows) if rows else None,
        "correct_interval": wilson_interval(correct, len(rows)),
        "outcomes": {name: outcomes.count(name) for name in OUTCOMES},
        "boxes": len(overlaps),
        "iou": statistics.fmean(x >= LEAST_IOU for x in overlaps) if overlaps else None,
    }
    if any("score" in row for row in rows):
        by_action = _by(rows, "action", "score")
        result["score_by_action"] = by_action
        result["score"] = statistics.fmean(by_action.values())
    if any("f1" in row for row in rows):
        for key in ("correct", "f1", "success"):
            result[f"{key}_macro"] = statistics.fmean(_by(rows, "stream", key).values())
    return result


def _by(rows: Iterable[Row], name: str, key: str) -> dict[str, float]:
    """Mean of a number for each value of a name."""
    numbers_of: dict[str, list[float]] = {}
    for row in rows:
        numbers_of.setdefault(row[name], []).append(float(row[key]))
    return {value: statistics.fmean(numbers) for value, numbers in sorted(numbers_of.items())}


def groups_in(rows: Iterable[Row]) -> dict[str, dict[str, list[Row]]]:
    """Group -> value -> rows; groups of one value are left out."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        for name, value in row["groups"].items():
            groups.setdefault(name, {}).setdefault(value, []).append(row)
    return {name: dict(sorted(v.items())) for name, v in groups.items() if len(v) > 1}


def paired_test(first: Sequence[Row], second: Sequence[Row]) -> dict[str, Any]:
    """McNemar's exact test between two agents' answers to the same questions."""
    a, b = (np.array([row["correct"] for row in rows], bool) for rows in (first, second))
    paired = mcnemar(a, b)
    return {
        "only_first": paired.only_full,
        "only_second": paired.only_differential,
        "p": paired.p_value,
    }


def answers_table(measured: Mapping[str, Row], first: str) -> list[list[str]]:
    """Rows of text, the first their heads."""
    any_of = {key for row in measured.values() for key in row if row[key] is not None}
    extra = [
        (key, title)
        for key, title in (
            ("score", "score, mean over actions"),
            ("correct_macro", "element accuracy, macro"),
            ("f1_macro", "operation F1, macro"),
            ("success_macro", "step success, macro"),
        )
        if key in any_of
    ]
    head = [
        *(first, "questions", "correct", "wrong format", "no answer", "refused / not refused"),
        *("IoU 0.5 (boxes)", *(title for _, title in extra)),
    ]
    rows = [head]
    for name, r in measured.items():
        outcomes = r["outcomes"]
        rows.append(
            [
                name,
                f"{r['questions']}",
                interval(r["correct"], r["correct_interval"]),
                f"{outcomes['wrong_format']}",
                f"{outcomes['no_prediction']}",
                f"{outcomes['refused']} / {outcomes['not_refused']}",
                f"{percent(r['iou'])} ({r['boxes']})",
                *(decimal(r[key], ".3f") for key, _ in extra),
            ]
        )
    return rows
