"""The same towers in PyTorch, from timm and transformers: to check ours, and to race against.

Nothing here shares code with our towers or our converter, but for `torch_fastvithd` and
`torch_clip`, which carry our parameters over. Needs the extra `parity`.
"""

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers.clip import CLIPConfig
from diffvis_jax.towers.fastvithd import FastViTHDConfig

if TYPE_CHECKING:
    import torch

_NORM_EPSILON = 1e-5


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
      config: the architecture.
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


def torch_fastvithd(config: FastViTHDConfig, params: Mapping[str, Any]) -> "torch.nn.Module":
    """timm's `fastvit_mci3` with our parameters: the converter backwards.

    What the converter folded stays folded: BatchNorms become the identity, layer scales one.

    Args:
      config: the architecture.
      params: the tower's parameters.

    Returns:
      As `fastvithd_torch`.
    """
    return fastvithd_torch(config, timm_state(config, params))


def torch_clip(config: CLIPConfig, params: Mapping[str, Any]) -> "torch.nn.Module":
    """transformers' `CLIPVisionModel` with our parameters; otherwise as `clip_torch`."""
    return clip_torch(config, hugging_face_state(config, params))


def clip_torch(config: CLIPConfig, state: Mapping[str, np.ndarray]) -> "torch.nn.Module":
    """transformers' `CLIPVisionModel` with the weights of a checkpoint.

    Args:
      config: the architecture.
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
      config: the architecture.

    Returns:
      The pooled output `[B, D]`; of a SigLIP, which has none here, `last_hidden_state` `[B, N, D]`.
    """
    import torch

    with torch.inference_mode():
        found = network.network(pixel_values=pixels)
    return found.pooler_output if config.class_token else found.last_hidden_state


def timm_state(config: FastViTHDConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our parameters under timm's names, in its layouts, float32."""
    state: dict[str, np.ndarray] = {}

    def put(name: str, affine: Mapping[str, Any]) -> None:
        kernel = "weight" if "weight" in affine else "kernel"
        state[f"{name}.weight"] = _kernel(affine[kernel])
        state[f"{name}.bias"] = _float32(affine["bias"])

    def feed_forward(name: str, scale: str, ffn: Mapping[str, Any]) -> None:
        width = ffn["conv"]["bias"].shape[0]
        state[f"{name}.mlp.conv.conv.weight"] = _kernel(ffn["conv"]["kernel"])
        # BatchNorm as the identity: 1 / sqrt(var + eps) = 1. The convolution's bias is its shift.
        ones = np.ones(width, np.float32)
        state[f"{name}.mlp.conv.bn.weight"] = ones
        state[f"{name}.mlp.conv.bn.bias"] = _float32(ffn["conv"]["bias"])
        state[f"{name}.mlp.conv.bn.running_mean"] = 0 * ones
        state[f"{name}.mlp.conv.bn.running_var"] = ones * np.float32(1 - _NORM_EPSILON)
        put(f"{name}.mlp.fc1", ffn["fc1"])
        put(f"{name}.mlp.fc2", ffn["fc2"])
        state[f"{scale}.gamma"] = np.ones((width, 1, 1), np.float32)

    for i in range(3):
        put(f"stem.{i}.reparam_conv", params["stem"][f"conv_{i}"])
    for stage, depth in enumerate(config.depths):
        name, tree = f"stages.{stage}", params[f"stage_{stage}"]
        if stage:
            put(f"{name}.downsample.proj.0.reparam_conv", tree["downsample"]["conv"])
            put(f"{name}.downsample.proj.1.reparam_conv", tree["downsample"]["project"])
        if "position" in tree:
            put(f"{name}.pos_emb.reparam_conv", tree["position"])
        for j in range(depth):
            block, key = tree[f"block_{j}"], f"{name}.blocks.{j}"
            if "mixer" in block:
                put(f"{key}.token_mixer.reparam_conv", block["mixer"])
                feed_forward(key, f"{key}.layer_scale", block["ffn"])
                continue
            attention = block["attention"]
            state[f"{key}.norm.weight"] = _float32(attention["norm_scale"])
            state[f"{key}.norm.bias"] = _float32(attention["norm_bias"])
            query, kv = (_float32(attention[n]["weight"]) for n in ("query", "kv"))
            state[f"{key}.token_mixer.qkv.weight"] = np.concatenate([query, kv])
            state[f"{key}.token_mixer.proj.weight"] = _float32(attention["output"]["weight"])
            state[f"{key}.token_mixer.proj.bias"] = _float32(attention["output"]["bias"])
            state[f"{key}.layer_scale_1.gamma"] = np.ones((query.shape[0], 1, 1), np.float32)
            feed_forward(key, f"{key}.layer_scale_2", block["ffn"])
    put("final_conv.reparam_conv", params["head"]["conv"])
    put("final_conv.se.fc1", params["head"]["gate"]["reduce"])
    put("final_conv.se.fc2", params["head"]["gate"]["expand"])
    # Linear layers are matrices in timm; every other 1x1 is a convolution.
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def hugging_face_state(config: CLIPConfig, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Our parameters under Hugging Face's names, from `embeddings.` on, float32."""
    embed, patch, width = params["embed"], config.patch, config.width
    kernel = _float32(embed["patch"]["weight"]).reshape(width, patch, patch, 3)
    state = {
        "embeddings.patch_embedding.weight": kernel.transpose(0, 3, 1, 2),
        "embeddings.position_embedding.weight": _float32(embed["position"]),
    }

    def norm(name: str, tree: Mapping[str, Any]) -> None:
        state[f"{name}.weight"] = _float32(tree["norm_scale"])
        state[f"{name}.bias"] = _float32(tree["norm_bias"])

    def linear(name: str, tree: Mapping[str, Any], rows: slice = slice(None)) -> None:
        state[f"{name}.weight"] = _float32(tree["weight"])[rows]
        state[f"{name}.bias"] = _float32(tree["bias"])[rows]

    if config.class_token:
        state["embeddings.class_embedding"] = _float32(embed["class_token"])
        norm("pre_layrnorm", embed)
    if config.patch_bias:
        state["embeddings.patch_embedding.bias"] = _float32(embed["patch"]["bias"])
    for i in range(config.layers):
        name, attention = f"encoder.layers.{i}", params[f"block_{i}"]["attention"]
        mlp = params[f"block_{i}"]["mlp"]
        norm(f"{name}.layer_norm1", attention)
        linear(f"{name}.self_attn.q_proj", attention["query"])
        linear(f"{name}.self_attn.k_proj", attention["kv"], slice(width))
        linear(f"{name}.self_attn.v_proj", attention["kv"], slice(width, None))
        linear(f"{name}.self_attn.out_proj", attention["output"])
        norm(f"{name}.layer_norm2", mlp)
        linear(f"{name}.mlp.fc1", mlp["fc1"])
        linear(f"{name}.mlp.fc2", mlp["fc2"])
    norm("post_layernorm", params["post"])
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def pixels_to_torch(frames: np.ndarray, config: FastViTHDConfig | CLIPConfig) -> "torch.Tensor":
    """`uint8 [B, S, S, 3]` -> normalised float32 `[B, 3, S, S]`."""
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
        raise CheckpointError(f"timm cannot be used ({error}): pip install timm") from None

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


def _float32(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.float32)


def _kernel(array: Any) -> np.ndarray:
    """`[k, k, I, O]` or `[O, I]` -> `[O, I, k, k]`."""
    kernel = _float32(array)
    return kernel[:, :, None, None] if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
