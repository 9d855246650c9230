"""A loaded model: the vision tower, what was trained with it, and its loader."""

import dataclasses
import functools
import os
from collections.abc import Callable

import jax

from diffvis_jax.errors import CheckpointError
from diffvis_jax.grounding.find import Head
from diffvis_jax.language.language_model import Language
from diffvis_jax.towers import VisionConfig
from diffvis_jax.towers.params import Params

_SMALL_COPY = 4e9  # bytes of a decoder in float32 that "auto" makes room for


@dataclasses.dataclass(frozen=True)
class Model:
    """A vision tower with its weights.

    Attributes:
      config: frozen config of the tower.
      params: nested dict of arrays; matrix kernels in the config's dtype.
      name: where it came from, for people.
      head: the grounding head that was trained with the tower, if there is one.
      language_loader: gives the language side, if there is one; called at its first use.
    """

    config: VisionConfig
    params: Params
    name: str = ""
    head: Head | None = None
    language_loader: Callable[[], Language] | None = None

    @property
    def has_language(self) -> bool:
        """Whether there is a language side."""
        return self.language_loader is not None

    @functools.cached_property
    def language(self) -> Language:
        """The language model and its projector, read at the first use and then kept.

        Raises:
          CheckpointError: there is none, or it is damaged.
        """
        if self.language_loader is None:
            raise CheckpointError(f"{self.name or 'this model'} has no language model")
        return self.language_loader()


def load(
    directory: str | os.PathLike[str],
    dtype: str | None = None,
    *,
    decode_dtype: str | None = None,
    verify: bool = True,
) -> Model:
    """Loads bundled weights, or what `diffvis convert` wrote; a language side at its first use.

    Args:
      directory: any path; it holds `config.json`, `manifest.json` and the weights. Or the name of
        bundled weights, such as "screens-vit".
      dtype: "float32" or "bfloat16" to compute in; None = as the directory says. Quantised
        matrices are not cast: for them it can only be None or what the directory says.
      decode_dtype: the language model decodes with a copy in this dtype. On CPU bfloat16 is faster
        for prompts and float32 for the one row at a time of an answer (docs/language.md), so
        "float32" beside bfloat16 is the fastest, for three times the memory; "auto" = that, on
        CPU and if the copy takes at most 4 GB; None = no copy.
      verify: whether the weights' checksums are compared.

    Raises:
      CheckpointError: not such a directory, or a damaged one; the message says what is wrong.
    """
    from diffvis_jax.checkpoints import store
    from diffvis_jax.checkpoints.bundled import bundled_directory
    from diffvis_jax.checkpoints.format import resolve
    from diffvis_jax.quantisation import is_quantised_tree

    place = resolve(bundled_directory(os.fspath(directory)) or directory)
    config, params = store.load_vision(place, dtype=dtype, verify=verify)
    head = None
    if store.holds(place, "grounding"):
        head = Head(*store.load_grounding(place, verify=verify))

    def language() -> Language:
        config, params = store.load_language(place, dtype=dtype, verify=verify)
        copy, wanted = None, decode_dtype
        if wanted == "auto" and is_quantised_tree(params):
            wanted = None
        if wanted == "auto":
            small = 4 * sum(leaf.size for leaf in jax.tree.leaves(params)) <= _SMALL_COPY
            devices = jax.tree.leaves(params)[0].devices()  # a host's default may be another one
            on_cpu = all(device.platform == "cpu" for device in devices)
            wanted = "float32" if small and on_cpu else None
        if wanted is not None and wanted != config.dtype:
            copy = store.cast(config, params, wanted)[1]
            copy.pop("projector", None)  # is done with before an answer begins
        return Language(config, params, copy, place)

    return Model(
        config=config,
        params=params,
        name=os.path.basename(os.path.normpath(directory)),
        head=head,
        language_loader=language if store.holds(place, "language") else None,
    )
