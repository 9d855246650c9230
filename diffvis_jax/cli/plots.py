"""Plots, where Matplotlib is installed."""

from pathlib import Path
from typing import Any

from diffvis_jax.utils.atomic_file import replacing

# Those of the pages (report/page.css), which colour-blind readers can tell apart.
COLORS = ("#146eeb", "#e63900", "#1a8a4f", "#8a8f98", "#d9a4e8")


def pyplot() -> Any:
    """Matplotlib, drawing to files.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import matplotlib
        from cycler import cycler  # comes with it
    except ImportError as error:
        raise ValueError("plots need matplotlib: pip install 'diffvis_jax[viz]'") from error
    matplotlib.use("Agg")
    matplotlib.rcParams["axes.prop_cycle"] = cycler(color=COLORS)
    import matplotlib.pyplot

    return matplotlib.pyplot


def save(figure: Any, target: Path) -> Path:
    """Writes a figure atomically, in the format of the file's suffix, and closes it."""
    figure.tight_layout()
    with replacing(target) as partial:
        figure.savefig(partial, dpi=90)
    pyplot().close(figure)
    return target
