"""What training needs to know of a kind of tower: its size, its crops, and what its heads see."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from batch_norm import Statistics, fold, normalised
from grow import grow, near_identity
from offset_heads import CONTENT, look_around, position_width
from patch_whitening import whitened

import diffvis_jax as dv
from diffvis_jax.grounding.find import map_names
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.towers import build
from diffvis_jax.towers.forward import read_out, run_layers

Maps = dict[str, jax.Array]  # by the names of the layers
Seen = dict[str, tuple[jax.Array, tuple[jax.Array, ...]]]  # what each head sees: tokens and maps


@dataclasses.dataclass(frozen=True)
class FastViTHD:
    """A narrow FastViTHD, trained on crops of any place, with batch norm.

    Attributes:
      depths: blocks of each stage.
      size: pixels along the side of the frames it is for.
      smaller: another size, of which it sees every third page.
      helped: whether a helper head leads the way for the layers before it.
      token_helped: whether another sees the tokens alone, so that what the kept head could as well
        read in its finer maps is said by the tokens too.
      frozen: so many stages, and with them the stem, are not trained: 0 to 3.
    """

    depths: tuple[int, ...] = (2, 12, 24, 4, 2)
    size: int = 1024
    smaller: int | None = 512
    helped: bool = True
    token_helped: bool = False
    frozen: int = 0
    align = 1  # crops begin at a multiple of so many pixels

    kind = "FastViTHD"

    @property
    def about(self) -> str:
        """The tower in a sentence."""
        tower = self.tower
        return (
            f"FastViTHD (arXiv 2412.13303), {', '.join(map(str, tower.depths))} blocks of widths "
            f"{', '.join(map(str, tower.widths))}: the depth of the released tower, a sixth of its "
            f"width. Frames of {self.size} pixels, or of any other size."
        )

    @property
    def tower(self) -> dv.FastViTHDConfig:
        return dv.FastViTHDConfig(
            depths=self.depths,
            widths=(16, 32, 64, 128, 256),
            token_width=512,
            squeeze_width=64,
            size=self.size,
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

    def prepared(self, params: dict[str, Any], crops: Sequence[np.ndarray]) -> dict[str, Any]:
        """Fresh parameters, after a look at what they will be trained on."""
        return params

    def started(self, params: dict[str, Any], other: "FastViTHD") -> dict[str, Any]:
        """Parameters of this tower out of those of `other`, which is no deeper."""
        return grow(params, other.depths, self.depths)

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

    def see(self, params: dict[str, Any], taken: jax.Array | Maps, corner: jax.Array) -> Seen:
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


@dataclasses.dataclass(frozen=True)
class CLIP:
    """A small CLIP-style ViT: its position embeddings are for frames of one size.

    It is trained on crops whose tokens take the position embeddings of their place in the frame.

    Attributes:
      size: pixels along the side of a frame.
    """

    size: int = 512
    smaller: int | None = None

    kind = "CLIP-style ViT"
    kept = ()  # all of it is trained

    @property
    def about(self) -> str:
        """The tower in a sentence."""
        tower = self.tower
        return (
            f"A vision transformer as CLIP's (arXiv 2103.00020): {tower.layers - 1} blocks of "
            f"width {tower.width}, patches of {tower.patch} pixels, frames of {self.size}. "
            "(As in LLaVA, the last block is not used: the file holds an untrained one.)"
        )

    @property
    def tower(self) -> dv.CLIPConfig:
        return dv.CLIPConfig(
            width=192,
            layers=9,  # of which the last is not used, as in LLaVA
            heads=3,
            mlp_width=768,
            patch=16,
            size=self.size,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            pad_color=(0, 0, 0),
            resize_mode="pad",
        )

    @property
    def align(self) -> int:
        return self.tower.patch

    @property
    def heads(self) -> dict[str, HeadConfig]:
        tower = self.tower
        head = HeadConfig(token_width=tower.width, patch=tower.patch, rows=4, columns=2)
        return {"head": head}

    def fresh(self, seed: int) -> dict[str, Any]:
        """Parameters of the tower before the first step; its heads look at neighbours."""
        return look_around(dv.init_params(self.tower, seed), self.tower)

    def prepared(self, params: dict[str, Any], crops: Sequence[np.ndarray]) -> dict[str, Any]:
        """Fresh parameters, after a look at what they will be trained on: each channel that does
        not hold the position says something of its own about a patch."""
        tower = self.tower
        return whitened(params, tower, crops, first=position_width(tower), scale=CONTENT)

    def started(self, params: dict[str, Any], other: "CLIP") -> dict[str, Any]:
        """Parameters of this tower out of those of `other`."""
        return params

    def before(self, kept: dict[str, Any], pixels: jax.Array) -> jax.Array:
        """What the part that is trained takes: the crops."""
        return pixels

    def see(self, params: dict[str, Any], pixels: jax.Array, corner: jax.Array) -> Seen:
        """What the head sees of crops `uint8 [B, s, s, 3]` whose first pixels are at `corner`,
        int32 `[B, 2]` (left, top), multiples of a patch."""
        tower = self.tower
        side = pixels.shape[1] // tower.patch
        lead, table = jnp.split(params["embed"]["position"], [tower.num_prefix_tokens])
        table = table.reshape(tower.grid, tower.grid, -1)
        crop = dataclasses.replace(tower, size=pixels.shape[1])

        def one(pixels: jax.Array, corner: jax.Array) -> jax.Array:
            column, row = corner // tower.patch
            here = jax.lax.dynamic_slice(table, (row, column, 0), (side, side, tower.width))
            position = jnp.concatenate([lead, here.reshape(-1, tower.width)])
            own = {**params, "embed": {**params["embed"], "position": position}}
            tokens = dv.encode(own, pixels[None], config=crop)
            assert isinstance(tokens, jax.Array)
            return tokens[0]

        return {"head": (jax.vmap(one)(pixels, corner), ())}

    def finished(self, params: dict[str, Any], crops: Sequence[np.ndarray]) -> dict[str, Any]:
        """The tower as it is used."""
        return params


FAMILIES = {"fastvithd": FastViTHD, "clip": CLIP}
Family = FastViTHD | CLIP


def family_like(config: Any) -> Family | None:
    """The family whose tower has this config, but for its dtype; None = there is none."""
    deep = isinstance(config, dv.FastViTHDConfig)
    family = FastViTHD(depths=config.depths) if deep else CLIP()
    return family if dataclasses.replace(config, dtype=family.tower.dtype) == family.tower else None
