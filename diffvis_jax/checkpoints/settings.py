"""The table of settings: what is done about every field of a checkpoint's JSON files.

A field is one of these, and nothing is passed over without a word:

    Read()                     supported: its value is used, or compared with the weights
    Ignored(reason)            without effect here; named in the list of what is ignored
    Only(values, meaning)      fine with these values and refused with others, whose `meaning` is
                               told; no values: refused unless it is off (false, 0)
    Only(..., instead=...)     not refused, but noted with what is done instead
    Not({value: meaning}, known)  refused with these values, fine with those that are known, and
                               with any other taken for the first of them, and noted
    a table of its own         an object, whose fields are the table's

A field that is not here is printed with the conversion's notes. One that is null, or an empty
list, object or text, is as good as not there. The items of a list are judged one by one.

This is data: `check_settings.py` applies it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from diffvis_jax.checkpoints.decoders import DECODERS, WRAPPERS


@dataclasses.dataclass(frozen=True)
class Read:
    """Supported."""


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Without effect, and why."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Only:
    """The values that are supported, and what others mean."""

    values: tuple[Any, ...]
    meaning: str
    instead: str = ""


@dataclasses.dataclass(frozen=True)
class Not:
    """The values that are not supported, and what each means; and those that are known to be."""

    values: Mapping[str, str]
    known: tuple[str, ...]


Rule = Read | Ignored | Only | Not
Table = Mapping[str, "Rule | Table"]


def _each(names: tuple[str, ...], rule: Any) -> dict[str, Any]:
    """The same for every name; a text may hold several, with spaces between them."""
    return {name: rule for text in names for name in text.split()}


def _read(*names: str) -> Table:
    return _each(names, Read())


def _ignored(reason: str, *names: str) -> Table:
    return _each(names, Ignored(reason))


def _only(values: Any, meaning: str, *names: str, instead: str = "") -> Table:
    values = values if isinstance(values, tuple) else (values,)
    return _each(names, Only(values, meaning, instead))


_TRAINING = "of training"
_SAVED = "of the program that saved it"
_WEIGHTS_TELL = "the weights tell"
_CALL = "an option of a call, not of a model"
_VIDEO = "of videos"
_TILES = "an image that is cut into tiles (AnyRes)"
_NATIVE = "images in sizes of their own (Qwen2-VL, Qwen2.5-VL)"
_RESIZED = "resizing by another rule than bicubic"
# MobileCLIP's files say so; its tower is FastVLM's, which is given images resized by bicubic.
_BICUBIC = "images are resized by bicubic all the same"
_POOLED = "of pooled features, which come after the tokens"

# ---- generation_config.json -------------------------------------------------------------------

_SAMPLING = _ignored(
    _CALL,
    "assistant_confidence_threshold assistant_early_exit assistant_ensemble_weight",
    "assistant_lookbehind bad_words_ids begin_suppress_tokens cache_config",
    "cache_implementation compile_config constraints continuous_batching_config",
    "decoder_start_token_id disable_compile diversity_penalty do_sample dola_layers",
    "early_stopping encoder_no_repeat_ngram_size encoder_repetition_penalty epsilon_cutoff",
    "eta_cutoff exponential_decay_length_penalty force_words_ids forced_bos_token_id",
    "forced_eos_token_id guidance_scale is_assistant length_penalty low_memory",
    "max_cache_len max_length max_matching_ngram_size max_new_tokens max_time min_length",
    "min_new_tokens min_p no_repeat_ngram_size num_assistant_tokens",
    "num_assistant_tokens_schedule num_beam_groups num_beams num_return_sequences",
    "output_attentions output_hidden_states output_logits output_scores penalty_alpha",
    "prefill_chunk_size prompt_lookup_num_tokens remove_invalid_values",
    "renormalize_logits repetition_penalty return_dict_in_generate sequence_bias",
    "stop_strings suppress_tokens target_lookbehind temperature token_healing top_h top_k",
    "top_p typical_p use_cache use_mtp watermarking_config",
)
_WRITER = _ignored(
    _SAVED,
    "transformers_version _from_model_config _name_or_path name_or_path architectures",
    "auto_map torch_dtype dtype _commit_hash _attn_implementation attn_implementation",
    "_attn_implementation_autoset return_dict torchscript use_bfloat16 tf_legacy_loss",
    "is_encoder_decoder is_decoder add_cross_attention cross_attention_hidden_size",
    "chunk_size_feed_forward pruned_heads tie_encoder_decoder finetuning_task id2label",
    "label2id label_names num_labels problem_type task_specific_params prefix sep_token_id",
    "tokenizer_class processor_class _processor_class custom_pipelines base_model_tp_plan",
)

GENERATION: Table = {
    **_SAMPLING,
    **_WRITER,
    **_read("eos_token_id"),
    **_ignored("config.json tells", "bos_token_id", "pad_token_id"),
}

# Of Qwen2.5-VL.
QWEN_GENERATION: Table = {**GENERATION, **_read("repetition_penalty")}

# ---- config.json ------------------------------------------------------------------------------

_COMMON: Table = {
    **_SAMPLING,
    **_WRITER,
    **_ignored(
        _TRAINING,
        "attention_dropout attention_probs_dropout_prob drop_path_rate dropout",
        "embd_pdrop gradient_checkpointing hidden_dropout hidden_dropout_prob",
        "initializer_factor initializer_range logit_scale_init_value resid_pdrop",
    ),
    **_only(
        (),
        "quantised weights; convert the checkpoint in floating point that they were made from",
        "quantization_config quantization compression_config",
    ),
}

_TIMM_PRETRAINED: Table = {
    **_read("input_size", "mean", "std"),
    **_only("bicubic", _RESIZED, "interpolation", instead=_BICUBIC),
    **_ignored("a margin of classification: nothing is cut off here", "crop_pct", "crop_mode"),
    **_ignored("of classification", "num_classes", "pool_size", "classifier", "label_names"),
    **_ignored(
        _SAVED,
        "architecture custom_load description file fixed_input_size first_conv hf_hub_id",
        "hf_hub_filename license min_input_size origin_url paper_ids paper_name source",
        "tag test_crop_mode test_crop_pct test_input_size url",
    ),
}

_TOWERS = ("clip_vision_model", "siglip_vision_model", "timm_wrapper")

# Of a tower; the fields of transformers' CLIP, SigLIP and timm wrapper.
VISION: Table = {
    **_COMMON,
    **_read(
        "architecture hidden_act hidden_size image_size intermediate_size",
        "layer_norm_eps num_attention_heads num_hidden_layers patch_size",
    ),
    **_only(3, "images of other channels than red, green and blue", "num_channels"),
    **_ignored(_WEIGHTS_TELL, "model_args num_features projection_dim tie_word_embeddings"),
    **_ignored(_POOLED, "do_pooling global_pool num_classes vision_use_head bos_token_id"),
    **_ignored(_POOLED, "eos_token_id", "pad_token_id"),
    **_ignored("of timm's own weights; the processor tells", "pretrained_cfg"),
    **_ignored("of the text tower", "vocab_size"),
    "model_type": Not(
        {"siglip2_vision_model": f"a tower for {_NATIVE}"},
        (*_TOWERS, "clip", "siglip", "llava_qwen2"),
    ),
}

# A tower by itself, in a config.json of its own.
VISION_ALONE: Table = {**VISION, "pretrained_cfg": _TIMM_PRETRAINED}

# Of Qwen2.5-VL's tower.
QWEN_VISION: Table = {
    **_COMMON,
    **_read(
        "depth fullatt_block_indexes hidden_size intermediate_size num_heads out_hidden_size",
        "patch_size spatial_merge_size spatial_patch_size window_size",
    ),
    **_only(("silu", "swish"), "another activation", "hidden_act"),
    **_only(3, "images of other channels than red, green and blue", "in_channels", "in_chans"),
    **_only(2, "another number of frames under a kernel", "temporal_patch_size"),
    **_ignored(_VIDEO, "tokens_per_second"),
    **_ignored(_WEIGHTS_TELL, "tie_word_embeddings"),
    "model_type": Only(
        # The tower's own name, and the whole model's: both are found in vision_config.
        ("qwen2_5_vl", "qwen2_5_vl_vision"),
        "another tower",
    ),
}

_ROPE: Table = {
    **_read("rope_theta"),
    **_only("default", "rotary embeddings of another type than the default", "rope_type", "type"),
    **_only(1, "rotary embeddings of some of the channels", "partial_rotary_factor"),
    **_only((), "rotary embeddings in three axes (Qwen2-VL)", "mrope_section"),
    **_only(
        (),
        "other rotary embeddings in some of the layers",
        "full_attention sliding_attention chunked_attention",
    ),
    **_ignored(
        "the default rotary embeddings have no such number",
        "attention_factor beta_fast beta_slow factor high_freq_factor long_factor",
        "low_freq_factor original_max_position_embeddings short_factor",
    ),
}

_OTHER_DECODERS: Mapping[str, str] = {
    **_each(("vipllava",), "features of several blocks"),
    **_each(("llava_next_video llava_onevision",), "images in many tiles, or videos"),
    **_each(("qwen2_vl qwen2_5_vl qwen3_vl qwen3_vl_moe",), _NATIVE),
    **_each(
        (
            "arcee aya_vision bloom chatglm cohere cohere2 deepseek_v2 deepseek_v3 exaone4 falcon",
            "falcon_h1 gemma gemma2 gemma3 gemma3_text glm glm4 gpt2 gpt_neox gpt_oss granite",
            "granitemoe helium hunyuan_v1_dense idefics2 idefics3 internlm2 internvl",
            "internvl_chat llama4 llama4_text llava_gemma llava_mixtral llava_mpt llava_phi",
            "llava_stablelm minicpm minicpmv mixtral mllama molmo mpt olmo olmo2 opt paligemma",
            "phi phi3 phi3_v pixtral qwen2_moe qwen3 qwen3_moe smollm3 smolvlm stablelm",
            "starcoder2",
        ),
        "a decoder of another family than Qwen2, Llama and Mistral",
    ),
}

_SCALED = "a factor that these decoders do not have"

# Of a language model; the fields of transformers' Qwen2 and Llama, and those by which decoders with
# the same tensors differ from them.
LANGUAGE: Table = {
    **_COMMON,
    **_read(
        "bos_token_id eos_token_id head_dim hidden_size intermediate_size",
        "max_position_embeddings num_attention_heads num_hidden_layers",
        "num_key_value_heads pad_token_id rms_norm_eps rope_theta",
        "tie_word_embeddings vocab_size",
    ),
    "rope_parameters": _ROPE,
    "rope_scaling": _ROPE,
    "model_type": Not(_OTHER_DECODERS, (*DECODERS, *WRAPPERS)),
    **_only(("silu", "swish"), "another activation", "hidden_act", "hidden_activation"),
    **_only(False, "attention in a sliding window", "use_sliding_window"),
    **_only("full_attention", "attention of another reach in some of the layers", "layer_types"),
    **_only((), "attention in windows or chunks", "attention_chunk_size", "sliding_window_pattern"),
    **_ignored("of use_sliding_window", "sliding_window", "max_window_layers"),
    **_ignored(_WEIGHTS_TELL, "attention_bias bias mlp_bias no_bias qkv_bias use_qkv_bias"),
    **_ignored("changes no number but by rounding", "pretraining_tp", "num_logits_to_keep"),
    **_only(
        1,
        _SCALED,
        "attention_in_multiplier attention_out_multiplier embedding_multiplier",
        "embedding_scale key_multiplier lm_head_multiplier logit_scale",
        "logits_scaling mlp_multipliers residual_multiplier residual_scale scale_emb",
    ),
    # One is none of these: they stand for what Qwen2 divides by the root of the width.
    **_only(
        (),
        _SCALED,
        "attention_multiplier attention_scale dim_model_base mup_base_width",
        "query_pre_attn_scalar scale_depth",
    ),
    **_only(
        (),
        "scores that are capped",
        "attn_logit_softcapping clip_qkv final_logit_softcapping logits_soft_cap",
    ),
    **_only(
        False,
        "normalised queries and keys",
        "qk_layernorm qk_norm use_qk_norm use_qk_layernorm",
    ),
    **_only(1, "rotary embeddings of some of the channels", "partial_rotary_factor", "rotary_pct"),
    **_only(1, "layers without rotary embeddings", "no_rope_layers"),
    **_only((), "layers without rotary embeddings", "no_rope_layer_interval"),
    **_only((), "other rotary embeddings in some of the layers", "rope_local_base_freq"),
    **_only(False, "rotary embeddings in three axes (Qwen2-VL)", "use_mrope"),
    **_only(False, "another kind of positions", "alibi", "rope_interleaved", "use_alibi"),
    **_only(
        False,
        "attention and feed-forward side by side",
        "parallel_attn use_parallel_residual",
    ),
    **_only(False, "attention in both directions", "use_bidirectional_attention"),
    **_only(False, "attention of another temperature", "attn_temperature_tuning"),
    **_only((), "a mixture of experts", "n_routed_experts num_experts num_local_experts"),
}

# Likewise, of Mistral's, where a window needs no flag.
MISTRAL: Table = {**LANGUAGE, **_read("sliding_window")}

_MROPE: Table = {
    **_ROPE,
    **_read("mrope_section"),
    **_only(("default", "mrope"), "rotary embeddings of another type", "rope_type", "type"),
}

# Likewise, of Qwen2.5-VL's, whose rotary embeddings have three axes.
QWEN_LANGUAGE: Table = {
    **LANGUAGE,
    "model_type": Only(("qwen2_5_vl", "qwen2_5_vl_text"), "another decoder"),
    "rope_parameters": _MROPE,
    "rope_scaling": _MROPE,
}

# Of a model of both; LLaVA's and transformers' words for the same things.
WRAPPER: Table = {
    **_COMMON,
    **_read(
        "image_seq_length image_token_id image_token_index mm_hidden_size mm_vision_tower",
        "tie_word_embeddings tokenizer_model_max_length",
    ),
    "model_type": Not(_OTHER_DECODERS, (*WRAPPERS, *_TOWERS, "clip", "siglip")),
    "image_aspect_ratio": Only(
        ("pad", "square", "anyres"), "images in many tiles, or resized otherwise"
    ),
    "mm_projector_type": Only(
        ("linear", "identity", *(f"mlp{n}x_gelu" for n in range(1, 9))), "another projector"
    ),
    **_only("gelu", "another activation of the projector", "projector_hidden_act"),
    **_only(True, "a projector without biases", "multimodal_projector_bias"),
    **_only((), "a resampler before the projector", "mm_resampler_type"),
    **_only(False, "tokens around every image", "mm_use_im_start_end"),
    **_only(False, "images in several sizes at once (S2)", "s2", "use_s2"),
    **_ignored("of S2, which is off", "s2_scales", "s2_max_split_size", "s2_resize_output_to_max"),
    **_ignored(
        "of tiles, which image_aspect_ratio asks for",
        "image_crop_resolution image_grid_pinpoints image_split_resolution",
        "mm_patch_merge_type",
    ),
    **_ignored("changes no prompt", "mm_use_im_patch_token", "tokenizer_padding_side"),
    **_ignored(_WEIGHTS_TELL, "use_mm_proj", "projection_dim", "has_im_proj"),
    **_ignored(
        _TRAINING,
        "freeze_mm_mlp_adapter freeze_mm_vision_resampler ignore_index",
        "mm_projector_lr mm_tunable_parts mm_vision_tower_lr pos_skipping_range",
        "tune_mm_mlp_adapter tune_mm_vision_resampler unfreeze_mm_vision_tower",
    ),
    **_ignored(
        _VIDEO,
        "add_faster_video add_time_instruction faster_token_stride force_sample",
        "frames_upbound mm_newline_position mm_spatial_pool_mode",
        "mm_spatial_pool_out_channels mm_spatial_pool_stride",
        "video_seq_length video_token_id video_token_index",
    ),
}

# Likewise where an image is cut into tiles: they are put together in one way.
TILED: Table = {
    **_read("image_grid_pinpoints"),
    **_only("spatial_unpad", "tiles that are put together otherwise", "mm_patch_merge_type"),
    **_only(True, "rows of tokens without an end of their own", "use_image_newline_parameter"),
    **_ignored("image_grid_pinpoints tells", "image_crop_resolution", "image_split_resolution"),
}
TILES_NEED_CLIP = f"{_TILES} for another tower than CLIP's: not supported"

# What the model around a tower says of it, by kind of tower: which of its features are read, first
# of all.
LAYER = ("mm_vision_select_layer", "vision_feature_layer")
_TOKENS = ("mm_vision_select_feature", "vision_feature_select_strategy")
_ONE_BUT_LAST = _only(-2, "features of another block than the last but one", *LAYER)
FEATURES: Mapping[str, Table] = {
    "fastvithd": _ignored("this tower has one output", *LAYER, *_TOKENS),
    "clip": {
        **_ONE_BUT_LAST,
        **_only("patch", "the class token among the features", "mm_vision_select_feature"),
        **_only("default", "the class token among the features", "vision_feature_select_strategy"),
    },
    "siglip": {
        **_ONE_BUT_LAST,
        **_ignored("this tower has no class token", "mm_vision_select_feature"),
        **_only(
            "full", "features without those of the first patch", "vision_feature_select_strategy"
        ),
    },
    "qwen2_5_vl": {
        "model_type": Only(("qwen2_5_vl",), "another model around this tower"),
        **_ignored("ids of tokens around an image", "vision_start_token_id", "vision_end_token_id"),
        **_read("video_token_id"),
        **_ignored("of no token that is used", "vision_token_id"),
    },
}

# ---- preprocessor_config.json, and image_processor in processor_config.json ---------------------

PREPROCESSOR: Table = {
    **_read(
        "crop_size do_center_crop do_normalize do_pad do_rescale image_mean image_std",
        "rescale_factor size",
    ),
    **_only(True, "images that are not resized", "do_resize"),
    **_only((3, "bicubic"), _RESIZED, "resample"),
    **_only(1, "a margin that is cut off", "crop_pct"),
    **_only(False, "blue, green and red", "do_flip_channel_order"),
    **_only((), _TILES, "image_grid_pinpoints", "max_image_tiles", "max_dynamic_patch"),
    **_only(False, _TILES, "do_image_splitting", "do_pan_and_scan"),
    **_only((), _NATIVE, "max_pixels merge_size min_pixels temporal_patch_size"),
    **_only((), "images in sizes of their own", "size_divisor", "size_divisibility"),
    "image_processor_type": Not(
        {
            **_each(("LlavaNextImageProcessor LlavaNextImageProcessorFast",), _TILES),
            **_each(("LlavaOnevisionImageProcessor LlavaOnevisionImageProcessorFast",), _TILES),
            **_each(("Qwen2VLImageProcessor Qwen2VLImageProcessorFast",), _NATIVE),
            **_each(("Siglip2ImageProcessor Siglip2ImageProcessorFast",), _NATIVE),
        },
        tuple(
            f"{make}{kind}"
            for make in ("CLIP", "Siglip", "Llava", "TimmWrapper")
            for kind in ("ImageProcessor", "ImageProcessorFast", "FeatureExtractor")
        ),
    ),
    **_ignored("images are read as red, green and blue", "do_convert_rgb"),
    **_ignored("size tells", "default_to_square", "pad_size"),
    **_ignored(
        _SAVED,
        "_valid_processor_keys auto_map backend data_format device disable_grouping",
        "feature_extractor_type image_seq_length image_token input_data_format",
        "patch_size processor_class return_tensors",
    ),
}

# Of LLaVA-NeXT's, which cuts the tiles.
TILED_PREPROCESSOR: Table = {
    **PREPROCESSOR,
    **_read("image_grid_pinpoints"),
    "image_processor_type": Only(
        ("LlavaNextImageProcessor", "LlavaNextImageProcessorFast", "CLIPImageProcessor"),
        "another image processor",
    ),
}

# Of Qwen2-VL's image processor, whose `size` bounds the number of pixels.
QWEN_PREPROCESSOR: Table = {
    **PREPROCESSOR,
    **_read("max_pixels", "merge_size", "min_pixels", "patch_size"),
    **_only(2, "another number of frames under a kernel", "temporal_patch_size"),
    **_only(False, "images that are cut or padded", "do_center_crop", "do_pad"),
    **_ignored("images are not cut", "crop_size"),
    "image_processor_type": Only(
        ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast"), "another image processor"
    ),
}

PROCESSOR: Table = {
    **_ignored(_VIDEO, "video_processor", "video_token"),
    **_ignored(
        "config.json and the weights tell",
        "image_seq_length image_token num_additional_image_tokens patch_size",
        "vision_feature_select_strategy",
    ),
    **_ignored("prompts have the templates of language/prompt.py", "chat_template"),
    **_ignored(_SAVED, "auto_map", "processor_class", "tokenizer_class"),
}

# ---- tokenizer_config.json --------------------------------------------------------------------

TOKENIZER: Table = {
    **_read("added_tokens_decoder", "model_max_length"),
    **_only(False, "a special token before every text", "add_bos_token"),
    **_only(False, "a special token after every text", "add_eos_token"),
    **_only(False, "a space before every text", "add_prefix_space"),
    **_only(False, "special tokens that are cut like text", "split_special_tokens"),
    **_only(False, "text in small letters", "do_lower_case"),
    **_ignored("prompts have the templates of language/prompt.py", "chat_template"),
    **_ignored("answers keep their spaces", "clean_up_tokenization_spaces"),
    **_ignored("added_tokens_decoder tells", "additional_special_tokens", "extra_special_tokens"),
    **_ignored(
        "config.json tells the ids",
        "bos_token eos_token image_token pad_token unk_token cls_token sep_token",
        "mask_token",
    ),
    **_ignored(
        _CALL,
        "max_length pad_to_multiple_of pad_token_type_id padding padding_side stride",
        "truncation truncation_side truncation_strategy model_input_names",
        "return_token_type_ids",
    ),
    **_ignored(
        _SAVED,
        "auto_map backend errors is_local legacy name_or_path processor_class",
        "sp_model_kwargs spaces_between_special_tokens special_tokens_map_file",
        "tokenizer_class tokenizer_file use_default_system_prompt use_fast vocab_size",
        "add_special_tokens",
    ),
}

# Of Llama's and Mistral's, whose tokenizer.json tells how a text begins.
SENTENCEPIECE: Table = {
    **TOKENIZER,
    **_only(True, "no special token before a text", "add_bos_token"),
    **_ignored("tokenizer.json tells", "add_prefix_space"),
}

# ---- open_clip_config.json --------------------------------------------------------------------

OPEN_CLIP: Table = {
    "model_cfg": {
        **_read("quick_gelu"),
        "vision_cfg": {
            **_read("head_width", "image_size", "layers", "patch_size", "width"),
            "act_kwargs": _read("approximate"),
            "norm_kwargs": _read("eps"),
            **_ignored(_WEIGHTS_TELL, "mlp_ratio", "timm_model_name", "output_tokens"),
            **_ignored(_TRAINING, "patch_dropout", "timm_drop", "timm_drop_path"),
            **_ignored(
                _POOLED,
                "attn_pooler_heads attn_pooler_queries global_average_pool",
                "timm_pool timm_proj timm_proj_bias",
            ),
            **_ignored(_SAVED, "timm_model_pretrained"),
            **_only(False, "pooling by attention", "attentional_pool"),
            **_only("tok", "another pooling than the class token's", "pool_type"),
            **_only(False, "a norm after the pooling", "final_ln_after_pool"),
            **_only(False, "a tower without its first norm", "no_ln_pre"),
            **_only(False, "a norm of the pixels of a patch", "input_patchnorm"),
            **_only("learnable", "positions that are not learnt", "pos_embed_type"),
            **_only((), "scales after attention and feed-forward", "ls_init_value"),
            **_only(
                False,
                "another kind of block",
                "qk_norm scale_attn scale_attn_inner scale_fc scale_heads",
                "scaled_cosine_attn",
            ),
            **_only((), "another kind of block", "block_type"),
        },
        **_ignored("text tower", "custom_text", "multimodal_cfg", "text_cfg"),
        **_ignored(
            "of the contrastive loss, beyond the tower",
            "embed_dim init_logit_bias init_logit_scale nonscalar_logit_scale",
        ),
        **_ignored(_SAVED, "cast_dtype", "output_dict"),
    },
    "preprocess_cfg": {
        **_read("fill_color", "mean", "resize_mode", "size", "std"),
        **_only("bicubic", _RESIZED, "interpolation", instead=_BICUBIC),
        **_only("RGB", "images of other channels than red, green and blue", "mode"),
    },
    **_ignored(_SAVED, "model_name", "version"),
}
