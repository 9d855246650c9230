"""The table of settings: real files pass it, and what changes numbers is refused or named."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import DATA, LLAVA_CLIP, fastvlm, stored

from diffvis_jax.checkpoints import settings, source_config
from diffvis_jax.checkpoints.conversion_plan import Plan, make_plan
from diffvis_jax.checkpoints.formats.tensors import Tensor
from diffvis_jax.checkpoints.settings import Ignored, Not, Only, Read
from diffvis_jax.checkpoints.source_config import SourceConfig
from diffvis_jax.errors import CheckpointError

TEXT = json.loads((DATA / "vlm_tiny_config.json").read_text())
CLIP = json.loads((DATA / "clip_tiny_config.json").read_text())
DECODER = {k: v for k, v in TEXT.items() if not k.startswith(("mm_", "_", "image_"))}
SIGLIP = json.loads((DATA / "siglip_tiny_config.json").read_text())


def headers(arrays) -> dict[str, Tensor]:
    return {
        name: Tensor(name, array.shape, array.dtype, "file", lambda array=array: array)
        for name, array in arrays.items()
    }


def language(width: int) -> dict[str, np.ndarray]:
    tensors = stored("vlm_tiny_language.safetensors")
    tensors = {name: x for name, x in tensors.items() if "projector" not in name}
    return tensors | {
        "model.mm_projector.0.weight": np.zeros((64, width), np.float32),
        "model.mm_projector.0.bias": np.zeros(64, np.float32),
    }


def llava(name: str) -> dict[str, Tensor]:
    tower = {LLAVA_CLIP + key: array for key, array in stored(f"{name}.safetensors").items()}
    return headers(tower | language(64))


TENSORS = {
    "fastvlm": headers(fastvlm()),
    "llava": llava("clip_tiny"),
    "siglip": llava("siglip_tiny"),
    "clip": headers(stored("clip_tiny.safetensors")),
    "fastvithd": headers(stored("fastvit_train_form.safetensors")),
}
CONFIGS = {
    "fastvlm": TEXT,
    "llava": {"vision_config": CLIP, "text_config": DECODER, "image_aspect_ratio": "pad"},
    "siglip": {"vision_config": SIGLIP, "text_config": DECODER, "image_aspect_ratio": "pad"},
    "clip": CLIP,
    "fastvithd": {},
}


def plan(model: str, change: dict | None = None, *, vision_only: bool = False, **files) -> Plan:
    source = SourceConfig(config=CONFIGS[model] | (change or {}), **files)
    return make_plan(TENSORS[model], source, vision_only=vision_only)


def refusal(model: str, change: dict | None = None, **kwargs) -> str:
    with pytest.raises(CheckpointError) as raised:
        plan(model, change, **kwargs)
    return str(raised.value)


# ---- which features the language model reads --------------------------------------------------


@pytest.mark.parametrize(
    ("model", "change", "field"),
    [
        ("llava", {"mm_vision_select_layer": -1}, "mm_vision_select_layer is -1"),
        ("llava", {"mm_vision_select_layer": 2}, "mm_vision_select_layer is -3"),
        ("llava", {"vision_feature_layer": [-2, -3]}, "vision_feature_layer is [-2, -3]"),
        ("llava", {"vision_feature_select_strategy": "full"}, "the class token among the features"),
        ("llava", {"mm_vision_select_feature": "cls_patch"}, "only 'patch'"),
        ("siglip", {"vision_feature_layer": -1}, "vision_feature_layer is -1"),
        ("siglip", {"vision_feature_select_strategy": "default"}, "those of the first patch"),
    ],
)
def test_other_features_are_refused(model, change, field):
    message = refusal(model, change)
    assert field in message
    assert "--vision-only leaves the language model out" in message
    left_out = plan(model, change, vision_only=True).ignored
    (reason,) = {left_out[f"config.json: {name}"] for name in change}
    assert reason == "of the language model, which is left out"


@pytest.mark.parametrize(
    ("model", "change"),
    [
        ("llava", {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}),
        ("llava", {"vision_feature_layer": 3, "vision_feature_select_strategy": "default"}),
        ("llava", {"vision_feature_layer": [-2]}),
        ("siglip", {"vision_feature_layer": -2, "vision_feature_select_strategy": "full"}),
        ("siglip", {"mm_vision_select_feature": "patch"}),
        ("fastvlm", {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}),
        ("fastvlm", {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}),
    ],
)
def test_features_that_the_tower_gives(model, change):
    assert plan(model, change).language_config is not None


def test_a_siglip_without_its_last_block():
    # LLaVA-NeXT's, in the sizes of so400m, with which its tower is recognised.
    from diffvis_jax.checkpoints.keys import clip as clip_keys
    from diffvis_jax.towers.clip import CLIPConfig

    def plan_of(layers: int, **options) -> Plan:
        config = CLIPConfig(
            width=1152, layers=layers, heads=16, mlp_width=4304, size=378, class_token=False,
            patch_bias=True,
        )  # fmt: skip
        tensors = {
            LLAVA_CLIP + name: Tensor(
                name, shape, np.dtype(np.float32), "file", lambda: np.zeros(0)
            )
            for rule in clip_keys.rules(config)
            for name, shape in rule.sources.items()
        }
        source = SourceConfig(TEXT | {"mm_hidden_size": 1152, "mm_vision_tower": "siglip"})
        return make_plan(tensors | headers(language(1152)), source, **options)

    assert plan_of(27).config.layers == 27
    assert plan_of(26, vision_only=True).config.layers == 26
    with pytest.raises(CheckpointError, match="so400m without its last block"):
        plan_of(26)


def test_a_tower_of_tiles_by_itself():
    change = {"image_aspect_ratio": "anyres", "image_grid_pinpoints": [[56, 112]]}
    found = plan("llava", change, vision_only=True)
    assert (found.config.resize_mode, found.config.pinpoints) == ("squash", ((112, 56),))
    found = plan("llava", change | {"image_aspect_ratio": "anyres_max_9"}, vision_only=True)
    assert (found.config.resize_mode, found.config.pinpoints) == ("pad", ())
    assert found.ignored["config.json: image_aspect_ratio"].startswith("of the language model")


# ---- other decoders, other images -------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_type": "vipllava"}, "features of several blocks"),
        ({"model_type": "llava_next"}, "(AnyRes) for another tower than CLIP"),
        ({"model_type": "qwen2_5_vl"}, "Qwen2.5-VL"),
        ({"model_type": "granite"}, "a decoder of another family than Qwen2, Llama"),
        ({"image_aspect_ratio": "anyres_max_9"}, "images in many tiles"),
        ({"mm_projector_type": "ldpnet"}, "mm_projector_type is 'ldpnet'"),
        ({"projector_hidden_act": "relu"}, "another activation of the projector"),
        ({"mm_use_im_start_end": True}, "tokens around every image"),
        ({"s2": True}, "several sizes at once"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"use_sliding_window": True}, "attention in a sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types is"),
        ({"embedding_multiplier": 12.0}, "embedding_multiplier is 12.0"),
        ({"residual_multiplier": 0.22}, "residual_multiplier"),
        ({"attention_multiplier": 1.0}, "attention_multiplier"),
        ({"logits_scaling": 8.0}, "logits_scaling"),
        ({"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 256}, "(3 problems)"),
        ({"logit_scale": 0.0625}, "logit_scale"),
        ({"final_logit_softcapping": 30.0}, "scores that are capped"),
        ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar"),
        ({"partial_rotary_factor": 0.5}, "of some of the channels"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "factor"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}, "mrope"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "rope_parameters.full_at"),
        ({"no_rope_layers": [1, 1, 0]}, "layers without rotary embeddings"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "quantised"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings must be a number"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings must be true or false"),
        ({"eos_token_id": "x"}, "eos_token_id must be an id"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps must be above 0"),
        ({"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 6.0}, "rope_theta is 6, and 5 for"),
    ],
)
def test_other_models_are_refused(change, expected):
    assert expected in refusal("fastvlm", change)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"preprocessor": {"do_resize": False}}, "images that are not resized"),
        ({"preprocessor": {"resample": 2}}, "resample is 2, which means resizing by another rule"),
        ({"preprocessor": {"crop_pct": 0.9}}, "a margin that is cut off"),
        ({"preprocessor": {"do_flip_channel_order": True}}, "blue, green and red"),
        ({"preprocessor": {"do_image_splitting": True}}, "AnyRes"),
        ({"preprocessor": {"image_processor_type": "LlavaNextImageProcessor"}}, "AnyRes"),
        ({"preprocessor": {"image_processor_type": "Qwen2VLImageProcessor"}}, "Qwen2-VL"),
        ({"processor": {"image_processor": {"resample": 0}}}, "image_processor.resample is 0"),
        (
            {"preprocessor": {"do_center_crop": True, "crop_size": 56, "size": 64}},
            "resized to 64 pixels and cut to 56",
        ),
        ({"preprocessor": {"size": 64}}, "images of 64 pixels, the tower's have 56"),
        ({"preprocessor": {"do_normalize": "no"}}, "do_normalize must be true or false"),
        ({"preprocessor": {"image_mean": 0, "image_std": [1, 0, 1]}}, "image_std must be above 0"),
        ({"open_clip": {"model_cfg": {"vision_cfg": {"pool_type": "avg"}}}}, "another pooling"),
        ({"preprocessor": {"image_mean": [0, 0, 0]}}, "image_mean and image_std belong together"),
        (
            {
                "preprocessor": {"rescale_factor": 0.1},
                "processor": {"image_processor": {"rescale_factor": 0.2}},
            },
            "rescale_factor is 0.1, processor_config.json says 0.2",
        ),
    ],
)  # fmt: skip
def test_images_that_are_prepared_otherwise_are_refused(files, expected):
    assert expected in refusal("clip", **files)


def test_tokens_that_every_text_has_are_refused():
    tokenizer = {"add_bos_token": True, "model_max_length": 100}
    message = refusal("fastvlm", tokenizer=tokenizer)
    assert "tokenizer_config.json: add_bos_token is True" in message
    assert plan("fastvlm", tokenizer=tokenizer, vision_only=True).language_config is None


def test_the_tower_of_a_model_that_is_not_known_is_said_to_be_what_it_is():
    tensors = headers({"visual.patch_embed.proj.weight": np.zeros((2, 3, 2, 2, 2), np.float32)})
    source = SourceConfig({"model_type": "qwen2_5_vl", "vocab_size": 2})
    with pytest.raises(CheckpointError, match=r"model_type is 'qwen2_5_vl', which means images in"):
        make_plan(tensors, source)


# ---- numbers that are supported ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "files", "expected"),
    [
        ({"tokenizer_model_max_length": 10**30}, {}, 4096),
        ({"tokenizer_model_max_length": 1e30}, {}, 4096),
        ({"tokenizer_model_max_length": 2048}, {}, 2048),
        ({"tokenizer_model_max_length": 8192}, {}, 4096),
        ({}, {"tokenizer": {"model_max_length": 512}}, 512),
        ({"max_position_embeddings": None}, {}, 8192),
    ],
)
def test_the_context_is_the_smallest_that_is_told(change, files, expected):
    config = plan("fastvlm", change, **files).language_config
    assert config is not None
    assert config.max_length == expected


@pytest.mark.parametrize(
    ("processor", "mean", "std"),
    [
        ({"rescale_factor": 1 / 255}, 0.5, 0.25),
        ({"rescale_factor": 0.00392157}, 0.5, 0.25),
        ({"rescale_factor": 1 / 127.5}, 0.25, 0.125),
        ({"do_rescale": False, "rescale_factor": 1 / 255}, 0.5 / 255, 0.25 / 255),
        ({"do_normalize": False}, 0, 1),
        ({"do_normalize": False, "rescale_factor": 1 / 127.5}, 0, 0.5),
    ],
)
@pytest.mark.parametrize("file", ["preprocessor", "processor"])
def test_pixels_are_scaled_as_the_files_say(processor, mean, std, file):
    images = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3} | processor
    files = {file: images if file == "preprocessor" else {"image_processor": images}}
    config = plan("clip", **files).config
    np.testing.assert_allclose(config.mean, [mean] * 3)
    np.testing.assert_allclose(config.std, [std] * 3)


def test_ids_below_zero_stand_for_none():
    change = {"pad_token_id": -1, "bos_token_id": 0, "eos_token_id": [3, 4], "image_token_id": -200}
    config = plan("fastvlm", change, generation={"eos_token_id": [5, 3]}).language_config
    assert config is not None
    assert (config.pad_id, config.bos_id, config.image_token_id) == (None, 0, None)
    assert config.eos_ids == (5, 3, 4)


def test_open_clip_tells_epsilon_and_activation():
    vision = {"norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}
    config = plan("clip", open_clip={"model_cfg": {"vision_cfg": vision}}).config
    assert config.norm_epsilon == 1e-5  # config.json comes first
    source = SourceConfig(open_clip={"model_cfg": {"vision_cfg": vision}})
    config = make_plan(TENSORS["clip"], source).config
    assert (config.norm_epsilon, config.activation) == (1e-6, "gelu_pytorch_tanh")


# ---- real files -------------------------------------------------------------------------------

RELEASED_FASTVLM = {
    "architectures": ["LlavaQwen2ForCausalLM"], "attention_dropout": 0.0, "auto_map": {"x": "y"},
    "bos_token_id": 151643, "eos_token_id": 151645, "freeze_mm_mlp_adapter": False,
    "hidden_act": "silu", "image_aspect_ratio": "pad", "image_grid_pinpoints": None,
    "initializer_range": 0.02, "max_window_layers": 24, "mm_patch_merge_type": "flat",
    "mm_projector_lr": None, "mm_projector_type": "mlp2x_gelu", "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False, "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
    "sliding_window": 32768, "tokenizer_model_max_length": 8192, "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16", "transformers_version": "4.39.3", "tune_mm_mlp_adapter": False,
    "unfreeze_mm_vision_tower": True, "use_cache": True, "use_mm_proj": True,
    "use_sliding_window": False, "vision_config": {}, "image_token_index": 151646,
}  # fmt: skip
QWEN_TOKENIZER = {
    "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": {},
    "additional_special_tokens": ["<|im_start|>"], "bos_token": None, "chat_template": "x",
    "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
    "model_max_length": 8192, "pad_token": "<|endoftext|>", "padding_side": "right",
    "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
}  # fmt: skip
CLIP_PROCESSOR = {
    "crop_size": {"height": 56, "width": 56}, "do_center_crop": True, "do_convert_rgb": True,
    "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "CLIPImageProcessor", "image_std": [0.5, 0.5, 0.5], "resample": 3,
    "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 56},
}  # fmt: skip
# transformers wrote all defaults into the sections of older files.
OLD_DEFAULTS = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None,
    "bad_words_ids": None, "chunk_size_feed_forward": 0, "diversity_penalty": 0.0,
    "do_sample": False, "dropout": 0.0, "early_stopping": False, "id2label": {"0": "LABEL_0"},
    "initializer_factor": 1.0, "is_decoder": False, "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0}, "length_penalty": 1.0, "max_length": 20, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_scores": False, "pruned_heads": {}, "return_dict": True,
    "repetition_penalty": 1.0, "temperature": 1.0, "tie_encoder_decoder": False, "top_k": 50,
    "tie_word_embeddings": True, "top_p": 1.0, "torchscript": False, "typical_p": 1.0,
    "use_bfloat16": False, "transformers_version": "4.21.3", "attention_dropout": 0.0,
}  # fmt: skip
NATIVE_FASTVLM = {
    "image_seq_length": 16, "image_token_index": 511, "model_type": "fast_vlm",
    "multimodal_projector_bias": True, "projector_hidden_act": "gelu",
    "text_config": DECODER | {
        "layer_types": ["full_attention"] * 3, "max_window_layers": 28, "model_type": "qwen2",
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "sliding_window": None,
        "use_sliding_window": False, "vocab_size": 512, "attention_dropout": 0.0,
    },
    "tie_word_embeddings": False, "transformers_version": "5.24.0",
    "vision_config": {
        "architecture": "fastvit_x", "do_pooling": True, "hidden_size": 512, "num_classes": 0,
        "initializer_range": 0.02, "label_names": [], "model_args": {"inference_mode": True},
        "model_type": "timm_wrapper",
    },
    "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
}  # fmt: skip
GENERATION = {"do_sample": True, "eos_token_id": [1, 2], "pad_token_id": 1, "top_p": 0.8}
GENERATION |= {"bos_token_id": 1, "repetition_penalty": 1.1, "transformers_version": "4.39.3"}
MOBILECLIP = {
    "model_cfg": {
        "embed_dim": 768,
        "vision_cfg": {
            "timm_model_name": "fastvit_mci3", "timm_model_pretrained": False, "timm_pool": "avg",
            "timm_proj": None, "timm_drop": 0.0, "timm_drop_path": 0.0, "image_size": 256,
        },
        "text_cfg": {"context_length": 77, "no_causal_mask": True},
        "custom_text": True,
    },
    "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear"},
}  # fmt: skip
TIMM = {
    "architecture": "fastvit_x", "num_classes": 0, "num_features": 512, "global_pool": "avg",
    "pretrained_cfg": {
        "tag": "x", "custom_load": False, "input_size": [3, 256, 256], "fixed_input_size": False,
        "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center", "license": "x",
        "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "num_classes": 768, "first_conv": "x",
        "pool_size": [8, 8], "classifier": "head.fc",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "config", "files"),
    [
        (
            "fastvlm",
            {k: v for k, v in TEXT.items() if k != "_reduced_vision"} | RELEASED_FASTVLM,
            {"tokenizer": QWEN_TOKENIZER, "generation": GENERATION},
        ),
        (
            "fastvlm",
            NATIVE_FASTVLM,
            {"processor": {"processor_class": "LlavaProcessor", "patch_size": 64}},
        ),
        ("clip", CLIP | OLD_DEFAULTS, {"preprocessor": CLIP_PROCESSOR}),
        (
            "clip",
            {
                "vision_config": CLIP | OLD_DEFAULTS | {"model_type": "clip_vision_model"},
                "text_config": OLD_DEFAULTS | {"hidden_size": 8, "projection_dim": 8},
                "text_config_dict": None,
                "logit_scale_init_value": 2.6592,
                "projection_dim": 32,
                "model_type": "clip",
            },
            {"processor": {"image_processor": CLIP_PROCESSOR}},
        ),
        (
            "siglip",
            CONFIGS["siglip"]
            | {"vision_config": SIGLIP | {"vision_use_head": True, "num_channels": 3}},
            {},
        ),
        ("fastvithd", {}, {"open_clip": MOBILECLIP}),
        ("fastvithd", TIMM, {}),
    ],
    ids=["released", "native", "clip tower", "clip", "llava with siglip", "mobileclip2", "timm"],
)
def test_real_files_have_no_unknown_fields(model, config, files):
    found = make_plan(TENSORS[model], SourceConfig(config=config, **files))
    assert not [note for note in found.notes if "not known" in note]


@pytest.mark.parametrize(
    "files",
    [
        {"open_clip": {"preprocess_cfg": {"interpolation": "bilinear"}}},
        {"config": {"pretrained_cfg": {"interpolation": "bilinear"}}},
    ],
)
def test_the_resizing_of_mobileclip_is_noted(files):
    (note,) = (
        n for n in make_plan(TENSORS["fastvithd"], SourceConfig(**files)).notes if "bil" in n
    )
    assert "interpolation is 'bilinear', which means resizing by another rule than bicubic" in note
    assert note.endswith("images are resized by bicubic all the same")


def test_every_field_is_read_named_or_refused():
    change = {"attention_dropout": 0.1, "some_factor": 3, "another": None, "empty": {}}
    found = plan("llava", change | {"text_config": DECODER | {"odd": 1}}, generation={"top_k": 3})
    assert found.ignored["config.json: attention_dropout"] == "of training"
    assert found.ignored["generation_config.json: top_k"] == "an option of a call, not of a model"
    (note,) = (note for note in found.notes if "not known" in note)
    assert note.endswith("without effect: text_config.odd, some_factor")


@pytest.mark.parametrize(
    ("change", "files", "expected"),
    [
        ({"model_type": "newer"}, {}, "model_type is 'newer': taken for 'qwen2'"),
        (
            {},
            {"preprocessor": {"image_processor_type": "NewImageProcessor"}},
            "image_processor_type is 'NewImageProcessor': taken for 'CLIPImageProcessor'",
        ),
    ],
)
def test_kinds_that_nobody_has_heard_of_are_noted(change, files, expected):
    assert any(expected in note for note in plan("fastvlm", change, **files).notes)


def test_the_code_reads_only_what_the_table_says_is_read():
    def rules(table):
        for name, rule in table.items():
            if isinstance(rule, Read | Ignored | Only | Not):
                yield name, rule
            else:
                yield name, Read()
                yield from rules(rule)

    known = {
        name
        for table in (
            settings.VISION_ALONE, settings.LANGUAGE, settings.WRAPPER, settings.PREPROCESSOR,
            settings.GENERATION, settings.TOKENIZER, settings.OPEN_CLIP, settings.QWEN_VISION,
            settings.QWEN_PREPROCESSOR, settings.QWEN_LANGUAGE, settings.QWEN_GENERATION,
            settings.MISTRAL, settings.FEATURES["qwen2_5_vl"],
        )
        for name, rule in rules(table)
        if isinstance(rule, Read)
    } | {"pretrained_cfg"}  # fmt: skip
    code = Path(source_config.__file__).read_text()
    kinds = "whole|side|number|positive|flag|text|ids|indices|token|colors"
    read = set(re.findall(rf'fields\.(?:{kinds})\(\s*[^"]*?"(\w+)"', code))
    assert len(read) > 20
    assert read <= known
