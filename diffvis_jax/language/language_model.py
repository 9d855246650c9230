"""A loaded language side: decoder and projector with their weights, and the tokenizer."""

import dataclasses
import functools
from pathlib import Path

from diffvis_jax.errors import CheckpointError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.tokenizer import Tokenizer, load_tokenizer
from diffvis_jax.towers.params import Params


@dataclasses.dataclass(frozen=True)
class Language:
    """A decoder and the projector before it.

    Attributes:
      config: frozen config.
      params: nested dict of arrays (see `DecoderConfig`).
      decode_params: a copy in another dtype that decodes; None = `params` do.
      directory: where the tokenizer's files are; None = there is no tokenizer.
    """

    config: DecoderConfig
    params: Params
    decode_params: Params | None = None
    directory: Path | None = None

    @property
    def decoding(self) -> Params:
        """The parameters to decode with."""
        return self.params if self.decode_params is None else self.decode_params

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Read at its first use.

        Raises:
          CheckpointError: there are no tokenizer files, or damaged ones.
          ImportError: the extra `text` is not installed.
        """
        if self.directory is None:
            raise CheckpointError("this language model was made in memory: it has no tokenizer")
        return load_tokenizer(self.directory)
