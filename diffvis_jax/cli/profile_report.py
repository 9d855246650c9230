"""A profile of sizes as a table, and as a page with a plot of cost and score."""

from pathlib import Path

from diffvis_jax.cli.plots import pyplot, save
from diffvis_jax.evaluation.summary import FULL
from diffvis_jax.report.pictures import png_url
from diffvis_jax.report.plain_page import captioned, paragraph, table, write_plain_page
from diffvis_jax.report.text import decimal, milliseconds, percent
from diffvis_jax.resolution.profile import STATISTICS, Profile, Row
from diffvis_jax.resolution.sizes import size_text

_CAPTION = (
    "Each point is a size under a policy: what is found, against what it costs. A smaller size is "
    "a step to the left on a line; leaving out what did not change is a step to another line."
)


def largest_full(profile: Profile) -> Row:
    """Full encodes at the largest size: what times and work are compared with."""
    return max(profile.of(FULL), key=lambda row: row.pixels)


def profile_table(profile: Profile) -> list[list[str]]:
    """Rows of text, the first their heads."""
    whole = largest_full(profile)
    head = [
        *("frame", "policy", "GMACs", f"ms: {' / '.join(STATISTICS)}"),
        *("of the largest in full (p50)", "recomputed", "F1", "clicks", "IoU 0.5"),
        *("missed at changed tokens: p50 / p90 / worst", "tokens", "prefilled", "cache"),
    ]
    rows = [
        [
            size_text(row.size),
            row.policy,
            f"{row.macs / 1e9:.3g}",
            " / ".join(milliseconds(row.ms[name]).removesuffix(" ms") for name in STATISTICS),
            f"{row.ms['p50'] / whole.ms['p50']:.2f}",
            percent(row.recomputed),
            decimal(row.f1, ".3f"),
            "-" if row.click is None else f"{row.click:.3f} of {row.queries}",
            decimal(row.iou, ".3f"),
            " / ".join(percent(row.missed[name]) for name in ("p50", "p90", "max")),
            f"{row.tokens}",
            f"{row.prefill_tokens:.0f}",
            f"{row.cache_bytes / 1e6:.0f} MB" if row.cache_bytes else "-",
        ]
        for row in profile.rows
    ]
    used = [i for i in range(len(head)) if any(row[i] != "-" for row in rows)]
    return [[row[i] for i in used] for row in (head, *rows)]


def draw(profile: Profile, target: Path) -> None:
    """Score against work, and against time: one point for each size and policy. Without scores,
    time against work."""
    plt = pyplot()
    whole = largest_full(profile)
    scored = any(row.score is not None for row in profile.rows)
    figure, axes = plt.subplots(1, 2 if scored else 1, figsize=(11 if scored else 6, 4.5))
    for name in dict.fromkeys(row.policy for row in profile.rows):
        rows = profile.of(name)
        work = [100 * row.recomputed * row.macs / whole.macs for row in rows]
        ms = [row.ms["p50"] for row in rows]
        plots = [(axes, work, ms)]
        if scored:
            scores = [row.score for row in rows]
            plots = [(axes[0], work, scores), (axes[1], ms, scores)]
        for axis, across, up in plots:
            axis.plot(across, up, "o-", label=name)
            for row, x, y in zip(rows, across, up, strict=True):
                label = size_text(row.size).removesuffix(" px")
                axis.annotate(label, (x, y), (3, -9), textcoords="offset points", fontsize=7)
    work_label = f"work of the mean step, % of a full encode at {size_text(whole.size)}"
    if scored:
        label = "share of clicks that hit" if whole.f1 is None else "F1"
        axes[0].set(xlabel=work_label, ylabel=label, xlim=(0, None), ylim=(0, None))
        axes[1].set(xlabel="ms of an encode, median", xlim=(0, None), ylim=(0, None))
        axes[0].legend()
    else:
        axes.set(xlabel=work_label, ylabel="ms of an encode, median")
        axes.legend()
    save(figure, target)


def write_profile_page(profile: Profile, target: Path) -> Path:
    """Writes the page, with the plot inside it.

    Args:
      profile: what was measured.
      target: the HTML file; the plot is beside it, as a PNG of the same name.
    """
    picture = target.with_suffix(".png")
    draw(profile, picture)
    facts = [
        ("model", profile.model),
        ("sessions", f"{len(profile.sessions)}"),
        *((name.replace("_", " "), f"{value}") for name, value in profile.machine.items()),
        *profile.versions.items(),
    ]
    parts = [
        captioned(png_url(picture), "Cost and score"),
        paragraph(_CAPTION),
        table(profile_table(profile)),
    ]
    return write_plain_page(target, "Size of the frames", parts, facts)
