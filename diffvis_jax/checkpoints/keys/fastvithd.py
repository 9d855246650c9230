"""FastViTHD: how its checkpoints name things, and which leaf is made of what.

Three namings are understood: Apple's (`patch_embed`, `network`, `conv_exp`), timm's
(`stem`, `stages`, `final_conv`) and that of transformers' FastVLM, which is timm's under another
prefix. timm's is the canonical one here. Sources: apple/ml-fastvlm `mobileclip/mci.py`; timm
`models/fastvit.py`.
"""

import re
from collections.abc import Collection, Mapping

import numpy as np

from diffvis_jax.checkpoints.formats.tensors import Shape
from diffvis_jax.checkpoints.keys.fold import (
    KernelBias,
    add_branches,
    fold_batch_norm,
    fuse_rep_mixer,
    identity_kernel,
)
from diffvis_jax.checkpoints.keys.rules import Arrays, Rule, count_blocks, move_norm
from diffvis_jax.errors import CheckpointError
from diffvis_jax.towers.fastvithd import FastViTHDConfig

# The tower begins where one of these is found; what comes before is the prefix.
ANCHORS = (
    "patch_embed.0.reparam_conv.weight",
    "patch_embed.0.rbr_conv.0.conv.weight",
    "stem.0.reparam_conv.weight",
    "stem.0.conv_kxk.0.conv.weight",
)

# Apple's `network` is one list of stages, downsamples and position encodings.
_BLOCKS = {"0": "0", "2": "1", "4": "2", "7": "3", "10": "4"}
_DOWNSAMPLES = {"1": "1", "3": "2", "5": "3", "8": "4"}
_POSITIONS = {"6": "3", "9": "4"}
_WORDS = (
    ("convffn", "mlp"),
    ("lkb_reparam", "reparam_conv"),
    ("lkb_origin", "large_conv"),
    ("rbr_conv", "conv_kxk"),
    ("rbr_scale", "conv_scale"),
    ("rbr_skip", "identity"),
    ("pe", "pos_enc"),
    ("layer_scale", "layer_scale.gamma"),
    ("layer_scale_1", "layer_scale_1.gamma"),
    ("layer_scale_2", "layer_scale_2.gamma"),
)


def canonical(name: str) -> str | None:
    """A tensor's name after the prefix -> timm's name, or None if no part of the tower."""
    parts = name.split(".")
    if parts[0] in ("stem", "stages", "final_conv"):
        return name
    if parts[0] == "patch_embed":
        head, rest = ["stem"], parts[1:]
    elif parts[0] == "conv_exp":
        head, rest = ["final_conv"], parts[1:]
        if rest[:1] == ["se"]:
            rest = [{"reduce": "fc1", "expand": "fc2"}.get(part, part) for part in rest]
    elif parts[0] == "network" and len(parts) > 2:
        index, rest = parts[1], parts[2:]
        if index in _BLOCKS:
            head = ["stages", _BLOCKS[index], "blocks"]
        elif index in _DOWNSAMPLES:
            head = ["stages", _DOWNSAMPLES[index], "downsample"]
        elif index in _POSITIONS:
            head = ["stages", _POSITIONS[index], "pos_emb"]
        else:
            return None
    else:
        return None
    words = dict(_WORDS)
    return ".".join(head + [words.get(part, part) for part in rest])


def apple(name: str) -> str:
    """timm's name -> Apple's, for messages about files in Apple's naming."""
    large_kernel = ".downsample.proj.0.reparam_conv" in name
    for pattern, table in (
        (r"stages\.(\d)\.blocks", _BLOCKS),
        (r"stages\.(\d)\.downsample", _DOWNSAMPLES),
        (r"stages\.(\d)\.pos_emb", _POSITIONS),
    ):
        index = {stage: network for network, stage in table.items()}
        name = re.sub(pattern, lambda m, index=index: f"network.{index.get(m[1], '?')}", name)
    if name.startswith("final_conv.se."):
        return (
            name.replace("final_conv", "conv_exp").replace("fc1", "reduce").replace("fc2", "expand")
        )
    name = re.sub(r"^stem\b", "patch_embed", re.sub(r"^final_conv\b", "conv_exp", name))
    name = name.replace(".gamma", "")
    words = {timm: word for word, timm in _WORDS if timm != "reparam_conv"}
    name = ".".join(words.get(part, part) for part in name.split("."))
    return name.replace("reparam_conv", "lkb_reparam") if large_kernel else name


def infer_config(shapes: Mapping[str, Shape], size: int) -> FastViTHDConfig:
    """The architecture behind canonical names and shapes.

    Raises:
      CheckpointError: the tensors do not add up to five stages of a FastViT.
    """
    depths, widths, attention = [], [], []
    for stage in range(5):
        blocks = count_blocks(shapes, rf"stages\.{stage}\.blocks\.(\d+)\.")
        if not blocks:
            raise CheckpointError(
                f"no blocks of stage {stage} (counted from 0): FastViTHD has 5 stages"
            )
        depths.append(blocks)
        widths.append(_first(shapes, rf"stages\.{stage}\.blocks\.\d+\.mlp\.fc1\.weight", axis=1))
        attention.append(any(re.match(rf"stages\.{stage}\..*\.qkv\.", key) for key in shapes))
    if attention != sorted(attention):
        raise CheckpointError(f"stages with attention must be the last ones, found {attention}")
    hidden = _first(shapes, r"stages\.0\.blocks\.\d+\.mlp\.fc1\.weight", axis=0)
    return FastViTHDConfig(
        depths=tuple(depths),
        widths=tuple(widths),
        attention_stages=sum(attention),
        mlp_ratio=hidden // widths[0],
        token_width=_first(shapes, r"final_conv\.(reparam_conv|conv_kxk\.0\.conv)\.weight", axis=0),
        squeeze_width=_first(shapes, r"final_conv\.se\.fc1\.weight", axis=0),
        size=size,
    )


def _first(shapes: Mapping[str, Shape], pattern: str, axis: int) -> int:
    for key, shape in shapes.items():
        if re.fullmatch(pattern, key) and len(shape) > axis and shape[axis]:
            return shape[axis]
    raise CheckpointError(f"nothing named {pattern}: the architecture cannot be inferred")


def rules(config: FastViTHDConfig, names: Collection[str] = ()) -> list[Rule]:
    """The table for one tower.

    Args:
      names: canonical names of the tensors there are. They decide, convolution by convolution,
        whether it is read fused or as the branches of the training form; without them, fused.
    """
    table = _Table(names)
    first, last = config.widths[0], config.token_width
    table.convolution("stem.0", "stem/conv_0", (first, 3, 3, 3))
    table.convolution("stem.1", "stem/conv_1", (first, 1, 3, 3))
    table.convolution("stem.2", "stem/conv_2", (first, first, 1, 1), skip=True)
    for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
        key, path = f"stages.{stage}", f"stage_{stage}"
        if stage:
            down = f"{key}.downsample.proj"
            table.large_kernel(f"{down}.0", f"{path}/downsample/conv", (width, 1, 7, 7))
            table.convolution(
                f"{down}.1", f"{path}/downsample/project", (width, width, 1, 1), skip=True
            )
        attends = stage >= 5 - config.attention_stages
        if attends:
            table.position(f"{key}.pos_emb", f"{path}/position", (width, 1, 7, 7))
        for block in range(depth):
            source, target = f"{key}.blocks.{block}", f"{path}/block_{block}"
            if attends:
                table.attention(source, f"{target}/attention", width)
            else:
                table.rep_mixer(f"{source}.token_mixer", f"{target}/mixer", (width, 1, 3, 3))
            scale = f"{source}.layer_scale_2" if attends else f"{source}.layer_scale"
            table.feed_forward(source, scale, f"{target}/ffn", width, width * config.mlp_ratio)
    table.convolution("final_conv", "head/conv", (last, 1, 3, 3), scale=True)
    table.linear("final_conv.se.fc1", "head/gate/reduce", last, config.squeeze_width)
    table.linear("final_conv.se.fc2", "head/gate/expand", config.squeeze_width, last)
    return table.rules


def _to_target(kernel: np.ndarray) -> np.ndarray:
    """`[O, I, k, k]` -> `[k, k, I, O]`, or `[O, I]` when 1x1."""
    return kernel[:, :, 0, 0] if kernel.shape[2] == 1 else kernel.transpose(2, 3, 1, 0)


def _target(path: str, shape: Shape) -> tuple[str, Shape]:
    """Path and shape of a kernel, or of the matrix that a 1x1 is."""
    if shape[2] == 1:
        return f"{path}/weight", shape[:2]
    return f"{path}/kernel", (shape[2], shape[3], shape[1], shape[0])


class _Table:
    """Collects the rules; each method adds those of one kind of module."""

    def __init__(self, names: Collection[str]):
        self.rules: list[Rule] = []
        # Every dotted beginning of a name: "is there a branch of that name?"
        self._found = {
            ".".join(parts[:n])
            for parts in (name.split(".") for name in names)
            for n in range(1, len(parts) + 1)
        }

    def _add_convolution(self, path: str, sources: dict[str, Shape], shape: Shape, fuse):
        """One kernel and bias; `fuse`: tensors -> (kernel `[O, I, k, k]`, bias)."""

        def build(tensors: Arrays):
            kernel, bias = fuse(tensors)
            return _to_target(kernel), bias

        target, target_shape = _target(path, shape)
        targets = {target: target_shape, f"{path}/bias": (shape[0],)}
        self.rules.append(Rule(sources, targets, build))

    def _branches(self, key: str, shape: Shape, *, conv=True, skip=False, scale=False):
        """The parallel branches of a MobileOne block -> (sources, tensors -> fused)."""
        sources: dict[str, Shape] = {}
        readers = []
        if conv:
            number = 1
            while f"{key}.conv_kxk.{number}" in self._found:
                number += 1
            readers += [self._normed(f"{key}.conv_kxk.{n}", shape, sources) for n in range(number)]
        if scale or f"{key}.conv_scale" in self._found:
            readers.append(self._normed(f"{key}.conv_scale", (*shape[:2], 1, 1), sources))
        if skip or f"{key}.identity" in self._found:
            identity = f"{key}.identity"
            sources.update(_batch_norm(identity, shape[0]))
            readers.append(
                lambda t: fold_batch_norm(identity_kernel(shape), *_pick_norm(t, identity))
            )
        return sources, lambda t: add_branches([read(t) for read in readers], shape[2])

    def _normed(self, key: str, shape: Shape, sources: dict[str, Shape]):
        """Adds one convolution with BatchNorm to `sources` -> reader of the folded pair."""
        sources[f"{key}.conv.weight"] = shape
        sources.update(_batch_norm(f"{key}.bn", shape[0]))
        return lambda t: fold_batch_norm(t[f"{key}.conv.weight"], *_pick_norm(t, f"{key}.bn"))

    def _fused(self, key: str, path: str, shape: Shape) -> None:
        weight, bias = f"{key}.reparam_conv.weight", f"{key}.reparam_conv.bias"
        sources = {weight: shape, bias: (shape[0],)}
        self._add_convolution(path, sources, shape, lambda t: (t[weight], t[bias]))

    def convolution(self, key: str, path: str, shape: Shape, *, skip=False, scale=False) -> None:
        """A MobileOne block."""
        if f"{key}.conv_kxk" not in self._found:
            return self._fused(key, path, shape)
        sources, fuse = self._branches(key, shape, skip=skip, scale=scale)
        return self._add_convolution(path, sources, shape, fuse)

    def large_kernel(self, key: str, path: str, shape: Shape) -> None:
        """The 7x7 of a downsample: itself plus a 3x3 in training form."""
        if f"{key}.large_conv" not in self._found:
            return self._fused(key, path, shape)
        sources: dict[str, Shape] = {}
        large = self._normed(f"{key}.large_conv", shape, sources)
        small = self._normed(f"{key}.small_conv", (*shape[:2], 3, 3), sources)
        return self._add_convolution(
            path, sources, shape, lambda t: add_branches([large(t), small(t)], shape[2])
        )

    def rep_mixer(self, key: str, path: str, shape: Shape) -> None:
        """A token mixer with its residual."""
        if f"{key}.mixer" not in self._found:
            return self._fused(key, path, shape)
        mixed, mixer = self._branches(f"{key}.mixer", shape, skip=True, scale=True)
        normed, norm = self._branches(f"{key}.norm", shape, conv=False, skip=True)
        gamma = f"{key}.layer_scale.gamma"
        sources = {**mixed, **normed, gamma: (shape[0], 1, 1)}
        return self._add_convolution(
            path, sources, shape, lambda t: fuse_rep_mixer(mixer(t), norm(t), t[gamma])
        )

    def position(self, key: str, path: str, shape: Shape) -> None:
        """The conditional position encoding with its residual."""
        if f"{key}.pos_enc" not in self._found:
            return self._fused(key, path, shape)
        weight, bias = f"{key}.pos_enc.weight", f"{key}.pos_enc.bias"

        def fuse(t: Arrays) -> KernelBias:
            return t[weight].astype(np.float64) + identity_kernel(shape), t[bias]

        return self._add_convolution(path, {weight: shape, bias: (shape[0],)}, shape, fuse)

    def linear(self, key: str, path: str, inputs: int, outputs: int) -> None:
        """A 1x1 convolution with bias."""
        weight, bias = f"{key}.weight", f"{key}.bias"
        sources = {weight: (outputs, inputs, 1, 1), bias: (outputs,)}
        self._add_convolution(path, sources, sources[weight], lambda t: (t[weight], t[bias]))

    def feed_forward(self, key: str, gamma: str, path: str, width: int, hidden: int) -> None:
        """The ConvFFN: BatchNorm into the 7x7, layer scale into the second 1x1."""
        shape = (width, 1, 7, 7)
        sources: dict[str, Shape] = {}
        read = self._normed(f"{key}.mlp.conv", shape, sources)
        self._add_convolution(f"{path}/conv", sources, shape, read)
        self.linear(f"{key}.mlp.fc1", f"{path}/fc1", width, hidden)
        weight, bias = f"{key}.mlp.fc2.weight", f"{key}.mlp.fc2.bias"
        gamma = f"{gamma}.gamma"
        shape = (width, hidden, 1, 1)
        sources = {weight: shape, bias: (width,), gamma: (width, 1, 1)}

        def fuse(t: Arrays) -> KernelBias:
            scale = t[gamma].astype(np.float64).reshape(-1)
            return t[weight] * scale[:, None, None, None], t[bias] * scale

        self._add_convolution(f"{path}/fc2", sources, shape, fuse)

    def attention(self, key: str, path: str, width: int) -> None:
        """Norm, attention, projection with the layer scale."""
        self.rules.append(move_norm(f"{key}.norm", path, width))
        qkv = f"{key}.token_mixer.qkv.weight"
        self.rules.append(
            Rule(
                {qkv: (3 * width, width)},
                {f"{path}/query/weight": (width, width), f"{path}/kv/weight": (2 * width, width)},
                lambda t: (t[qkv][:width], t[qkv][width:]),
            )
        )
        weight, shift = f"{key}.token_mixer.proj.weight", f"{key}.token_mixer.proj.bias"
        gamma = f"{key}.layer_scale_1.gamma"

        def project(t: Arrays) -> tuple[np.ndarray, np.ndarray]:
            scale = t[gamma].astype(np.float64).reshape(-1)
            return t[weight] * scale[:, None], t[shift] * scale

        self.rules.append(
            Rule(
                {weight: (width, width), shift: (width,), gamma: (width, 1, 1)},
                {f"{path}/output/weight": (width, width), f"{path}/output/bias": (width,)},
                project,
            )
        )


_NORM = ("weight", "bias", "running_mean", "running_var")


def _batch_norm(key: str, width: int) -> dict[str, Shape]:
    return {f"{key}.{part}": (width,) for part in _NORM}


def _pick_norm(tensors: Arrays, key: str) -> list[np.ndarray]:
    return [tensors[f"{key}.{part}"] for part in _NORM]
