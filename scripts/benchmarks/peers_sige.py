"""FastViTHD's stem and stages 0-2, by this library and with the layers of SIGE (NeurIPS 2022).

SIGE gathers blocks of a map, convolves them, and scatters what comes out into the map of before.
Its folder is given; nothing of it is here. It computes the cells that this library would.
"""

import dataclasses
import functools
import importlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from peers_vit import on_path

import diffvis_jax as dv
from diffvis_jax.checkpoints.torch_reference import pixels_to_torch
from diffvis_jax.core.change import compute_patch_diff, distance_to, shifted
from diffvis_jax.towers import build, fastvithd
from diffvis_jax.towers.base import Preset, Tower, raster_tokens
from diffvis_jax.towers.registry import Family, register

STAGES = 3


class TrunkConfig(dv.FastViTHDConfig):
    """FastViTHD without its two stages of attention and its head; a token is a position /16."""


@functools.lru_cache
def trunk(config: TrunkConfig) -> Tower:
    whole = fastvithd.tower(config)
    segments = tuple(s for s in whole.segments if s.layers[0].stage < STAGES)
    last = segments[-1].layers[-1]
    return dataclasses.replace(
        whole,
        segments=segments,
        token=config.size // last.shape[0],
        presets={name: Preset(own.margins[:STAGES]) for name, own in whole.presets.items()},
        head=raster_tokens,
        head_path=(),
        head_specs={},
        head_macs=0,
        token_width=last.width,
        token_grid=last.shape,
    )


register(Family("fastvithd_trunk", TrunkConfig, trunk))


class SIGE:
    """The trunk with SIGE's layers."""

    def __init__(self, model: dv.Model, folder: Path, margin: tuple[float, ...]):
        """`margin`: of each stage, in patches."""
        on_path(folder)
        self._config, self._margin = model.config, margin
        self._tower = build(model.config)
        self._network = _network(self._tower, jax.tree.map(np.asarray, model.params))
        self._frame: np.ndarray | None = None

    def start(self, frame: np.ndarray) -> None:
        if frame is not self._frame:  # a step leaves the maps of the frame before as they are
            self._network.set_mode("full")
            self._network(pixels_to_torch(frame, self._config))
            self._network.set_mode("sparse")
            self._frame = frame

    def step(self, frame: np.ndarray) -> np.ndarray:
        assert self._frame is not None
        changed = compute_patch_diff(self._frame[0], frame[0], self._tower.patch)
        cells = _cells(self._tower, changed, self._margin)
        for part in self._network.parts:
            part.set_cells(cells[part.layer])
        return _tokens(self._network(pixels_to_torch(frame, self._config)))


class TorchTrunk:
    """The trunk in PyTorch, every frame in full; nothing is gathered, scattered or kept."""

    def __init__(self, model: dv.Model, folder: Path, layout: Any):
        """`layout`: a memory format of PyTorch."""
        on_path(folder)
        self._config, self._layout = model.config, layout
        network = _network(build(model.config), jax.tree.map(np.asarray, model.params))
        self._parts = network.to(memory_format=layout).parts

    def start(self, frame: np.ndarray) -> None:
        pass

    def step(self, frame: np.ndarray) -> np.ndarray:
        x = pixels_to_torch(frame, self._config).to(memory_format=self._layout)
        for part in self._parts:
            y = part.convolved(x)
            x = x + y if part.residual else y
        return _tokens(x)


def _tokens(x: Any) -> np.ndarray:
    """`[1, C, H, W]` -> `[1, H * W, C]`."""
    return x.flatten(2).transpose(1, 2).numpy()


def _cells(tower: Tower, changed: jax.Array, margin: tuple[float, ...]) -> list[np.ndarray]:
    """For each layer the cells it computes, int `[n, 2]`: those that a change reaches, and that lie
    within the margin, as the library's step has it."""
    mask, distance, found = shifted(changed[None]), distance_to(changed[None]), []
    for number, layer in enumerate(tower.layers):
        if number:  # every other window reaches its neighbours on all sides
            mask = distance_to(mask) <= 1
        mask &= distance <= margin[layer.stage]
        found.append(np.argwhere(np.asarray(mask[0])))
    return found


def _network(tower: Tower, params: Any) -> Any:
    import torch
    from torch.nn.functional import gelu

    nn = importlib.import_module("sige.nn")

    def conv(kernel: np.ndarray, bias: np.ndarray, stride: int = 1, groups: int = 1) -> Any:
        """Of a kernel `[k, k, I / groups, O]`."""
        side, _, inputs, outputs = kernel.shape
        made = nn.SIGEConv2d(inputs * groups, outputs, side, stride, side // 2, groups=groups)
        weights = {"weight": kernel.transpose(3, 2, 0, 1), "bias": bias}
        made.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
        return made

    def matrix(own: Any) -> Any:
        """Of a matrix `[O, I]`, as a 1x1 convolution."""
        return conv(own["weight"].T[None, None], own["bias"])

    def depthwise(own: Any, stride: int = 1, multiplier: int = 1) -> Any:
        return conv(**own, stride=stride, groups=own["kernel"].shape[-1] // multiplier)

    class Part(nn.SIGEModule):
        """Gathered, through convolutions with what comes after each, scattered."""

        def __init__(
            self, layer: int, cell: int, convs: list[Any], after: list[Any], residual: bool = False
        ):
            super().__init__()
            first = convs[0]
            self.layer, self.residual, self.after = layer, residual, after
            self.stride = cell * first.stride[0]
            self.gather = nn.Gather(first, self.stride - first.stride[0] + first.kernel_size[0])
            self.convs = torch.nn.ModuleList(convs)
            self.scatter = nn.Scatter(self.gather)

        def convolved(self, x: Any) -> Any:
            for convolution, function in zip(self.convs, self.after, strict=True):
                x = function(convolution(x))
            return x

        def forward(self, x: Any) -> Any:
            return self.scatter(self.convolved(self.gather(x)), x if self.residual else None)

        def set_cells(self, cells: np.ndarray) -> None:
            corners = cells * self.stride - self.gather.offset
            self.gather.active_indices = torch.from_numpy(corners.astype(np.int32))

    class Network(nn.SIGEModel):
        def __init__(self):
            super().__init__()
            self.parts = torch.nn.Sequential(*parts)

        def forward(self, x: Any) -> Any:
            return self.parts(x)

    parts, same = [], torch.nn.Identity()
    for layer, (name, kind) in enumerate(zip(tower.names, tower.layers, strict=True)):
        own = kind.params(params, int(name.rpartition("_")[2]) if "block_" in name else 0)
        part = functools.partial(Part, layer)
        if name == "stem":
            first, second = conv(**own["conv_0"], stride=2), depthwise(own["conv_1"], 2)
            parts.append(part(2 * kind.cell, [first], [gelu]))
            parts.append(part(kind.cell, [second, matrix(own["conv_2"])], [gelu, gelu]))
        elif "downsample" in name:
            wider = kind.width // tower.config.widths[kind.stage - 1]
            convs = [depthwise(own["conv"], 2, wider), matrix(own["project"])]
            parts.append(part(kind.cell, convs, [gelu, gelu]))
        else:
            ffn = own["ffn"]
            convs = [depthwise(ffn["conv"]), matrix(ffn["fc1"]), matrix(ffn["fc2"])]
            parts.append(part(kind.cell, [depthwise(own["mixer"])], [same]))
            parts.append(part(kind.cell, convs, [same, gelu, same], residual=True))
    return Network().eval()
