"""From the lines of a run to its tables."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diffvis_jax.measure.missed import Missed, missed_tails
from diffvis_jax.metrics import Counts, bootstrap_interval, mcnemar, tails, total, wilson_interval
from diffvis_jax.report.text import (
    MISSED,
    TAILS,
    decimal,
    interval,
    milliseconds,
    missed_cells,
    percent,
    tails_text,
    times,
)

FULL = "full"  # the name of the full encode among the policies
LEAST_IOU = 0.5
ALL = "all"

Row = Mapping[str, Any]  # a frame, as `Runner` measures it


def good_frames(lines: Iterable[Row]) -> list[dict[str, Any]]:
    """All frames that could be read, each with the name of its stream."""
    return [
        {**frame, "stream": line["stream"]}
        for line in lines
        for frame in line["frames"]
        if "broken" not in frame
    ]


def broken_frames(lines: Iterable[Row]) -> list[str]:
    """The messages about those that could not."""
    return [frame["broken"] for line in lines for frame in line["frames"] if "broken" in frame]


def measure(frames: Sequence[Row], name: str, seed: int | None = None) -> dict[str, Any]:
    """One policy on some frames, beside the full encode.

    Args:
      frames: from `good_frames`.
      name: of the policy.
      seed: for the intervals of F1, which draw whole streams; None = no such intervals.

    Returns:
      plain numbers; None where there is nothing to take them of. Shares have a Wilson interval
      ("_interval"); times and token error are `metrics.tails`, missed change is `missed_tails`.
      Cost, missed change and equality of the elements are of the frames after the first of their
      stream; clicks, IoU and F1 of all frames.
    """
    steps = [frame for frame in frames if not frame["first"]]
    runs = [frame["runs"][name] for frame in steps]
    fulls = [frame["runs"][FULL] for frame in steps]
    result: dict[str, Any] = {"frames": len(frames), "steps": len(steps)}
    result["recomputed"] = _mean(run["recomputed"] for run in runs)
    for key, each in (("ms", runs), ("ms_full", fulls)):
        result |= {
            f"{key}_mean": _mean(run["ms"] for run in each),
            key: tails(run["ms"] for run in each),
        }
    result["error"] = tails(run["error"] for run in runs)
    result |= missed_tails(Missed(*(run[key] for key in Missed._fields)) for run in runs)
    if not any("clicks" in frame["runs"][FULL] for frame in frames):
        return result
    same = sum(not (run["only_here"] or run["only_full"]) for run in runs)
    result |= _shares("same", same, len(runs))
    result["elements"] = sum(full["elements"] for full in fulls)
    result["lost"] = sum(len(run["only_full"]) for run in runs)
    result["added"] = sum(len(run["only_here"]) for run in runs)
    result["queries"] = sum(len(frame["queries"]) for frame in frames)
    right: dict[str, np.ndarray] = {}
    for which, key in ((name, "click"), (FULL, "click_full")):
        outcomes = [o for frame in frames for o in frame["runs"][which]["clicks"]]
        overlaps = [x for frame in frames for x in frame["runs"][which]["ious"]]
        right[key] = np.array([outcome == "correct" for outcome in outcomes], bool)
        result |= _shares(key, int(right[key].sum()), len(outcomes))
        overlapping = sum(x >= LEAST_IOU for x in overlaps)
        result |= _shares(key.replace("click", "iou"), overlapping, len(overlaps))
    paired = mcnemar(right["click_full"], right["click"])
    result |= {
        "only_full": paired.only_full,
        "only_differential": paired.only_differential,
        "p": paired.p_value,
    }
    for which, key in ((name, "f1"), (FULL, "f1_full")):
        by_stream: dict[Hashable, list[Counts]] = {}
        for frame in frames:
            if (counts := frame["runs"][which]["counts"]) is not None:
                tp, fp, fn = counts
                each = Counts(true_positives=tp, false_positives=fp, false_negatives=fn)
                by_stream.setdefault(frame["stream"], []).append(each)
        result[key] = total(c for some in by_stream.values() for c in some).f1
        if seed is not None and len(by_stream) > 1 and result[key] is not None:
            result[f"{key}_interval"] = bootstrap_interval(
                by_stream, lambda counts: total(counts).f1, seed
            )
    return result


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return statistics.fmean(listed) if listed else None


def _shares(key: str, part: int, whole: int) -> dict[str, Any]:
    """k of n, as a share with its interval."""
    share = part / whole if whole else None
    return {key: share, f"{key}_interval": wilson_interval(part, whole)}


def groups_of(frames: Iterable[Row]) -> dict[str, list[str]]:
    """The names by which frames and queries are grouped, and their values, sorted."""
    values_of: dict[str, set[str]] = {}
    for frame in frames:
        for groups in (frame["groups"], *(query["groups"] for query in frame["queries"])):
            for name, value in groups.items():
                values_of.setdefault(name, set()).add(value)
    return {name: sorted(values) for name, values in values_of.items()}


def in_group(frames: Iterable[Row], name: str, value: str) -> list[dict[str, Any]]:
    """The frames of a group, with those of their queries that are in it."""
    members = []
    for frame in frames:
        kept = [i for i, q in enumerate(frame["queries"]) if q["groups"].get(name) == value]
        if kept or frame["groups"].get(name) == value:
            runs = {
                policy: {
                    key: [of[i] for i in kept] if key in ("clicks", "points", "ious") else of
                    for key, of in run.items()
                }
                for policy, run in frame["runs"].items()
            }
            queries = [frame["queries"][i] for i in kept]
            members.append({**frame, "queries": queries, "runs": runs})
    return members


def summarise(lines: Sequence[Row], policies: Sequence[str], seed: int) -> dict[str, Any]:
    """Every policy on all frames, and on those of each group.

    Returns:
      {"all": {policy: numbers}, "groups": {name: {value: {policy: numbers}}}}, see `measure`.
    """
    # In one order, whichever process was first: what is drawn at random depends on it.
    frames = good_frames(sorted(lines, key=lambda line: line["stream"]))
    groups: dict[str, dict[str, dict[str, Any]]] = {}
    for name, values in groups_of(frames).items():
        if len(values) > 1:
            some = {value: in_group(frames, name, value) for value in values}
            groups[name] = {v: {p: measure(f, p) for p in policies} for v, f in some.items()}
    return {ALL: {p: measure(frames, p, seed) for p in policies}, "groups": groups}


# ---- tables -----------------------------------------------------------------------------------


def results_table(measured: Mapping[str, Row], first: str = "policy") -> list[list[str]]:
    """Rows of text, the first their heads: all that does not depend on the machine."""
    head = [
        *(first, "frames", "recomputed", *MISSED, "token error"),
        *("same elements", "lost / added of", "clicks full", "clicks", "right in one only (p)"),
        *("IoU 0.5 full / here", "F1 full / here"),
    ]
    rows = [
        [
            name,
            f"{r['frames']}",
            percent(r["recomputed"]),
            *missed_cells(r),
            tails_text(r["error"], lambda error: decimal(error, ".1e")),
            _interval(r, "same"),
            f"{r['lost']} / {r['added']} of {r['elements']}" if "elements" in r else "-",
            _interval(r, "click_full"),
            _interval(r, "click"),
            f"{r['only_full']} / {r['only_differential']} ({r['p']:.2f})"
            if r.get("queries")
            else "-",
            _both(percent(r.get("iou_full")), percent(r.get("iou"))),
            _both(*(_interval(r, key, lambda f1: decimal(f1, ".3f")) for key in ("f1_full", "f1"))),
        ]
        for name, r in measured.items()
    ]
    # Columns without data are left out.
    used = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]
    return [[row[i] for i in used] for row in (head, *rows)]


def _both(first: str, second: str) -> str:
    return "-" if first == second == "-" else f"{first} / {second}"


def _interval(row: Row, key: str, form: Callable[[float | None], str] = percent) -> str:
    return interval(row.get(key), row.get(f"{key}_interval"), form)


def times_table(measured: Mapping[str, Row]) -> list[list[str]]:
    """Rows of text, the first their heads: time of a frame, shared among the batch."""
    rows = [["policy", f"full encode: mean; {TAILS}", f"step: mean; {TAILS}", "speed-up (means)"]]
    for name, r in measured.items():
        cells = [
            f"{milliseconds(r[f'{key}_mean'])}; {tails_text(r[key], milliseconds)}"
            for key in ("ms_full", "ms")
        ]
        ratio = r["ms_full_mean"] / r["ms_mean"] if r["ms_mean"] else None
        rows.append([name, *cells, times(ratio)])
    return rows
