"""The same towers in PyTorch, from timm and transformers: to check ours, and to race against.

Nothing here shares code with our towers or our converter, but for `torch_tower`, which carries our
parameters over. Needs the extra `parity`.
"""

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from diffvis_jax.checkpoints.format import flatten
from diffvis_jax.checkpoints.keys import clip as clip_keys
from diffvis_jax.checkpoints.keys import fastvithd as fastvithd_keys
from diffvis_jax.checkpoints.keys import qwen2_5_vl as qwen_keys
from diffvis_jax.checkpoints.keys.fold import BATCH_NORM_EPSILON
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig
from diffvis_jax.towers.qwen2_5_vl import Qwen25VisionConfig

TowerConfig: TypeAlias = FastViTHDConfig | CLIPConfig | Qwen25VisionConfig

if TYPE_CHECKING:
    import torch


def require_torch() -> None:
    """Raises `CheckpointError`, naming the extra, unless torch, timm and transformers are there."""
    missing = [n for n in ("torch", "timm", "transformers") if importlib.util.find_spec(n) is None]
    if missing:
        raise CheckpointError(
            f"comparing with PyTorch needs {', '.join(missing)}: "
            'pip install "diffvis_jax[parity]" timm'
        )


def fastvithd_torch(config: FastViTHDConfig, state: Mapping[str, np.ndarray]) -> "torch.nn.Module":
    """timm's `fastvit_mci3` with the weights of a checkpoint.

    Args:
      state: timm's names -> arrays, fused or in training form.

    Returns:
      A module in eval mode: float `[B, 3, S, S]`, normalised -> tokens `[B, N, D]`.

    Raises:
      CheckpointError: the names or shapes are not the model's, or an extra is missing.
    """
    fused = not any(".conv_kxk." in name for name in state)
    network = _timm_fastvit(config, fused)
    _load(network, state, optional="num_batches_tracked")
    return _wrap(network.forward_features, network)


def torch_tower(config: TowerConfig, params: Mapping[str, Any]) -> "torch.nn.Module":
    """timm's or transformers' tower with our parameters; otherwise as those of a checkpoint."""
    state = source_state(config, params)
    if isinstance(config, CLIPConfig):
        return clip_torch(config, state)
    if isinstance(config, Qwen25VisionConfig):
        return qwen_vision_torch(config, state)
    return fastvithd_torch(config, state)


def clip_torch(config: CLIPConfig, state: Mapping[str, np.ndarray]) -> "torch.nn.Module":
    """transformers' `CLIPVisionModel` with the weights of a checkpoint.

    Args:
      state: Hugging Face's names, from `embeddings.` on -> arrays; the packed `in_proj` of
        OpenAI's files is split.

    Returns:
      A module in eval mode: float `[B, 3, S, S]`, normalised -> `hidden_states[-2]` without the
      class token, `[B, N, D]`.

    Raises:
      CheckpointError: the names or shapes are not the model's, or an extra is missing.
    """
    require_torch()
    import transformers

    common = {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "patch_size": config.patch,
        "image_size": config.size,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_epsilon,
    }
    if config.class_token:
        network = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**common))
    else:
        settings = transformers.SiglipVisionConfig(**common, vision_use_head=False)
        network = transformers.SiglipVisionModel(settings)
    names = network.state_dict()
    prefix = "vision_model." if any(n.startswith("vision_model.") for n in names) else ""
    state = {prefix + name: array for name, array in _unpack(state).items()}
    _load(network, state, optional="position_ids")

    def forward(pixels: "torch.Tensor") -> "torch.Tensor":
        states = network(pixel_values=pixels, output_hidden_states=True).hidden_states
        return states[-2][:, config.num_prefix_tokens :]

    return _wrap(forward, network)


def clip_torch_end(
    network: "torch.nn.Module", pixels: "torch.Tensor", config: CLIPConfig
) -> "torch.Tensor":
    """What the whole tower gives, with its last layer and the norm after it.

    Args:
      network: of `clip_torch`.
      pixels: float `[B, 3, S, S]`, normalised.

    Returns:
      The pooled output `[B, D]`; of a SigLIP, which has none here, `last_hidden_state` `[B, N, D]`.
    """
    import torch

    with torch.inference_mode():
        found = network.network(pixel_values=pixels)
    return found.pooler_output if config.class_token else found.last_hidden_state


def qwen_vision_torch(
    config: Qwen25VisionConfig, state: Mapping[str, np.ndarray]
) -> "torch.nn.Module":
    """transformers' `Qwen2_5_VisionTransformerPretrainedModel` with the weights of a checkpoint.

    Args:
      state: its names, from `patch_embed.` on -> arrays.

    Returns:
      A module in eval mode: float `[B, 3, H, W]`, normalised -> tokens `[B, N, D]`.

    Raises:
      CheckpointError: the names or shapes are not the model's, or an extra is missing.
    """
    require_torch()
    import torch
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen

    settings = qwen.Qwen2_5_VLVisionConfig(
        depth=config.depth,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_heads=config.heads,
        patch_size=config.patch,
        spatial_merge_size=config.merge,
        window_size=config.window,
        out_hidden_size=config.token_width,
        fullatt_block_indexes=list(config.full_blocks),
    )
    network = qwen.Qwen2_5_VisionTransformerPretrainedModel(settings)
    _load(network, state, optional="inv_freq")
    p, m = config.patch, config.merge

    def forward(pixels: "torch.Tensor") -> "torch.Tensor":
        batch, _, height, width = pixels.shape
        rows, columns = height // p, width // p
        # The patches of a token follow each other; a still image is two equal frames.
        x = pixels.reshape(batch, 3, rows // m, m, p, columns // m, m, p)
        x = x.permute(0, 2, 5, 3, 6, 1, 4, 7)[..., None, :, :].expand(*[-1] * 6, 2, -1, -1)
        grid = torch.tensor([[1, rows, columns]]).repeat(batch, 1)
        found = network(x.reshape(batch * rows * columns, -1), grid_thw=grid)
        tokens = getattr(found, "pooler_output", found)
        return tokens.reshape(batch, -1, config.token_width)

    return _wrap(forward, network)


def source_state(config: TowerConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our parameters under timm's or Hugging Face's names, in their layouts, float32: the
    converter's rules backwards.

    What was folded stays folded: BatchNorms are the identity, layer scales one.
    """
    if isinstance(config, CLIPConfig):
        rules = clip_keys.rules(config)
    elif isinstance(config, Qwen25VisionConfig):
        rules = qwen_keys.rules(config)
    else:
        rules = fastvithd_keys.rules(config)
    leaves, state = flatten(params), {}
    for rule in rules:
        made = [_outputs_first(leaves[path]) for path in rule.targets]
        # A rule may cut a matrix otherwise: queries and keys-values, or each of the three.
        left = {
            vectors: np.concatenate([x for x in made if (x.ndim == 1) == vectors] or [np.empty(0)])
            for vectors in (False, True)
        }
        for name, shape in rule.sources.items():
            kind = ".".join(name.split(".")[-2:])
            if kind == "bn.running_var":  # 1 / sqrt(var + eps) = 1
                state[name] = np.full(shape, 1 - BATCH_NORM_EPSILON, np.float32)
            elif kind == "bn.running_mean":
                state[name] = np.zeros(shape, np.float32)
            elif kind == "bn.weight" or kind.endswith(".gamma"):
                state[name] = np.ones(shape, np.float32)
            else:
                vectors = len(shape) == 1
                rows, left[vectors] = np.split(left[vectors], shape[:1])
                if len(shape) > 3 and rows.ndim == 2:  # columns lie as the pixels of a patch do
                    rows = rows.reshape(shape[0], *shape[-2:], shape[1]).transpose(0, 3, 1, 2)
                if len(shape) == 5:  # a kernel for each of several equal frames
                    rows = np.stack([rows / shape[2]] * shape[2], 2)
                state[name] = np.ascontiguousarray(rows.reshape(shape))
    return state


def pixels_to_torch(frames: np.ndarray, config: TowerConfig) -> "torch.Tensor":
    """`uint8 [B, H, W, 3]` -> normalised float32 `[B, 3, H, W]`."""
    import torch

    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    x = (frames.astype(np.float32) / 255 - mean) / std
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _timm_fastvit(config: FastViTHDConfig, fused: bool) -> Any:
    require_torch()
    from functools import partial

    try:
        import timm
        from timm.models.fastvit import RepConditionalPosEnc
    except ImportError as error:
        raise CheckpointError(
            f"timm cannot be used ({error}): it needs a torchvision built for the same torch"
        ) from None

    if config.squeeze_width * 16 != config.token_width or config.head_width != 32:
        raise CheckpointError(
            "timm's FastViT has a squeeze-excite of 1/16 and heads of 32 channels; got "
            f"{config.squeeze_width} of {config.token_width} and {config.head_width}"
        )
    convolutional = 5 - config.attention_stages
    position = partial(RepConditionalPosEnc, spatial_shape=(7, 7))
    return timm.create_model(
        "fastvit_mci3",
        layers=config.depths,
        embed_dims=config.widths,
        mlp_ratios=(config.mlp_ratio,) * 5,
        token_mixers=("repmixer",) * convolutional + ("attention",) * config.attention_stages,
        pos_embs=(None,) * convolutional + (position,) * config.attention_stages,
        cls_ratio=config.token_width / config.widths[-1],
        inference_mode=fused,
        num_classes=0,
    )


def _load(network: Any, state: Mapping[str, np.ndarray], optional: str) -> None:
    import torch

    tensors = {k: torch.from_numpy(np.array(v, np.float32)) for k, v in state.items()}
    try:
        missing, unexpected = network.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"PyTorch's model has other shapes: {error}") from None
    missing = [name for name in missing if not name.endswith(optional)]
    if missing or unexpected:
        raise CheckpointError(
            f"PyTorch's model has other names: missing {missing}, unexpected {unexpected}"
        )


def _unpack(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits the packed query, key and value of OpenAI's files."""
    result: dict[str, np.ndarray] = {}
    for name, array in state.items():
        stem, packed, kind = name.partition("in_proj_")
        if packed:
            for letter, part in zip("qkv", np.split(array, 3), strict=True):
                result[f"{stem}{letter}_proj.{kind}"] = part
        elif name not in ("projection", "visual_projection.weight"):
            result[name] = array
    return result


def _wrap(forward: Any, network: Any) -> "torch.nn.Module":
    """A module that gives `[B, N, D]` tokens, without gradients."""
    import torch

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        @torch.inference_mode()
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            x = forward(pixels)
            return x if x.ndim == 3 else x.flatten(2).transpose(1, 2)

    return Tokens().eval()


def _outputs_first(leaf: Any) -> np.ndarray:
    """`[k, k, I, O]` -> `[O, I, k, k]`; everything else as it is; float32."""
    array = np.asarray(leaf).astype(np.float32)
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
