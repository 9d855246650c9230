"""Encode only what changed on the screen: differential vision encoders in JAX."""

from diffvis_jax.cache import Cache, Report, describe, init_cache
from diffvis_jax.change import compute_patch_diff
from diffvis_jax.encoder import DifferentialVisionEncoder
from diffvis_jax.errors import CacheError, CheckpointError, ConfigError, FrameError
from diffvis_jax.model import Model, load
from diffvis_jax.policy import Policy
from diffvis_jax.policy_file import load_policy, save_policy
from diffvis_jax.preprocess_config import PreprocessConfig
from diffvis_jax.preprocessing import ImageError, Placement, placement, preprocess
from diffvis_jax.slots import SlotCache, encode_slots, init_slots, make_slot_step
from diffvis_jax.step import audit, encode, encode_step, make_step
from diffvis_jax.towers import CLIPConfig, FastViTHDConfig
from diffvis_jax.towers.initialise import init_params
from diffvis_jax.visualize import visualize_changed_patches

__version__ = "0.1.0"

__all__ = [
    "CLIPConfig",
    "Cache",
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "DifferentialVisionEncoder",
    "FastViTHDConfig",
    "FrameError",
    "ImageError",
    "Model",
    "Placement",
    "Policy",
    "PreprocessConfig",
    "Report",
    "SlotCache",
    "audit",
    "compute_patch_diff",
    "describe",
    "encode",
    "encode_slots",
    "encode_step",
    "init_cache",
    "init_params",
    "init_slots",
    "load",
    "load_policy",
    "make_slot_step",
    "make_step",
    "placement",
    "preprocess",
    "save_policy",
    "visualize_changed_patches",
]
