"""Fuses the branches of a network in training form into the one convolution they add up to.

Everything is float64, kernels are in PyTorch's layout `[O, I / groups, k, k]`. The affine after a
zero-padded convolution is applied to its output, so every fold is exact at the border too.
Sources: RepVGG (arXiv 2101.03697), MobileOne (2206.04040), FastViT (2303.14189).
"""

from collections.abc import Sequence

import numpy as np

BATCH_NORM_EPSILON = 1e-5

KernelBias = tuple[np.ndarray, np.ndarray]


def fold_batch_norm(
    kernel: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    running_mean: np.ndarray,
    running_var: np.ndarray,
) -> KernelBias:
    """A convolution without bias, then BatchNorm: one kernel `[O, I, k, k]` and bias `[O]`."""
    weight, bias, running_mean, running_var = (
        x.astype(np.float64) for x in (weight, bias, running_mean, running_var)
    )
    scale = weight / np.sqrt(running_var + BATCH_NORM_EPSILON)
    return kernel.astype(np.float64) * scale[:, None, None, None], bias - running_mean * scale


def identity_kernel(shape: tuple[int, ...]) -> np.ndarray:
    """The kernel `[O, I / groups, k, k]` whose convolution returns its input."""
    outputs, inputs, side, _ = shape
    kernel = np.zeros(shape)
    kernel[np.arange(outputs), np.arange(outputs) % inputs, side // 2, side // 2] = 1
    return kernel


def pad_kernel(kernel: np.ndarray, side: int) -> np.ndarray:
    """A smaller kernel in the middle of one of `side` x `side`; same output for centred padding."""
    margin = (side - kernel.shape[-1]) // 2
    return np.pad(kernel, ((0, 0), (0, 0), (margin, margin), (margin, margin)))


def add_branches(branches: Sequence[KernelBias], side: int) -> KernelBias:
    """The sum of parallel convolutions, as one of `side` x `side`."""
    kernel = sum(pad_kernel(kernel, side) for kernel, _ in branches)
    return np.asarray(kernel), np.asarray(sum(bias for _, bias in branches))


def fuse_rep_mixer(mixer: KernelBias, norm: KernelBias, layer_scale: np.ndarray) -> KernelBias:
    """`x + layer_scale * (mixer(x) - norm(x))` as one depthwise convolution."""
    scale = layer_scale.astype(np.float64).reshape(-1)
    kernel = scale[:, None, None, None] * (mixer[0] - norm[0])
    return identity_kernel(kernel.shape) + kernel, scale * (mixer[1] - norm[1])
