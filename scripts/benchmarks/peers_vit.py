"""Published ways of doing less in a vision transformer, in their authors' own code, on CLIP.

Their repositories are given by their folders; nothing of theirs is here. All get the weights and
the layers of one transformers' `CLIPVisionModel`, up to the last layer but one, as LLaVA takes it.
"""

import functools
import importlib
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import diffvis_jax as dv
from diffvis_jax.checkpoints.torch_reference import pixels_to_torch, torch_tower

Torch = Any  # torch.Tensor: torch is an extra


class TorchCLIP:
    """CLIP in PyTorch, taken apart: what comes before the layers, and the layers."""

    def __init__(self, model: dv.Model):
        network = torch_tower(model.config, model.params).network
        self.config = model.config
        # transformers before version 5 has one more module around it.
        self.network = getattr(network, "vision_model", network)
        self.layers = list(self.network.encoder.layers)[:-1]

    def embed(self, frame: np.ndarray) -> Torch:
        """`uint8 [1, S, S, 3]` -> rows before the first layer, `[1, L, D]`."""
        return self.network.pre_layrnorm(
            self.network.embeddings(pixels_to_torch(frame, self.config))
        )

    def tokens(self, rows: Torch) -> np.ndarray:
        """Rows after the last layer `[1, L, D]` -> float32 `[1, N, D]`."""
        return rows[:, self.config.num_prefix_tokens :].numpy()


class TorchFull:
    """Every frame in full."""

    def __init__(self, clip: TorchCLIP):
        self._clip = clip

    def start(self, frame: np.ndarray) -> None:
        pass

    def step(self, frame: np.ndarray) -> np.ndarray:
        rows = self._clip.embed(frame)
        for layer in self._clip.layers:
            rows = layer(rows, None)
        return self._clip.tokens(rows)


class Eventful:
    """Eventful Transformers (ICCV 2023): token gates that let the k rows pass that moved most."""

    def __init__(self, clip: TorchCLIP, folder: Path, kind: str, k: int):
        """`kind`: of their blocks, "EventfulTokenwiseBlock" or "EventfulBlock" (which also updates
        the products of attention); `k`: rows of L."""
        import torch

        on_path(folder)
        # Their module for pictures wants torchvision; only windowed attention uses it.
        sys.modules.setdefault("utils.image", types.SimpleNamespace(pad_to_size=None))  # type: ignore[arg-type]
        blocks, policies, modules = (
            importlib.import_module(f"eventful_transformer.{name}")
            for name in ("blocks", "policies", "modules")
        )
        c, made = clip.config, []
        for layer in clip.layers:
            block = getattr(blocks, kind)(
                dim=c.width,
                heads=c.heads,
                input_size=(c.grid, c.grid),
                mlp_ratio=c.mlp_width // c.width,
            )
            attention, mlp = layer.self_attn, layer.mlp
            rows = [attention.q_proj, attention.k_proj, attention.v_proj]
            state = {
                "weight": torch.cat([x.weight for x in rows]),
                "bias": torch.cat([x.bias for x in rows]),
            }
            block.qkv.load_state_dict(state)
            block.projection, block.mlp_1, block.mlp_2 = attention.out_proj, mlp.fc1, mlp.fc2
            block.input_layer_norm, block.mlp_layer_norm = layer.layer_norm1, layer.layer_norm2
            block.gelu = mlp.activation_fn
            for gate in block.modules_of_type(modules.TokenGate):
                gate.policy = policies.TokenNormTopK(k)
            made.append(block.eval())
        self._clip, self._blocks = clip, made

    def start(self, frame: np.ndarray) -> None:
        for block in self._blocks:
            block.reset()
        self.step(frame)

    def step(self, frame: np.ndarray) -> np.ndarray:
        rows = self._clip.embed(frame)
        for block in self._blocks:
            rows = block(rows)
        return self._clip.tokens(rows)


class STC:
    """STC-Cacher (CVPR 2026): a frame in full, then the rows whose keys moved most."""

    def __init__(self, clip: TorchCLIP, folder: Path, ratio: float):
        """`ratio`: of the rows."""
        on_path(folder)
        towers, cache = (importlib.import_module(f"model.{n}") for n in ("custom_siglip", "cache"))
        self._set = functools.partial(cache.STC_CACHE.new_instance, update_token_ratio=ratio)
        self._clip, self._layers = clip, clip.layers
        forward = towers.forward_with_selective_key_recompute_clip
        for layer in clip.layers:  # what their forward looks for
            layer.dropout = 0.0
            layer.new_attn = types.MethodType(towers.new_siglip_sdpa_attn_forward, layer)
        self._forward: Callable[..., Any] = forward

    def start(self, frame: np.ndarray) -> None:
        self._run(frame, 0)

    def step(self, frame: np.ndarray) -> np.ndarray:
        return self._run(frame, 1)

    def _run(self, frame: np.ndarray, number: int) -> np.ndarray:
        self._set(chunk_idx=number)  # theirs encodes those of even numbers in full
        rows = self._clip.embed(frame)
        for layer in self._layers:
            (rows,) = self._forward(layer, rows, None)
        return self._clip.tokens(rows)


def on_path(folder: Path) -> None:
    """Lets Python find what a folder holds.

    Raises:
      FileNotFoundError: no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such directory: '{folder}'")
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
