"""How many tokens a vision transformer merges in each of its blocks."""

import dataclasses
from typing import Any, Literal

import numpy as np

from diffvis_jax.errors import ConfigError
from diffvis_jax.towers.clip import CLIPConfig

STRONGEST = 16  # degree at which an eighth of the tokens is left


@dataclasses.dataclass(frozen=True)
class MergeSchedule:
    """By how many tokens each block makes a frame shorter. Static and hashable.

    Attributes:
      r: of each block that the tokens depend on (all but the last one of CLIP).
      by: "keys": pairs of tokens with similar keys become one (ToMe); "attention": those that the
        class token attends to least become one (EViT).
      proportional: whether attention counts a token as often as it stands for one of the frame's.

    Raises:
      ConfigError: no whole numbers of tokens, or an unknown `by`.
    """

    r: tuple[int, ...]
    by: Literal["keys", "attention"] = "keys"
    proportional: bool = True

    def __post_init__(self):
        whole = all(isinstance(r, int | np.integer) and not isinstance(r, bool) for r in self.r)
        if not whole or any(r < 0 for r in self.r):
            raise ConfigError(f"r must be whole numbers of tokens, at least 0, got {self.r!r}")
        if self.by not in ("keys", "attention"):
            raise ConfigError(f"by must be 'keys' or 'attention', got {self.by!r}")
        object.__setattr__(self, "r", tuple(int(r) for r in self.r))

    @classmethod
    def constant(cls, config: CLIPConfig, r: int) -> "MergeSchedule":
        """As many in every block."""
        return cls((r,) * _blocks(config)).check(config)

    @classmethod
    def linear(cls, config: CLIPConfig, r: float) -> "MergeSchedule":
        """As many in all as `constant`, from twice as many in the first block to none in the last:
        faster, for tokens that alter earlier."""
        blocks = _blocks(config)
        share = 2 * np.arange(blocks - 1, -1, -1) / max(1, blocks - 1)
        return cls(_whole(r * share)).check(config)

    @classmethod
    def to_length(cls, config: CLIPConfig, n: int, *, blocks: int | None = None) -> "MergeSchedule":
        """Down to n tokens, evenly over the first so many blocks: the fewer, the faster. None =
        all."""
        every, tokens = _blocks(config), config.grid**2
        blocks = every if blocks is None else blocks
        if not 1 <= n <= tokens or not 1 <= blocks <= every:
            raise ConfigError(
                f"{tokens} tokens and {every} blocks: n must be in 1-{tokens} and blocks in "
                f"1-{every}, got {n} and {blocks}"
            )
        even = _whole(np.full(blocks, (tokens - n) / blocks))
        return cls((*even, *(0,) * (every - blocks))).check(config)

    @classmethod
    def degree(cls, config: CLIPConfig, d: int) -> "MergeSchedule":
        """From 0, all tokens, to 16, an eighth of them; evenly over all blocks."""
        if not 0 <= d <= STRONGEST:
            raise ConfigError(f"a degree must be in 0-{STRONGEST}, got {d!r}")
        tokens = config.grid**2
        return cls.to_length(config, tokens - round(tokens * 7 / 8 * d / STRONGEST))

    @classmethod
    def attentive(cls, config: CLIPConfig, keep: float) -> "MergeSchedule":
        """EViT: after a quarter, a half and three quarters of the blocks this share of the tokens
        stays, and the rest becomes one."""
        if not 0 < keep <= 1:
            raise ConfigError(f"keep must be a share of the tokens in 0-1, got {keep!r}")
        blocks, left = _blocks(config), config.grid**2
        r = [0] * blocks
        for quarter in (1, 2, 3):
            block = quarter * blocks // 4
            less = max(0, left - int(np.ceil(keep * left)) - 1)
            r[block] += less
            left -= less
        return cls(tuple(r), by="attention", proportional=False).check(config)

    def left(self, tokens: int) -> int:
        """How many of so many tokens are left at the end."""
        return tokens - sum(self.r)

    def check(self, config: CLIPConfig) -> "MergeSchedule":
        """Itself, if the tower can follow it.

        Raises:
          ConfigError: a tower that cannot merge, or more mergers than a block has tokens for.
        """
        blocks, left = _blocks(config), config.grid**2
        if len(self.r) != blocks:
            raise ConfigError(
                f"the tokens of this tower come from {blocks} blocks: r must be as many numbers, "
                f"got {len(self.r)}"
            )
        if self.by == "attention" and not config.class_token:
            raise ConfigError("by='attention' needs a class token, and this tower has none")
        for block, r in enumerate(self.r):
            most = left // 2 if self.by == "keys" else max(0, left - 2)
            if r > most:
                raise ConfigError(
                    f"block {block} has {left} tokens beside the class token and can merge "
                    f"{most} of them at most, got r = {r}"
                )
            left -= r
        return self

    def macs(self, config: CLIPConfig) -> int:
        """Multiply-accumulates of a frame, counted as `Tower.macs` counts them; those that find
        the pairs included."""
        width, left = config.width, config.grid**2
        total = 3 * config.patch**2 * width * left
        for r in self.r:
            keys = left + config.num_prefix_tokens
            total += left * (4 * width**2 + 2 * keys * width)
            if r:
                pairs = (left + 1) // 2 * (left // 2) * (width // config.heads)
                total += pairs if self.by == "keys" else width * keys
            left -= r
            total += left * 2 * width * config.mlp_width
        return total


def _blocks(config: Any) -> int:
    """Blocks that the tokens depend on.

    Raises:
      ConfigError: a tower in which tokens cannot be merged.
    """
    if not isinstance(config, CLIPConfig):
        raise ConfigError(
            "tokens can be merged inside CLIP and SigLIP towers alone, whose blocks see no grid; "
            f"got {type(config).__name__}: merge after the tower (compress.matching)"
        )
    return config.layers - 1


def _whole(wanted: np.ndarray) -> tuple[int, ...]:
    """Whole numbers whose running sums are those that are wanted, rounded."""
    return tuple(int(x) for x in np.diff(np.round(np.cumsum(wanted)), prepend=0))
