"""Plots, where Matplotlib is installed."""

from pathlib import Path
from typing import Any

from diffvis_jax.utils.atomic_file import replacing


def pyplot() -> Any:
    """Matplotlib, drawing to files.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError("plots need matplotlib: pip install 'diffvis_jax[viz]'") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def save(figure: Any, target: Path) -> Path:
    """Writes a figure atomically, in the format of the file's suffix, and closes it."""
    figure.tight_layout()
    with replacing(target) as partial:
        figure.savefig(partial, dpi=90)
    pyplot().close(figure)
    return target
