"""Where plots come from."""

from typing import Any


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
