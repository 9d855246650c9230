"""The tower that is trained: its size, its heads, and what they see of it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from batch_norm import Statistics, fold, normalised
from grow import near_identity

import diffvis_jax as dv
from diffvis_jax.grounding.find import map_names
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.towers import build
from diffvis_jax.towers.forward import read_out, run_layers

SIZE = 1024  # pixels along the side of the frames that the tower is for
SMALLER = 512  # another size, of which it sees every third page

Maps = dict[str, jax.Array]  # by the names of the layers
Seen = dict[str, tuple[jax.Array, tuple[jax.Array, ...]]]  # what each head sees: tokens and maps


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A narrow FastViTHD with its heads, trained on crops of any place, with batch norm.

    Attributes:
      depths: blocks of each stage.
      helped: whether a helper head leads the way for the layers before it.
      token_helped: whether another sees the tokens alone, so that what the kept head could as well
        read in its finer maps is said by the tokens too.
      frozen: so many stages, and with them the stem, are not trained: 0 to 3.
    """

    depths: tuple[int, ...] = (2, 12, 24, 4, 2)
    helped: bool = True
    token_helped: bool = False
    frozen: int = 0

    @property
    def about(self) -> str:
        """The tower in a sentence."""
        tower = self.tower
        return (
            f"FastViTHD (arXiv 2412.13303), {', '.join(map(str, tower.depths))} blocks of widths "
            f"{', '.join(map(str, tower.widths))}: the depth of the released tower, a sixth of its "
            f"width. Frames of {tower.size} pixels, or of any other size."
        )

    @property
    def tower(self) -> dv.FastViTHDConfig:
        return dv.FastViTHDConfig(
            depths=self.depths,
            widths=(16, 32, 64, 128, 256),
            token_width=512,
            squeeze_width=64,
            size=SIZE,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )

    @property
    def heads(self) -> dict[str, HeadConfig]:
        """The head that is kept and its helpers, which answer for the same places: one on the map
        of stride 16, which leads the way for the layers before it (deep supervision, arXiv
        1409.5185), and one on the tokens alone."""
        tower = self.tower
        kept = HeadConfig(
            token_width=tower.token_width,
            map_width=tower.widths[3],
            detail_width=tower.widths[2],
            finest_width=tower.widths[1],
        )
        heads = {"head": kept}
        if self.helped:
            width = tower.widths[2]
            heads["helper"] = HeadConfig(token_width=width, patch=16, hidden=128, rows=2, columns=1)
        if self.token_helped:
            heads["token_helper"] = HeadConfig(token_width=tower.token_width)
        return heads

    def fresh(self, seed: int) -> dict[str, Any]:
        """Parameters of the tower before the first step."""
        return near_identity(dv.init_params(self.tower, seed))

    def renewed(self, params: dict[str, Any], seed: int) -> dict[str, Any]:
        """The same parameters, but for what comes after stage 3, which is as before any step."""
        fresh = self.fresh(seed)
        return {**params, **{name: fresh[name] for name in ("stage_4", "head")}}

    @property
    def kept(self) -> tuple[str, ...]:
        """Names of the parameters that are not trained."""
        return ("stem", *(f"stage_{i}" for i in range(self.frozen))) if self.frozen else ()

    def before(self, kept: dict[str, Any], pixels: jax.Array) -> jax.Array | Maps:
        """What the part that is trained takes, of crops `uint8 [B, s, s, 3]`: the map of the last
        layer that is not, with those that the head sees before it, by their names; or the crops."""
        if not self.frozen:
            return pixels
        return _maps_before(kept, pixels, self.tower, self.frozen, self._seen)

    @property
    def _seen(self) -> tuple[str, ...]:
        """Names of the maps that the head sees, the coarsest first."""
        return map_names(self.tower, self.heads["head"])

    def see(self, params: dict[str, Any], taken: jax.Array | Maps) -> Seen:
        """What the heads see, from what `before` gives."""
        first = _frozen_layers(self.tower, self.frozen)
        maps = taken if isinstance(taken, dict) else {}
        x = maps[build(self.tower).names[first - 1]] if isinstance(taken, dict) else taken
        stride = 2 ** (self.frozen + 1) if self.frozen else 1
        tower = build(dataclasses.replace(self.tower, size=x.shape[1] * stride))
        with normalised(self.tower, self.frozen):
            own = run_layers(params, x, tower, first)
            tokens = read_out(params, own[tower.names[-1]], tower)
        maps = {**maps, **own}
        seen = tuple(maps[name] for name in self._seen)
        x = seen[1]
        return {
            "head": (tokens, seen),
            "helper": (x.reshape(x.shape[0], -1, x.shape[-1]), ()),
            "token_helper": (tokens, ()),
        }

    def finished(self, params: dict[str, Any], crops: Sequence[np.ndarray]) -> dict[str, Any]:
        """The tower as it is used, with the batch norm of these batches folded into it."""

        @jax.jit
        def statistics(params: dict[str, Any], pixels: jax.Array) -> Statistics:
            with normalised(self.tower, self.frozen) as seen:
                dv.encode(params, pixels, config=self.tower)
            return list(seen)

        found = [statistics(params, pixels) for pixels in crops]
        return fold(params, self.tower, found, self.frozen)


def architecture_of(recipe: dict[str, Any]) -> Architecture:
    """What a recipe (the options of a run) names."""
    return Architecture(
        tuple(recipe["depths"]),
        helped=recipe.get("helped", True),
        token_helped=recipe.get("token_helper", False),
        frozen=recipe.get("frozen", 0),
    )


def _frozen_layers(config: dv.FastViTHDConfig, stages: int) -> int:
    """How many layers the stem and so many stages have (none: not the stem either)."""
    return sum(layer.stage < stages for layer in build(config).layers)


# Compiled on its own: in one program with the gradients of the rest it took minutes longer.
@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _maps_before(
    params: dict[str, Any],
    pixels: jax.Array,
    config: dv.FastViTHDConfig,
    stages: int,
    seen: tuple[str, ...],
) -> Maps:
    tower = build(dataclasses.replace(config, size=pixels.shape[1]))
    stop = _frozen_layers(config, stages)
    maps = run_layers(params, pixels, tower, stop=stop)
    return {name: maps[name] for name in {*seen, tower.names[stop - 1]} & maps.keys()}
