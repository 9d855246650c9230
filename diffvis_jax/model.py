"""A loaded vision tower, and its loader."""

import dataclasses
import os

from diffvis_jax.towers import VisionConfig
from diffvis_jax.towers.layers import Params


@dataclasses.dataclass(frozen=True)
class Model:
    """A vision tower with its weights.

    Attributes:
      config: frozen config of the tower.
      params: nested dict of arrays; matrix kernels in the config's dtype.
      name: where it came from, for people.
    """

    config: VisionConfig
    params: Params
    name: str = ""


def load(directory: str | os.PathLike[str], dtype: str | None = None) -> Model:
    """Loads a directory written by `convert.py`.

    Args:
      directory: any path; it holds `config.json`, `manifest.json` and the weights.
      dtype: "float32" or "bfloat16" to compute in; None = as the directory says.

    Raises:
      CheckpointError: not such a directory, or a damaged one; the message says what is wrong.
    """
    from diffvis_jax.checkpoints.store import load_vision  # orbax is slow to import

    config, params = load_vision(directory, dtype=dtype)
    return Model(config=config, params=params, name=os.path.basename(os.path.normpath(directory)))
