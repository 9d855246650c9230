"""From the lines of a run to its tables."""

import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from diffvis_jax.metrics import Counts, bootstrap_interval, mcnemar, total, wilson_interval

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
      ("_interval"). What a step costs and misses is taken of the frames after the first of their
      stream; what is found, of all frames.
    """
    steps = [frame for frame in frames if not frame["first"]]
    runs = [frame["runs"][name] for frame in steps]
    fulls = [frame["runs"][FULL] for frame in steps]
    result: dict[str, Any] = {"frames": len(frames), "steps": len(steps)}
    result["recomputed"] = _mean(run["recomputed"] for run in runs)
    result["ms"], result["ms_full"] = (_mean(r["ms"] for r in each) for each in (runs, fulls))
    for key in ("missed_changed", "missed_all", "error"):
        values = [run[key] for run in runs if run[key] is not None]
        result[key] = statistics.median(values) if values else None
        result[f"{key}_p90"] = float(np.quantile(values, 0.9)) if values else None
    if not any("clicks" in frame["runs"][FULL] for frame in frames):
        return result
    same = sum(not (run["only_here"] or run["only_full"]) for run in runs)
    result |= _shares("same", same, len(runs))
    result["found"] = sum(full["found"] for full in fulls)
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
    found: dict[str, set[str]] = {}
    for frame in frames:
        for groups in (frame["groups"], *(query["groups"] for query in frame["queries"])):
            for name, value in groups.items():
                found.setdefault(name, set()).add(value)
    return {name: sorted(values) for name, values in found.items()}


def in_group(frames: Iterable[Row], name: str, value: str) -> list[dict[str, Any]]:
    """The frames of a group, with those of their queries that are in it."""
    found = []
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
            found.append({**frame, "queries": queries, "runs": runs})
    return found


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
        *(first, "frames", "recomputed", "missed change", "over all", "token error"),
        "same elements",
        *("lost / added of", "clicks full", "clicks", "right in one only (p)"),
        *("IoU 0.5 full / here", "F1 full / here"),
    ]
    rows = [head]
    for name, r in measured.items():
        rows.append(
            [
                name,
                f"{r['frames']}",
                show(r["recomputed"], ".1%"),
                show(r["missed_changed"], ".3f"),
                show(r["missed_all"], ".3f"),
                show(r["error"], ".1e"),
                _interval(r, "same"),
                f"{r['lost']} / {r['added']} of {r['found']}" if "found" in r else "-",
                _interval(r, "click_full"),
                _interval(r, "click"),
                f"{r['only_full']} / {r['only_differential']} ({r['p']:.2f})"
                if r.get("queries")
                else "-",
                _both(show(r.get("iou_full"), ".3f"), show(r.get("iou"), ".3f")),
                _both(_interval(r, "f1_full"), _interval(r, "f1")),
            ]
        )
    # What the data do not say is left out.
    said = [i for i in range(len(head)) if any(row[i] != "-" for row in rows[1:])]
    return [[row[i] for i in said] for row in rows]


def _both(first: str, second: str) -> str:
    return "-" if first == second == "-" else f"{first} / {second}"


def times_table(measured: Mapping[str, Row]) -> list[list[str]]:
    """Rows of text, the first their heads: milliseconds of a frame, shared among the batch."""
    rows = [["policy", "full encode ms", "step ms", "times as fast"]]
    for name, r in measured.items():
        ratio = r["ms_full"] / r["ms"] if r["ms"] else None
        rows.append([name, show(r["ms_full"], ".1f"), show(r["ms"], ".1f"), show(ratio, ".2f")])
    return rows


def show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _interval(row: Row, key: str) -> str:
    if row.get(key) is None:
        return "-"
    interval = row.get(f"{key}_interval")
    return f"{row[key]:.3f}" + (f" ({interval[0]:.3f}-{interval[1]:.3f})" if interval else "")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table from rows of text, the first their heads."""
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
