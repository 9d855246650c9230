"""Answers a question about one screen after another, and says what each answer took.

N tokens of an image, which may have a number of its own, P their width, V vocabulary rows, L
layers, H heads of the language model.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from diffvis_jax.agent.prompt_tokens import (
    CompressOptions,
    PromptTokens,
    prompt_tokens,
    tokens_of_patches,
)
from diffvis_jax.core.change import compute_patch_diff
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import combine, describe
from diffvis_jax.core.step import jit_encode
from diffvis_jax.encoder import DifferentialVisionEncoder
from diffvis_jax.errors import ConfigError
from diffvis_jax.images.anyres import Frame, TiledImage, pixels_of
from diffvis_jax.language.answer import AnswerOptions
from diffvis_jax.language.events import Done, Event, Started, Text, answer_events
from diffvis_jax.language.generate import check_context, padded_length
from diffvis_jax.language.layer_keep import LayerKeep
from diffvis_jax.language.positions import Grid
from diffvis_jax.language.prefill_policy import PrefillPolicy
from diffvis_jax.language.prompt import build_prompt, tokenize
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.language.splice import PackedTokens, packed
from diffvis_jax.model import Model
from diffvis_jax.towers import build, with_size
from diffvis_jax.utils.compile_time import watch_compilation

Tokens = np.ndarray | PackedTokens  # of an image


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer, and what it took.

    Attributes:
      text: without the special tokens.
      ids: int32 `[n]`, the stop id included.
      encode_ms, prefill_ms: wall time of the tower, and of reading the prompt.
      first_token_ms: from there to the first id; None for beam search, which has none to show.
      token_ms: of each further id, the mean; None without further ids.
      generate_ms: of all ids.
      compile_s: seconds of all this in which XLA compiled; above 0, the times are not typical.
      encoded: what the tower did: path, changed_patches, total_patches, recomputed, pending.
      prefilled: what became of the prompt: path, prefilled, total (see `PrefillReport`).
      tokens: float32 `[N, P]` of each image, or its `PackedTokens`: the earlier frames that the
        language model was shown again, oldest first, and this one.
      shown: what it was given of them: the same, unless they were compressed.
      compressed: what compression did, see `Shown`; empty if nothing.
      grids: (rows, columns) of the tokens of each; of an overview, where there are tiles.
      logits: float32 `[V]`, of the first id.
      attention: float32 `[L, H, N]`, what the prompt's last position attends to on this frame,
        or its overview; None unless asked for.
    """

    text: str
    ids: np.ndarray
    encode_ms: float
    prefill_ms: float
    first_token_ms: float | None
    token_ms: float | None
    generate_ms: float
    compile_s: float
    encoded: dict[str, Any]
    prefilled: dict[str, Any]
    tokens: list[Tokens]
    shown: list[Tokens]
    compressed: dict[str, float]
    grids: list[Grid]
    logits: np.ndarray
    attention: np.ndarray | None

    @property
    def time_to_first_token_ms(self) -> float | None:
        """From a frame at the model's size to the first id; None for beam search."""
        if self.first_token_ms is None:
            return None
        return self.encode_ms + self.prefill_ms + self.first_token_ms

    def light(self) -> "Answer":
        """Without the large arrays (megabytes for each frame), to be kept."""
        return dataclasses.replace(
            self, tokens=[], shown=[], grids=[], logits=self.logits[:0], attention=None
        )

    def numbers(self) -> dict[str, Any]:
        """All but the arrays, for JSON."""
        arrays = ("ids", "tokens", "shown", "grids", "logits", "attention", "encoded", "prefilled")
        plain = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in arrays
        }
        return {
            **plain,
            "time_to_first_token_ms": self.time_to_first_token_ms,
            "new_tokens": len(self.ids),
            "encode": self.encoded,
            "prefill": self.prefilled,
        }


class Answerer:
    """Answers one question about a sequence of frames; what did not change is reused.

    Attributes:
      encoder: of the frames; None where nothing is reused.
      session: of the prompts.
    """

    def __init__(
        self,
        model: Model,
        question: str,
        *,
        conversation: str | None = None,
        numbered: bool = False,
        differential: bool = True,
        policy: Policy | None = None,
        prefill: PrefillPolicy | None = None,
        options: AnswerOptions | None = None,
        attention: bool = False,
        history: int = 0,
        compress: CompressOptions | None = None,
        layer_keep: LayerKeep | None = None,
    ):
        """Args:
          conversation, numbered: template of the prompt, see `build_prompt`; None = the model's.
          differential: whether anything is reused; False = a full encode and a fresh prefill each.
          policy: what an encode may leave out; None = `Policy()`.
          prefill: what a prefill may leave out; None = `PrefillPolicy()`, which is exact.
          options: how answers are made; None = `AnswerOptions()`. Rows of the vocabulary that the
            tokenizer does not know are never chosen.
          attention: whether to keep what the prompt's last position attends to.
          history: so many frames before each are shown, too, as they were encoded then; images
            stand in the prompt oldest first, so each moves on with every frame, and a prefill can
            keep little.

        Raises:
          CheckpointError: a model without a language side, or without a tokenizer.
          PromptError: an unknown template, a question with marks of several images, or one that
            does not fit into the context together with its answer.
        """
        language = model.language
        self._model, self._tokenizer = model, language.tokenizer
        template = language.config.conversation if conversation is None else conversation
        prompts = [  # with one image, with two, ...
            build_prompt(question, conversation=template, images=images, numbered=numbered)
            for images in range(1, history + 2)
        ]
        self._ids = [tokenize(prompt, self._tokenizer) for prompt in prompts]
        self._history = history
        self._compress = self._compressor(compress or CompressOptions(), policy, attention)
        self._before: np.ndarray | None = None  # the last frame, where no encoder compares them
        self._past: list[tuple[Tokens, Grid]] = []
        options = AnswerOptions() if options is None else options
        self._options = dataclasses.replace(options, vocabulary=len(self._tokenizer))
        self._check_context(build(model.config).tokens)  # of tiled images: the overview at least
        self.encoder = DifferentialVisionEncoder(model, policy) if differential else None
        self.session = PromptSession(
            language,
            prefill,
            self._options,
            differential=differential and layer_keep is None,
            attention=attention,
            layer_keep=layer_keep,
        )

    def reset(self) -> None:
        """Forgets the frames seen, statistics included."""
        self.session.reset()
        self._past, self._before = [], None
        if self._compress is not None:
            self._compress.reset()
        if self.encoder is not None:
            self.encoder.reset_cache()

    def fresh_logits(self, tokens: Sequence[Tokens], grids: Sequence[Grid]) -> np.ndarray:
        """What a fresh prefill of images, `tokens` and `grids` of an `Answer`, gives: float32
        `[V]`; the session must be one that reuses nothing."""
        ids, padded = self._prompt(list(tokens))
        return np.asarray(self.session.prefill(list(tokens), ids, grids, padded=padded).logits)

    def _prompt(self, images: list[Tokens]) -> tuple[np.ndarray, int | None]:
        """Ids of a prompt with these images, and what it is padded to."""
        ids = self._ids[len(images) - 1]
        if self._compress is None:
            return ids, None
        return ids, padded_length(len(ids) - 1 + self._budget)  # a history has room to grow

    def _events(
        self, images: list[Tokens], grids: Sequence[Grid], limit: int | None
    ) -> Iterator[Event]:
        ids, padded = self._prompt(images)
        return answer_events(
            self.session,
            images,
            ids,
            grids,
            tokenizer=self._tokenizer,
            padded=padded,
            limit=limit,
        )

    def stats(self) -> dict[str, float]:
        """Counts since the last reset, of the encoder and (`prompts_`...) of the session."""
        encoder = {} if self.encoder is None else self.encoder.get_stats()
        session = self.session.get_stats().items()
        return {**encoder, **{f"prompts_{name}": value for name, value in session}}

    def answer(
        self,
        frame: Frame,
        on_text: Callable[[str], None] | None = None,
        *,
        limit: int | None = None,
    ) -> Answer:
        """The answer about the next frame.

        Args:
          frame: `uint8 [1, H, W, 3]`, from `preprocess`, or a `TiledImage`.
          on_text: called with each piece of text as it comes (with beam search, once).
          limit: the answer is given up after so many ids; None = `options.max_new_tokens`.

        Raises:
          FrameError: no such frame.
          PromptError: so many such images do not fit into the context; found out before any work.
        """
        if isinstance(frame, TiledImage):
            self._check_context(len(frame.packing))
        with watch_compilation() as compiled:
            start = time.perf_counter()
            tokens, encoded = self._encode(frame)
            encode_ms = _since(start)
            answer = self.reply(tokens, frame, encoded, encode_ms, on_text, limit=limit)
        return dataclasses.replace(answer, compile_s=compiled.seconds)

    def reply(
        self,
        tokens: jax.Array,
        frame: Frame,
        encoded: dict[str, Any],
        encode_ms: float = 0.0,
        on_text: Callable[[str], None] | None = None,
        *,
        limit: int | None = None,
    ) -> Answer:
        """The answer about a frame that was encoded already, float32 `[B, N, P]`; what the encode
        did and took is passed on. Otherwise as `answer`."""
        with watch_compilation() as compiled:
            grid = build(with_size(self._model.config, pixels_of(frame).shape[1:3])).token_grid
            image, count = np.asarray(tokens[0]), tokens.shape[1]
            if isinstance(frame, TiledImage):
                image, count = packed(np.asarray(tokens), frame.packing), len(frame.packing)
            seen = [*self._past, (image, grid)]
            self._past = seen[len(seen) - self._history :]
            images, grids = [image for image, _ in seen], [grid for _, grid in seen]
            start = time.perf_counter()
            shown: list[Tokens] = images
            compressed: dict[str, float] = {}
            if self._compress is not None:
                made = self._compress.show(tokens, self._changed(frame))
                shown, compressed = [made.image], made.report
                grids = [(1, len(made.image.packing))]
            compress_ms = _since(start)
            events = self._events(shown, grids, limit)
            started = next(events)
            assert isinstance(started, Started)
            prefilled = started.prefilled
            logits = np.asarray(prefilled.logits)
            pieces, done = [], None
            for event in events:
                if isinstance(event, Done):
                    done = event
                elif isinstance(event, Text) and event.text:
                    pieces.append(event.text)
                    if on_text is not None:
                        on_text(event.text)
            assert done is not None
        attention = prefilled.attention
        if attention is not None:  # of the last image, whose overview comes first
            attention = attention[..., -count:][..., : tokens.shape[1]]
        one_by_one = self._options.num_beams == 1
        times = list(done.times_ms)
        several = one_by_one and len(times) > 1
        return Answer(
            text="".join(pieces).strip(),
            ids=done.ids,
            encode_ms=encode_ms,
            prefill_ms=compress_ms + started.prefill_ms,
            first_token_ms=times[0] if one_by_one else None,
            token_ms=(times[-1] - times[0]) / (len(times) - 1) if several else None,
            generate_ms=done.generate_ms,
            compile_s=compiled.seconds,
            encoded=encoded,
            prefilled=prefilled.report,
            tokens=images,
            shown=shown,
            compressed=compressed,
            grids=grids,
            logits=logits,
            attention=attention,
        )

    def _compressor(
        self, options: CompressOptions, policy: Policy | None, attention: bool
    ) -> PromptTokens | None:
        config, language = self._model.config, self._model.language
        made = prompt_tokens(options, language, config)
        if made is None:
            return None
        if self._history:
            raise ConfigError(
                f"compress {options.method!r} shows the frames before in its own way: history must "
                f"be 0, got {self._history}"
            )
        if language.config.image_newline:
            raise ConfigError("images that are cut into tiles cannot be compressed: use 'none'")
        if attention:
            raise ConfigError("attention is told of all tokens of a frame: compress must be 'none'")
        if policy is not None and policy.scroll:
            raise ConfigError("compression does not follow what scrolls: scroll must be False")
        self._budget = options.tokens(build(config).tokens)
        return made

    def _changed(self, frame: Frame) -> np.ndarray:
        """The tokens whose pixels changed since the last frame, bool `[N]`."""
        pixels = np.asarray(pixels_of(frame))
        tower = build(with_size(self._model.config, pixels.shape[1:3]))
        if self.encoder is not None and self.encoder.report is not None:
            report = self.encoder.report
            return tokens_of_patches(tower, np.asarray(report.changed[0] & ~report.skipped[0]))
        before, self._before = self._before, pixels
        if before is None or before.shape != pixels.shape:
            return np.ones(tower.tokens, bool)
        changed = compute_patch_diff(before[0], pixels[0], tower.token)
        rows, columns = tower.token_grid
        return np.asarray(changed)[:rows, :columns].ravel()

    def _check_context(self, tokens: int) -> None:
        """Raises `PromptError` unless a prompt whose images all have so many tokens fits, with its
        answer."""
        tokens = tokens if self._compress is None else self._budget
        # One id stands for an image.
        length = len(self._ids[-1]) + (self._history + 1) * (tokens - 1)
        config = self._model.language.config
        check_context(length, self._options.max_new_tokens, config)

    def _encode(self, frame: Frame) -> tuple[jax.Array, dict[str, Any]]:
        """Tokens `[B, N, P]`, ready, and what was done."""
        if self.encoder is not None:
            tokens = jax.block_until_ready(self.encoder.encode(frame))
            assert self.encoder.report is not None
            return tokens, combine(describe(self.encoder.report))
        pixels = pixels_of(frame)
        config = with_size(self._model.config, pixels.shape[1:3])
        tokens = jax.block_until_ready(jit_encode(self._model.params, pixels, config=config))
        assert isinstance(tokens, jax.Array)
        return tokens, {
            "path": "full",
            "changed_patches": None,  # nobody looked
            "total_patches": build(config).cells * len(pixels),
            "recomputed": 1.0,
            "pending": 0.0,
        }


def _since(start: float) -> float:
    """Milliseconds."""
    return 1e3 * (time.perf_counter() - start)


TIMES = (
    ("encode_ms", "encode"),
    ("prefill_ms", "prefill"),
    ("first_token_ms", "first token"),
    ("time_to_first_token_ms", "time to first token"),
    ("token_ms", "each further token"),
)


def median_of(answers: list[Answer], name: str) -> float | None:
    """Median of one number over the answers that have it; None if none has."""
    values = [value for answer in answers if (value := getattr(answer, name)) is not None]
    return statistics.median(values) if values else None
