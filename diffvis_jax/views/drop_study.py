"""What it costs, and what it saves, to do without some of the views. Nothing is dropped by itself.

T ticks, V views, N tokens of a view, D token width.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.cache import init_cache
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.step import make_step
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.language.answer import AnswerOptions
from diffvis_jax.language.prompt import build_prompt, tokenize
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.metrics import tails
from diffvis_jax.model import Model
from diffvis_jax.report.text import TAILS, decimal, milliseconds, percent, tails_text
from diffvis_jax.towers.registry import build, with_size
from diffvis_jax.utils.compile_time import watch_compilation
from diffvis_jax.views.combine import aggregate, pool

MOST = 5  # views of which all subsets are studied: 31
Score = Callable[[np.ndarray, np.ndarray], float]
Tails = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class WithViews:
    """What an agent has that sees through some of its views.

    Attributes:
      views: their names.
      tower_ms: `metrics.tails` of a tick's time in the tower, without the first tick's full encode.
      recomputed: mean share of the multiply-accumulates of V full encodes.
      prefill_ms: the same of the prompt, prefilled differentially and exactly; None without a
        language side.
      prefilled: mean number of the prompt's positions that were computed.
      feature_change: `metrics.tails` of how far the mean over the views is from that over all, over
        its norm.
      score: what the user's function says; None without one.
    """

    views: tuple[str, ...]
    tower_ms: Tails
    recomputed: float
    prefill_ms: Tails | None
    prefilled: float | None
    feature_change: Tails
    score: float | None


def drop_study(
    model: Model,
    frames: np.ndarray,
    score: Score | None = None,
    *,
    names: Sequence[str] | None = None,
    policy: Policy | None = None,
    subsets: Sequence[Sequence[str]] | None = None,
    question: str = "What is on the screen?",
) -> list[WithViews]:
    """Runs recorded views with every subset of them.

    Views that are left out are absent, as in a running agent: their comparison remains.

    Args:
      model: the tower; with a language side, prompts of all views of a subset are prefilled.
      frames: `uint8 [T, V, H, W, 3]`, T at least 2.
      score: (tokens float32 `[T, V, N, D]`, zero where a view is left out; present bool `[V]`) ->
        how well the task is done.
      names: of the views, in the order of the prompt; None = "0", "1", ...
      policy: what the steps may leave out; None = `Policy()`.
      subsets: those that are studied; None = all, of at most `MOST` views.
      question: of the prompts.

    Returns:
      one for each subset, that of all views first.

    Raises:
      FrameError: frames of another shape or dtype.
      ConfigError: not a name for each view, an unknown one, an empty subset, or too many views.
    """
    if frames.ndim != 5 or frames.dtype != np.uint8 or len(frames) < 2 or 0 in frames.shape:
        raise FrameError(
            f"frames must be uint8 [T, V, H, W, 3] of at least 2 ticks, got {frames.dtype} "
            f"{list(frames.shape)}"
        )
    ticks, count = frames.shape[:2]
    names = tuple(map(str, range(count)) if names is None else names)
    chosen = _chosen(names, count, subsets)
    run = _Tower(model, frames, Policy() if policy is None else policy)
    run(np.ones(count, bool))  # compiles
    tokens = run(np.ones(count, bool))[2]
    features = pool(jnp.asarray(tokens))
    everything = np.asarray(aggregate(features, np.ones((ticks, count), bool))[0])
    rows = []
    for subset in chosen:
        present = np.isin(names, subset)
        milliseconds_, recomputed, _ = run(present)
        own = np.asarray(aggregate(features, np.tile(present, (ticks, 1)))[0])
        distance = np.linalg.norm(own - everything, axis=-1)
        prefill = _prefill(model, tokens[:, present], question) if model.has_language else None
        there = np.where(present[:, None, None], tokens, 0)
        rows.append(
            WithViews(
                views=tuple(name for name in names if name in subset),
                tower_ms=tails(milliseconds_),
                recomputed=recomputed,
                prefill_ms=tails(prefill[0]) if prefill else None,
                prefilled=prefill[1] if prefill else None,
                feature_change=tails(distance / np.linalg.norm(everything, axis=-1)),
                score=None if score is None else float(score(there, present)),
            )
        )
    return rows


def study_table(rows: Sequence[WithViews]) -> list[list[str]]:
    """Rows of text, the first their heads."""
    head = [
        *("views", f"tower: {TAILS}", "recomputed", f"prefill: {TAILS}", "prefilled"),
        *(f"change of the feature: {TAILS}", "score"),
    ]
    cells = [
        [
            ", ".join(row.views),
            tails_text(row.tower_ms, milliseconds),
            percent(row.recomputed),
            "-" if row.prefill_ms is None else tails_text(row.prefill_ms, milliseconds),
            decimal(row.prefilled, ".0f"),
            tails_text(row.feature_change),
            decimal(row.score, ".4g"),
        ]
        for row in rows
    ]
    return [head, *cells]


def _chosen(
    names: tuple[str, ...], count: int, subsets: Sequence[Sequence[str]] | None
) -> list[tuple[str, ...]]:
    if len(names) != count or len(set(names)) != count:
        raise ConfigError(f"{count} views need as many names, each its own; got {list(names)}")
    if subsets is None:
        if count > MOST:
            raise ConfigError(f"{count} views have too many subsets: say which (`subsets`)")
        sizes = range(count, 0, -1)
        return [each for size in sizes for each in itertools.combinations(names, size)]
    for subset in subsets:
        if not subset or not set(subset) <= set(names):
            raise ConfigError(f"a subset must be some of {list(names)}, got {list(subset)}")
    return [names, *(tuple(each) for each in subsets if set(each) != set(names))]


class _Tower:
    """Runs all ticks with the views that are present."""

    def __init__(self, model: Model, frames: np.ndarray, policy: Policy):
        self._params, self._frames = model.params, frames
        self._config = with_size(model.config, frames.shape[2:4])
        self._policy, self._step = policy, make_step(self._config)

    def __call__(self, present: np.ndarray) -> tuple[list[float], float, np.ndarray]:
        """Milliseconds of the ticks after the first, the mean share recomputed, and the tokens
        `[T, V, N, D]`."""
        cache = init_cache(self._config, len(present))
        times, shares, found = [], [], []
        for frames in self._frames:
            start = time.perf_counter()
            tokens, cache, report = jax.block_until_ready(
                self._step(self._params, cache, frames, self._policy, active=present)
            )
            times.append(1e3 * (time.perf_counter() - start))
            shares.append(float(np.mean(report.recomputed)))
            found.append(np.asarray(tokens))
        return times[1:], float(np.mean(shares[1:])), np.stack(found)


def _prefill(model: Model, tokens: np.ndarray, question: str) -> tuple[list[float], float]:
    """Milliseconds of the ticks after the first in which nothing was compiled, and the mean number
    of positions computed; tokens `[T, V, N, D]`."""
    language, views = model.language, tokens.shape[1]
    text = build_prompt(question, conversation=language.config.conversation, images=views)
    ids = tokenize(text, language.tokenizer)
    grids = [build(model.config).token_grid] * views
    times: list[float] = []
    counts: list[int] = []
    for _ in range(2):  # the first time round what is needed is compiled
        session = PromptSession(language, options=AnswerOptions(max_new_tokens=1))
        times.clear()
        counts.clear()
        for tick in tokens:
            with watch_compilation() as compiled:
                start = time.perf_counter()
                prefilled = session.prefill(tick, ids, grids)
                jax.block_until_ready(prefilled.logits)
                spent = 1e3 * (time.perf_counter() - start)
            counts.append(prefilled.report["prefilled"])
            if len(counts) > 1 and not compiled.programs:
                times.append(spent)
    return times, float(np.mean(counts[1:]))
