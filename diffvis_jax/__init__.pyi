"""What type checkers see: `__init__.py` imports these names at their first use."""

from diffvis_jax.core.cache import Cache, init_cache
from diffvis_jax.core.change import compute_patch_diff
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.policy_file import load_policy, save_policy
from diffvis_jax.core.report import Report, describe
from diffvis_jax.core.slots import SlotCache, encode_slots, init_slots, make_slot_step
from diffvis_jax.core.step import audit, encode, encode_step, make_step
from diffvis_jax.encoder import DifferentialVisionEncoder
from diffvis_jax.errors import (
    CacheError,
    CheckpointError,
    ConfigError,
    DiffvisError,
    EncoderError,
    FrameError,
    PromptError,
    StaleError,
)
from diffvis_jax.images.anyres import TiledImage, preprocess_tiles
from diffvis_jax.images.frame_stream import FrameStream
from diffvis_jax.images.geometry import (
    ImageError,
    Placement,
    PreprocessConfig,
    frame_size,
    placement,
)
from diffvis_jax.images.preprocess import preprocess
from diffvis_jax.images.preprocess_in_graph import preprocess_in_graph
from diffvis_jax.language.answer import AnswerOptions
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.language.differential_prefill import PrefillPolicy
from diffvis_jax.language.language_model import Language
from diffvis_jax.language.prompt_session import PromptSession
from diffvis_jax.model import Model, load
from diffvis_jax.ops.quantised import QuantKernel
from diffvis_jax.quantisation import QuantConfig, QuantReport, quantise
from diffvis_jax.report.patches import visualize_changed_patches
from diffvis_jax.resolution.choose import choose_size
from diffvis_jax.resolution.measure import profile
from diffvis_jax.resolution.profile import Profile, load_profile, save_profile
from diffvis_jax.runtime.action_queue import ActionQueue
from diffvis_jax.runtime.async_encoder import AsyncEncoder
from diffvis_jax.runtime.control_loop import ControlLoop, LoopConfig, Observation
from diffvis_jax.runtime.encoded import Encoded
from diffvis_jax.runtime.statistics import LoopStats
from diffvis_jax.runtime.timing import Timing, calibrate_time
from diffvis_jax.towers import CLIPConfig, FastViTHDConfig, Qwen25VisionConfig
from diffvis_jax.towers.init import init_params
from diffvis_jax.views.encoder import ViewEncoder
from diffvis_jax.views.view_set import ViewSet
from diffvis_jax.vlm import generate_ids, logits, stream_ids

__version__: str

__all__ = [
    "ActionQueue",
    "AnswerOptions",
    "AsyncEncoder",
    "CLIPConfig",
    "Cache",
    "CacheError",
    "CheckpointError",
    "ConfigError",
    "ControlLoop",
    "DecoderConfig",
    "DifferentialVisionEncoder",
    "DiffvisError",
    "Encoded",
    "EncoderError",
    "FastViTHDConfig",
    "FrameError",
    "FrameStream",
    "ImageError",
    "Language",
    "LoopConfig",
    "LoopStats",
    "Model",
    "Observation",
    "Placement",
    "Policy",
    "PrefillPolicy",
    "PreprocessConfig",
    "Profile",
    "PromptError",
    "PromptSession",
    "QuantConfig",
    "QuantKernel",
    "QuantReport",
    "Qwen25VisionConfig",
    "Report",
    "SlotCache",
    "StaleError",
    "TiledImage",
    "Timing",
    "ViewEncoder",
    "ViewSet",
    "audit",
    "calibrate_time",
    "choose_size",
    "compute_patch_diff",
    "describe",
    "encode",
    "encode_slots",
    "encode_step",
    "frame_size",
    "generate_ids",
    "init_cache",
    "init_params",
    "init_slots",
    "load",
    "load_policy",
    "load_profile",
    "logits",
    "make_slot_step",
    "make_step",
    "placement",
    "preprocess",
    "preprocess_in_graph",
    "preprocess_tiles",
    "profile",
    "quantise",
    "save_policy",
    "save_profile",
    "stream_ids",
    "visualize_changed_patches",
]
