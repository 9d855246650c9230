"""A loaded vision tower, and its loader."""

import dataclasses
import os

from diffvis_jax.grounding.find import Head
from diffvis_jax.towers import VisionConfig
from diffvis_jax.towers.layers import Params


@dataclasses.dataclass(frozen=True)
class Model:
    """A vision tower with its weights.

    Attributes:
      config: frozen config of the tower.
      params: nested dict of arrays; matrix kernels in the config's dtype.
      name: where it came from, for people.
      head: the grounding head that was trained with the tower, if there is one.
    """

    config: VisionConfig
    params: Params
    name: str = ""
    head: Head | None = None


def load(directory: str | os.PathLike[str], dtype: str | None = None) -> Model:
    """Loads a directory written by `convert.py`.

    Args:
      directory: any path; it holds `config.json`, `manifest.json` and the weights.
      dtype: "float32" or "bfloat16" to compute in; None = as the directory says.

    Raises:
      CheckpointError: not such a directory, or a damaged one; the message says what is wrong.
    """
    from diffvis_jax.checkpoints import store  # orbax is slow to import

    config, params = store.load_vision(directory, dtype=dtype)
    head = Head(*store.load_grounding(directory)) if store.has_grounding(directory) else None
    name = os.path.basename(os.path.normpath(directory))
    return Model(config=config, params=params, name=name, head=head)
