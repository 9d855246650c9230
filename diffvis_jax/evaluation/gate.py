"""Whether weights still find what they found: expected outcomes, and a verdict."""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.evaluation.setups import Outcome
from diffvis_jax.metrics import mcnemar
from diffvis_jax.utils.atomic_file import write_whole
from diffvis_jax.utils.json_file import JsonError, read_json

LOST = 2  # queries that a setup may lose, net
LEAST_P = 0.01  # of McNemar's test against the reference
IOU = 0.002  # mean difference of the overlaps of answers and targets: other CPUs round otherwise
MISSED = 0.03  # by which the missed change, worst of ten, may rise

Expected = Mapping[str, Mapping[str, Any]]


def judge(
    found: Mapping[str, Outcome], expected: Expected, *, reference: str, equal: str
) -> dict[str, str]:
    """What is wrong with each setup; an empty text: it passes.

    Args:
      found: by name of the setup.
      expected: of the same weights, from `read_expected`.
      reference: the setup that the others are tested against.
      equal: the setup that must answer every query as the reference does.

    Raises:
      ConfigError: other setups or queries than the file has: it must be accepted anew.
    """
    queries, setups = expected["queries"], expected["setups"]
    order = sorted(found[reference].clicks)
    if order != queries or not set(found) <= set(setups):
        raise ConfigError("the expected outcomes are of other queries or setups: accept new ones")
    base, verdicts = _right(found[reference], order), {}
    for name, own in found.items():
        before = setups[name]
        now, then = _right(own, order), np.array([mark == "1" for mark in before["right"]])
        lost, won = int((then & ~now).sum()), int((now & ~then).sum())
        paired = mcnemar(base, now)
        ious = np.array([own.ious[query] for query in order])
        differ = float(np.abs(ious - np.array(before["ious"].split(), float) / 100).mean())
        missed = own.missed["p90"] or 0.0
        faults = []
        if lost - won > LOST:
            faults.append(f"{lost} queries are lost and {won} won")
        if paired.p_value < LEAST_P and paired.only_full > paired.only_differential:
            faults.append(f"is worse than '{reference}' (McNemar p = {paired.p_value:.2g})")
        if name == equal and (now != base).any():
            faults.append(f"answers {int((now != base).sum())} queries unlike '{reference}'")
        if differ > IOU:
            faults.append(f"overlaps with the targets differ by {differ:.3f}, at most {IOU}")
        if missed > before["missed"] + MISSED:
            faults.append(f"misses {missed:.3f} of a change, expected {before['missed']:.3f}")
        verdicts[name] = "; ".join(faults)
    return verdicts


def _right(outcome: Outcome, order: list[str]) -> np.ndarray:
    return np.array([outcome.clicks[query] for query in order])


def read_expected(path: Path, weights: str) -> Expected:
    """What is expected of some weights.

    Raises:
      ConfigError: no such file, or it says nothing of them.
    """
    try:
        return read_json(path)["weights"][weights]
    except (JsonError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' holds no expected outcomes of {weights}: {error}") from error


def accept(path: Path, weights: str, found: Mapping[str, Outcome], reason: str) -> None:
    """Writes what was found as what is expected from now on, and why.

    Raises:
      ConfigError: no reason; a file that is none of this kind.
    """
    if not reason.strip():
        raise ConfigError("to accept other outcomes, say why")
    try:
        content = read_json(path) if path.exists() else {"weights": {}, "accepted": []}
        known, reasons = content["weights"], content["accepted"]
    except (JsonError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' holds no expected outcomes: {error}") from error
    queries = sorted(next(iter(found.values())).clicks)
    known[weights] = {
        "queries": queries,
        "setups": {
            name: {
                "right": "".join("01"[own.clicks[query]] for query in queries),
                "ious": " ".join(f"{100 * own.ious[query]:.4g}" for query in queries),
                "missed": round(own.missed["p90"] or 0.0, 4),
            }
            for name, own in found.items()
        },
    }
    today = datetime.date.today().isoformat()
    reasons.append({"date": today, "weights": weights, "reason": reason})
    write_whole(path, json.dumps(content, indent=1) + "\n")
