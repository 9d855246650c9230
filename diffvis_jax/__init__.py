"""Encode only what changed on the screen: differential vision encoders in JAX."""

import importlib
from typing import Any

__version__ = "0.2.0.dev0"

# The public names of each module. They are imported at their first use, so that `diffvis --help`
# does not wait for JAX. Type checkers read `__init__.pyi`.
_MODULES = {
    "core.cache": "Cache init_cache",
    "core.change": "compute_patch_diff",
    "core.policy": "Policy",
    "core.policy_file": "load_policy save_policy",
    "core.report": "Report describe",
    "core.slots": "SlotCache encode_slots init_slots make_slot_step",
    "core.step": "audit encode encode_step make_step",
    "encoder": "DifferentialVisionEncoder",
    "errors": "CacheError CheckpointError ConfigError DiffvisError EncoderError FrameError "
    "PromptError StaleError",
    "images.anyres": "TiledImage preprocess_tiles",
    "images.frame_stream": "FrameStream",
    "images.geometry": "ImageError Placement PreprocessConfig frame_size placement",
    "images.preprocess": "preprocess",
    "images.preprocess_in_graph": "preprocess_in_graph",
    "language.answer": "AnswerOptions",
    "language.config": "DecoderConfig",
    "language.language_model": "Language",
    "language.prefill_policy": "PrefillPolicy",
    "language.prompt_session": "PromptSession",
    "model": "Model load",
    "ops.quantised": "QuantKernel",
    "quantisation": "QuantConfig QuantReport quantise",
    "report.patches": "visualize_changed_patches",
    "resolution.choose": "choose_size",
    "resolution.measure": "profile",
    "resolution.profile": "Profile load_profile save_profile",
    "runtime.action_queue": "ActionQueue",
    "runtime.async_encoder": "AsyncEncoder",
    "runtime.control_loop": "ControlLoop LoopConfig Observation",
    "runtime.encoded": "Encoded",
    "runtime.statistics": "LoopStats",
    "runtime.timing": "Timing calibrate_time",
    "towers": "CLIPConfig FastViTHDConfig Qwen25VisionConfig",
    "towers.init": "init_params",
    "views.encoder": "ViewEncoder",
    "views.view_set": "ViewSet",
    "vlm": "generate_ids logits stream_ids",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'diffvis_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"diffvis_jax.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
