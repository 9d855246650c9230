"""Text to ids and back, by the `tokenizers` library (extra `text`).

Qwen2's tokenizer is a byte-level BPE, Llama's and Mistral's are of sentencepiece's kind, which is
read from `tokenizer.json` alone. Checkpoints bring Qwen2's as `tokenizer.json`, or as `vocab.json`
and `merges.txt` with the special tokens in `tokenizer_config.json` or `added_tokens.json`; the
latter is built here as transformers' `Qwen2Tokenizer` builds it.
"""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvis_jax.checkpoints.format import read_json
from diffvis_jax.errors import CheckpointError
from diffvis_jax.utils.json_file import read_text

if TYPE_CHECKING:
    import tokenizers

# How text is cut before merging: transformers `models/qwen2/tokenization_qwen2.py`.
_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What a token beyond the vocabulary may say of itself.
_OPTIONS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


class Tokenizer:
    """Ids of text, special tokens included where the text spells them."""

    def __init__(self, tokenizer: "tokenizers.Tokenizer"):
        self._tokenizer = tokenizer
        tokenizer.no_truncation()  # files may bring the lengths of somebody's training
        tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        """Ids of a text; nothing is put before or after it."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_inert(self, text: str) -> list[int]:
        """Ids of a text in which no special token has its meaning: `<|im_end|>` is ten characters
        like others."""
        self._tokenizer.encode_special_tokens = True
        try:
            return self.encode(text)
        finally:
            self._tokenizer.encode_special_tokens = False

    @functools.cached_property
    def special(self) -> tuple[str, ...]:
        """What special tokens are spelled like, the longest first."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        return tuple(sorted({token.content for token in added}, key=len, reverse=True))

    @functools.cached_property
    def start(self) -> list[int]:
        """Special ids that stand before every prompt: Llama's `<s>`; Qwen2 has none."""
        found = self._tokenizer.encode("a")
        special = found.special_tokens_mask
        return found.ids[: special.index(0)]

    def id_of(self, token: str) -> int | None:
        """Id of one token by its name; None if there is none."""
        return self._tokenizer.token_to_id(token)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ids; those that the tokenizer does not have are nothing."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    @functools.cached_property
    def _size(self) -> int:
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def __len__(self) -> int:
        """Ids that it may give: its largest one and 1."""
        return self._size


class TextStream:
    """Text of ids as they come; a character is given out once all its bytes are there."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._start()

    def _start(self) -> None:
        from tokenizers.decoders import DecodeStream

        self._stream = DecodeStream(skip_special_tokens=True)
        self._held: list[int] = []  # ids without a text yet

    def push(self, token: int) -> str:
        """The text that this id completes; may be empty."""
        self._held.append(int(token))
        text = self._stream.step(self._tokenizer._tokenizer, int(token))
        if text is None:
            return ""
        self._held = []
        return text

    def flush(self) -> str:
        """What is left of an answer that broke off within a character."""
        text = self._tokenizer.decode(self._held)
        self._start()
        return text


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint or a converted directory.

    Raises:
      CheckpointError: there are no tokenizer files, or damaged ones.
      ImportError: the extra `text` is not installed.
    """
    try:
        import tokenizers
    except ImportError:
        raise ImportError('text needs the extra: pip install "diffvis_jax[text]"') from None
    directory = Path(directory)
    whole = directory / "tokenizer.json"
    files = [directory / "vocab.json", directory / "merges.txt"]
    try:
        if whole.is_file():
            # Through our reader, which knows byte order marks and files of Git LFS.
            return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(read_json(whole))))
        if all(file.is_file() for file in files):
            return Tokenizer(_from_merges(directory))
    except Exception as error:  # the library raises bare Exceptions
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{directory}: damaged tokenizer files ({error})") from None
    if (directory / "tokenizer.model").is_file():
        raise CheckpointError(
            f"{directory}: tokenizer.model is sentencepiece's format, which is not read here; put "
            "the tokenizer.json of the same model there (such as that of its llava-hf release)"
        )
    raise CheckpointError(
        f"{directory}: no tokenizer; put tokenizer.json there, or vocab.json and merges.txt, as "
        "they come with the checkpoint"
    )


def _from_merges(directory: Path) -> "tokenizers.Tokenizer":
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Built

    vocabulary = read_json(directory / "vocab.json")
    lines = read_text(directory / "merges.txt").split("\n")
    merges = [
        tuple(line.split(" "))
        for line in (line.rstrip("\r") for line in lines)
        if line and not line.startswith("#version")
    ]
    tokenizer = Built(models.BPE(vocabulary, merges))  # type: ignore[arg-type]
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    for identity, token in _added_tokens(directory):
        # The library numbers them on from its vocabulary, unless it has them already.
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(token.content) != identity:
            raise CheckpointError(
                f"{directory}: {token.content!r} should have the id {identity}, but vocab.json "
                f"leaves {tokenizer.token_to_id(token.content)} for it"
            )
    return tokenizer


def _added_tokens(directory: Path) -> list[tuple[int, "tokenizers.AddedToken"]]:
    """The tokens beyond the vocabulary, by id."""
    from tokenizers import AddedToken

    for name in ("tokenizer_config.json", "added_tokens.json"):
        file = directory / name
        if not file.is_file():
            continue
        document: dict[str, Any] = read_json(file)
        if name == "added_tokens.json":
            entries = [(number, {"content": text}) for text, number in document.items()]
        else:
            entries = list(document.get("added_tokens_decoder", {}).items())
        found = []
        for number, entry in entries:
            options: dict[str, Any] = {"special": True}
            options |= {k: v for k, v in entry.items() if k in _OPTIONS}
            found.append((int(number), AddedToken(**options)))
        if found:
            return sorted(found, key=lambda pair: pair[0])
    return []
