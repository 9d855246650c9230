"""Which vision tokens a prompt shows: all of a frame, fewer of it, or a history of many.

N tokens of a frame, P their width, D width of the decoder, M tokens of the budget.
"""

import dataclasses
import functools
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.compress.baselines import keep_random, pool
from diffvis_jax.compress.history import (
    History,
    HistoryPolicy,
    current_tokens,
    init_history,
)
from diffvis_jax.compress.history_update import update_history
from diffvis_jax.compress.matching import soft_matching
from diffvis_jax.compress.token_scale import (
    TokenScale,
    fit_scale,
    squared_distance,
    whiten,
    whitened_error,
)
from diffvis_jax.compress.token_set import Grouping, check_budget, merge, token_set, unmerge
from diffvis_jax.errors import ConfigError
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.language_model import Language
from diffvis_jax.language.splice import PackedTokens, project
from diffvis_jax.towers import FastViTHDConfig, VisionConfig, build
from diffvis_jax.towers.base import Tower

Method = Literal["none", "history", "merge", "pool", "random"]
METHODS: tuple[Method, ...] = ("none", "history", "merge", "pool", "random")
Layout = Literal["changes", "current"]
LAYOUTS: tuple[Layout, ...] = ("changes", "current")


@dataclasses.dataclass(frozen=True)
class CompressOptions:
    """How many tokens prompts may have of images, and which.

    Attributes:
      method: "history": one token for as long as a patch shows the same (`History`), all of the
        present and as much of the past as there is room for. "merge": tokens of a frame that
        resemble each other become one. "pool": squares of tokens become one. "random": tokens by
        chance, which any method must beat. "none": the tokens of the frame.
      budget: M; None = four frames for a history, a quarter of a frame for the others.
      layout: order of a history: its runs as they came ("changes": a prefill reads those that are
        new), or the past and then the whole present ("current": safer for a model that was trained
        on whole images; a prefill reads the present anew).
      policy: when a run ends; None = `history_policy` of the tower.

    Raises:
      ConfigError: an unknown name, or a budget below 1.
    """

    method: Method = "none"
    budget: int | None = None
    layout: Layout = "changes"
    policy: HistoryPolicy | None = None

    def __post_init__(self):
        for name, choices in (("method", METHODS), ("layout", LAYOUTS)):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.budget is not None:
            check_budget("the token budget", self.budget, 2**20)
            if self.method == "none":
                raise ConfigError("a token budget needs a method that keeps to it, got 'none'")

    def tokens(self, number: int) -> int:
        """M for frames of N tokens.

        Raises:
          ConfigError: a budget that the method cannot keep to.
        """
        if self.method == "none":
            return number
        if self.method == "history":
            budget = 4 * number if self.budget is None else self.budget
            if budget < 2 * number:
                raise ConfigError(
                    f"a history of frames of {number} tokens needs a token budget of at least "
                    f"{2 * number}, got {budget}"
                )
            return budget
        return check_budget("the token budget", self.budget or max(1, number // 4), number)


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a prompt shows of the frames.

    Attributes:
      image: as `make_prompt` takes it.
      report: tokens: of the prompt; tokens_of_frames: of all frames that it stands for;
        whitened_error: of the present, see `whitened_error`.
    """

    image: PackedTokens
    report: dict[str, float]


class PromptTokens(Protocol):
    """Makes of each frame's tokens what the prompt shows."""

    def show(self, tokens: jax.Array, changed: np.ndarray) -> Shown:
        """The next frame: `[1, N, P]`, and whose pixels changed, bool `[N]`."""
        ...

    def reset(self) -> None:
        """Forgets the frames."""
        ...


def prompt_tokens(
    options: CompressOptions, language: Language, config: VisionConfig
) -> PromptTokens | None:
    """What `options` ask for; None = all tokens of each frame.

    Raises:
      ConfigError: a budget that does not suit the tower's frames.
    """
    tower = build(config)
    budget = options.tokens(tower.tokens)
    if options.method == "none":
        return None
    if options.method == "history":
        policy = history_policy(config) if options.policy is None else options.policy
        return HistoryTokens(language, budget, options.layout, policy)
    return FrameTokens(options.method, tower.token_grid, budget)


def history_policy(config: VisionConfig) -> HistoryPolicy:
    """When runs end for a tower: of the present a tenth of the frames loses more than 5 % (whitened
    error), by docs/compression.md. FastViTHD's tokens are dense: none of them share a run."""
    if isinstance(config, FastViTHDConfig):
        return HistoryPolicy()
    return HistoryPolicy(tolerance=0.05, keep=0.5)


def tokens_of_patches(tower: Tower, changed: np.ndarray) -> np.ndarray:
    """Changed patches of a step's report, bool `[rows, columns]` -> the tokens in them, `[N]`."""
    per = tower.patch // tower.token
    rows, columns = tower.token_grid
    return changed.repeat(per, 0).repeat(per, 1)[:rows, :columns].ravel()


@functools.partial(jax.jit, static_argnames="config", donate_argnums=0)
def _advance(
    history: History,
    params: Any,
    tokens: jax.Array,
    changed: jax.Array,
    policy: HistoryPolicy,
    scale: TokenScale,
    *,
    config: DecoderConfig,
) -> tuple[History, jax.Array]:
    """The history with one more frame, and the whitened error of the present."""
    rows = project(params, tokens, config=config)
    history, _ = update_history(history, tokens, changed, policy=policy, scale=scale, along=rows)
    return history, whitened_error(tokens, current_tokens(history), scale)[0]


_STILL = 0.1  # squared whitened distance, as `HistoryPolicy.tolerance`


class HistoryTokens:
    """The runs of a history, projected when they came.

    Attributes:
      history: None before the first frame.
    """

    def __init__(self, language: Language, budget: int, layout: Layout, policy: HistoryPolicy):
        self._language, self._budget = language, budget
        self._layout, self._policy = layout, policy
        self.reset()

    def reset(self) -> None:
        self.history: History | None = None
        self._scale: TokenScale | None = None

    def show(self, tokens: jax.Array, changed: np.ndarray) -> Shown:
        _, number, width = tokens.shape
        if self.history is None or self._scale is None:
            along = self._language.config.width
            self.history = init_history(number, width, slots=self._budget, along=along)
            self._scale = fit_scale(tokens)  # of the first frame: enough to compare by
        history, self.history = self.history, None  # it is donated, and gone if that fails
        history, error = _advance(
            history,
            {"projector": self._language.params["projector"]},
            tokens,
            jnp.asarray(changed)[None],
            self._policy,
            self._scale,
            config=self._language.config,
        )
        self.history = history
        assert history.along is not None
        order = np.arange(int(history.length[0]), dtype=np.int32)
        if self._layout == "current":
            present = np.asarray(history.open[0])
            order = np.concatenate([np.setdiff1d(order, present), present])
        report = {
            "tokens": len(order),
            "tokens_of_frames": number * int(history.clock[0]),
            "whitened_error": float(error),
        }
        return Shown(PackedTokens(history.along[0], order, projected=True), report)


@functools.partial(jax.jit, static_argnames=("method", "grid", "budget"))
def _fewer(
    tokens: jax.Array,
    scale: TokenScale,
    previous: Grouping | None,
    moved: jax.Array,
    *,
    method: Method,
    grid: tuple[int, int],
    budget: int,
):
    """The grouping, tokens `[1, budget, P]` of which the first so many count, and the whitened
    error."""
    white = whiten(tokens, scale)
    if method == "pool":
        grouping = pool(grid, pool_factor(grid, budget))
    elif method == "random":
        grouping = keep_random(jax.random.key(0), white, count=budget)
    else:
        known = {} if previous is None else {"previous": previous, "moved": moved}
        grouping = soft_matching(white, target=budget, **known)
    boxes = np.zeros((tokens.shape[1], 4), np.float32)
    merged = merge(token_set(tokens, boxes), grouping, slots=budget)
    error = whitened_error(tokens, unmerge(merged, grouping), scale)[0]
    return grouping, merged.tokens[0], merged.count[0], error


def pool_factor(grid: tuple[int, int], budget: int) -> int:
    """Side of the smallest squares of tokens of which there are at most `budget`."""
    return next(k for k in range(1, max(grid) + 1) if -(-grid[0] // k) * -(-grid[1] // k) <= budget)


class FrameTokens:
    """Fewer tokens of each frame. What did not move since the last one keeps its bits, for the sake
    of the keys and values that a language model has of it."""

    def __init__(self, method: Method, grid: tuple[int, int], budget: int):
        self._method, self._grid, self._budget = method, grid, budget
        self.reset()

    def reset(self) -> None:
        self._scale: TokenScale | None = None
        self._held: jax.Array | None = None  # tokens as they are in the prompt
        self._grouping: Grouping | None = None

    def show(self, tokens: jax.Array, changed: np.ndarray) -> Shown:
        if self._held is None or self._scale is None:
            self._scale = fit_scale(tokens)
            self._held, moved = tokens, jnp.ones(tokens.shape[:2], bool)
        else:
            distance = squared_distance(tokens, self._held, self._scale)
            moved = jnp.asarray(changed)[None] | ~(distance <= _STILL)
            self._held = jnp.where(moved[..., None], tokens, self._held)
        self._grouping, rows, count, error = _fewer(
            self._held,
            self._scale,
            self._grouping,
            moved,
            method=self._method,
            grid=self._grid,
            budget=self._budget,
        )
        report = {
            "tokens": int(count),
            "tokens_of_frames": tokens.shape[1],
            "whitened_error": float(error),
        }
        return Shown(PackedTokens(rows, np.arange(int(count), dtype=np.int32)), report)
