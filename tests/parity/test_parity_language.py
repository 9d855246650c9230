"""Qwen2 and the whole FastVLM against live transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from tiny import deviation

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.format import unflatten
from diffvis_jax.checkpoints.keys import language as language_keys
from diffvis_jax.checkpoints.torch_reference import pixels_to_torch
from diffvis_jax.language import generate
from diffvis_jax.language.answer import answers
from diffvis_jax.language.decoder import embed
from diffvis_jax.language.differential_prefill import jit_prefill_fresh, jit_prefill_step
from diffvis_jax.language.kv_cache import init_kv_cache
from diffvis_jax.language.prefill_policy import PrefillPolicy
from diffvis_jax.language.prompt import build_prompt, tokenize
from diffvis_jax.language.prompt_cache import Prompt, init_prompt_cache
from diffvis_jax.towers.init import cast_params

pytestmark = pytest.mark.parity

TOLERANCE = 1e-5  # of the largest value
VOCABULARY, LENGTH = 120, 27
IMAGE_ID = 119  # transformers' placeholder, one for every image token

# FastVLM's decoders in small: 7 heads to one as in 0.5B and 7B, the latter's head not tied.
SHAPES = {
    "0.5b": {"heads": 7, "kv_heads": 1, "head_width": 8, "tied": True},
    "7b": {"heads": 7, "kv_heads": 1, "head_width": 16, "tied": False},
    "grouped": {"heads": 8, "kv_heads": 2, "head_width": 4, "tied": False},
}


def config_of(name):
    shape = SHAPES[name]
    return dv.DecoderConfig(
        vocabulary=VOCABULARY,
        width=shape["heads"] * shape["head_width"],
        layers=3,
        mlp_width=72,
        projector_layers=0,
        projector_input=shape["heads"] * shape["head_width"],
        eos_ids=(5,),
        pad_id=0,
        max_length=512,
        **shape,
    )


def settings(config):
    return {
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.norm_epsilon,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": config.tied,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 5,
        "pad_token_id": 0,
    }


def randomise(model, seed=0):
    """Weights of unit gain; biases and norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, x in model.named_parameters():
            noise = torch.randn(x.shape, generator=generator)
            if x.ndim > 1 and "gamma" not in name:
                x.copy_(noise * x[0].numel() ** -0.5)
            elif name.endswith("bias"):
                x.copy_(0.2 * noise)
            else:
                x.copy_(1 + 0.1 * noise)
        for name, x in model.named_buffers():
            if name.endswith("running_var"):
                x.copy_(0.5 + torch.rand(x.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module", params=SHAPES)
def pair(request):
    """transformers' Qwen2 with random weights, and our config and parameters."""
    config = config_of(request.param)
    theirs = randomise(
        transformers.Qwen2ForCausalLM(
            transformers.Qwen2Config(**settings(config), attn_implementation="eager")
        )
    )
    state = {language_keys.canonical(k): v.numpy() for k, v in theirs.state_dict().items()}
    leaves = {}
    for rule in language_keys.rules(config):
        built = rule.build(state)
        for (path, shape), array in zip(rule.targets.items(), built, strict=True):
            assert array.shape == shape
            leaves[path] = jnp.asarray(np.ascontiguousarray(array))
    return theirs, config, unflatten(leaves)


def prompt_ids(seed=0):
    return np.random.default_rng(seed).integers(6, IMAGE_ID, LENGTH)


def test_logits(pair):
    theirs, config, params = pair
    ids = prompt_ids()
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(ids)[None]).logits.numpy()
    x = embed(params, jnp.asarray(ids)[None])
    found = generate.jit_all_logits(params, x, config=config)
    assert deviation(found, expected) < TOLERANCE


def test_attention_of_the_last_position(pair):
    theirs, config, params = pair
    with torch.inference_mode():
        output = theirs(torch.from_numpy(prompt_ids())[None], output_attentions=True)
    expected = np.stack([layer[:, :, -1].numpy() for layer in output.attentions], axis=1)
    x = jnp.pad(embed(params, jnp.asarray(prompt_ids())[None]), ((0, 0), (0, 5), (0, 0)))
    cache = init_kv_cache(config, 1, 40)
    length = jnp.array([LENGTH], jnp.int32)
    _, _, found = generate.jit_prefill(params, cache, x, length, config=config, watch=True)
    assert deviation(found[..., :LENGTH], expected) < TOLERANCE
    assert not found[..., LENGTH:].any()


def ours(pair, **options):
    _, config, params = pair
    x = jnp.pad(embed(params, jnp.asarray(prompt_ids())[None]), ((0, 0), (0, 5), (0, 0)))
    cache = init_kv_cache(config, 1, 40 + 64)
    length = jnp.array([LENGTH], jnp.int32)
    logits, cache, _ = generate.jit_prefill(params, cache, x, length, config=config)
    options = dv.AnswerOptions(**options)
    ids = prompt_ids().astype(np.int32)[None]
    return answers(params, logits, cache, options, config=config, prompt=ids)[0][0].tolist()


def expected_ids(pair, **options):
    ids = torch.from_numpy(prompt_ids())[None]
    with torch.inference_mode():
        found = pair[0].generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, **options
        )
    return found[0, LENGTH:].tolist()


def test_greedy(pair):
    assert ours(pair, max_new_tokens=20) == expected_ids(pair, max_new_tokens=20)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("penalty", [0.8, 1.05, 1.6])
def test_repetition_penalty(pair, beams, penalty):
    options = {"max_new_tokens": 20, "num_beams": beams, "repetition_penalty": penalty}
    found = ours(pair, **options)
    assert found == expected_ids(pair, **options)
    if penalty > 1.5:  # which is no accident
        assert found != ours(pair, **(options | {"repetition_penalty": 1.0}))


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0])
def test_beam_search(pair, beams, penalty):
    """Stop ids are common enough to end some beams early."""
    config = pair[1]
    likely = expected_ids(pair, max_new_tokens=8)[4]
    stops = [5, likely]
    options = {"max_new_tokens": 12, "num_beams": beams, "length_penalty": penalty}
    expected = expected_ids(pair, **options, eos_token_id=stops)
    while expected and expected[-1] == config.pad_id:
        expected.pop()
    assert ours(pair, **options, stop_ids=stops) == expected


def test_differential_prefill_equals_transformers(pair):
    theirs, config, params = pair
    padded = 32
    cache = init_prompt_cache(config, 1, padded, 64)
    ids, policy = prompt_ids(), PrefillPolicy.exact()
    for t in range(4):
        ids = ids.copy()
        ids[3 + 7 * t] = 6 + t
        x = jnp.pad(embed(params, jnp.asarray(ids)[None]), ((0, 0), (0, padded - LENGTH), (0, 0)))
        prompt = Prompt(
            embeddings=x, image=jnp.zeros((1, padded), bool), length=jnp.array([LENGTH], jnp.int32)
        )
        if t:
            cache, report = jit_prefill_step(params, cache, prompt, policy, config=config)
            assert report.prefilled.tolist() == [LENGTH - 3 - 7 * t]
        else:
            cache, _ = jit_prefill_fresh(params, cache, prompt, config=config)
        with torch.inference_mode():
            expected = theirs(torch.from_numpy(ids)[None]).logits[:, -1].numpy()
        assert deviation(cache.logits, expected) < TOLERANCE


def test_bfloat16_is_as_near_as_pytorchs(pair):
    theirs, config, params = pair
    ids = torch.from_numpy(prompt_ids())[None]
    with torch.inference_mode():
        exact = theirs(ids).logits.numpy()
        rounded = theirs.to(torch.bfloat16)(ids).logits.float().numpy()
        theirs.to(torch.float32)
    config = dataclasses.replace(config, dtype="bfloat16")
    params = cast_params(params, "bfloat16")
    x = embed(params, jnp.asarray(prompt_ids())[None])
    found = generate.jit_all_logits(params, x, config=config)
    assert deviation(found, exact) < 1.5 * deviation(rounded, exact)


# ---- the whole model --------------------------------------------------------------------------

SIZE = 192


@pytest.fixture(scope="module")
def fastvlm(tmp_path_factory):
    """transformers' FastVLM with random weights, saved by it and converted by us."""
    import timm
    from transformers.models.timm_wrapper import configuration_timm_wrapper as configuration
    from transformers.models.timm_wrapper import modeling_timm_wrapper as modeling

    # Without torchvision transformers takes timm for missing; the tower does not need it.
    patch = pytest.MonkeyPatch()
    patch.setattr(modeling, "timm", timm, raising=False)
    patch.setattr(modeling, "requires_backends", lambda *_: None)
    patch.setattr(configuration, "requires_backends", lambda *_: None)
    text = config_of("grouped")
    config = transformers.FastVlmConfig(
        vision_config={
            "model_type": "timm_wrapper",
            "architecture": "fastvit_mci3",
            "hidden_size": 128,
            "num_classes": 0,
            "label_names": [],
            "model_args": {
                "inference_mode": True,
                "layers": [1, 2, 1, 1, 1],
                "embed_dims": [8, 16, 32, 64, 64],
            },
        },
        text_config={"model_type": "qwen2", **settings(text)},
        image_token_index=IMAGE_ID,
        image_seq_length=(SIZE // 64) ** 2,
        tie_word_embeddings=False,
    )
    model = randomise(transformers.FastVlmForConditionalGeneration(config))
    base = tmp_path_factory.mktemp("fastvlm")
    model.save_pretrained(base / "source")
    patch.undo()
    return model, dv.load(convert(str(base / "source"), base / "out", say=lambda *_: None))


def both_prompts(images):
    """Our ids, with -200 for an image, and theirs, with an id for each of its tokens."""
    rng = np.random.default_rng(1)
    pieces = [rng.integers(6, IMAGE_ID, n) for n in (4, *[6] * images)]
    mine, theirs = [pieces[0]], [pieces[0]]
    for piece in pieces[1:]:
        mine += [[-200], piece]
        theirs += [[IMAGE_ID] * (SIZE // 64) ** 2, piece]
    return np.concatenate(mine).astype(int), np.concatenate(theirs).astype(int)


@pytest.mark.parametrize("images", [1, 2])
def test_fastvlm(fastvlm, images):
    theirs, model = fastvlm
    assert model.config.size == SIZE
    frames = np.random.default_rng(0).integers(0, 256, (images, SIZE, SIZE, 3), np.uint8)
    mine, other = both_prompts(images)
    given = {
        "input_ids": torch.from_numpy(other)[None],
        "attention_mask": torch.ones(1, len(other), dtype=torch.long),
        "pixel_values": pixels_to_torch(frames, model.config),
    }
    with torch.inference_mode():
        expected = theirs(**given).logits.numpy()
        greedy = theirs.generate(**given, do_sample=False, max_new_tokens=10)
    assert deviation(dv.logits(model, frames, mine), expected) < TOLERANCE
    found = dv.generate_ids(model, frames, mine, 10)
    assert found.tolist() == greedy[0, len(other) :].tolist()


def test_differential_frames_give_transformers_text(fastvlm):
    """Encoder and prefill both differential and exact; every frame in full by transformers."""
    theirs, model = fastvlm
    encoder = dv.DifferentialVisionEncoder(model, dv.Policy.exact())
    options = dv.AnswerOptions(max_new_tokens=8)
    session = dv.PromptSession(model.language, options=options)
    frame = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    mine, other = both_prompts(1)
    for t in range(3):
        frame = frame.copy()
        frame[:, 150 : 150 + t * 9, 100:180] ^= 77
        given = {
            "input_ids": torch.from_numpy(other)[None],
            "attention_mask": torch.ones(1, len(other), dtype=torch.long),
            "pixel_values": pixels_to_torch(frame, model.config),
        }
        with torch.inference_mode():
            expected = theirs(**given).logits[0, -1].numpy()
            greedy = theirs.generate(**given, do_sample=False, max_new_tokens=8)
        prefilled = session.prefill(encoder.encode(frame), mine)
        assert deviation(prefilled.logits, expected) < TOLERANCE
        assert session.generate().tolist() == greedy[0, len(other) :].tolist()
    assert jax.device_get(prefilled.logits).shape == (VOCABULARY,)


# ---- Qwen2.5-VL -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(script, tmp_path_factory):
    """A checkpoint as it is released, in transformers and converted by us."""
    base = tmp_path_factory.mktemp("qwen")
    source = script("make_random_checkpoint").make(base / "source", "tiny", 0, "qwen2_5_vl")
    theirs = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager"
    )
    return theirs.eval(), dv.load(convert(str(source), base / "out", say=lambda *_: None))


def rows_of_patches(frame, config):
    """What the processor makes of a frame `[H, W, 3]`: the patches of a token side by side."""
    x = pixels_to_torch(frame[None], config)[0].numpy()
    p, m = config.patch, config.merge
    rows, columns = (side // (p * m) for side in frame.shape[:2])
    x = x.reshape(3, rows, m, p, columns, m, p).transpose(1, 4, 2, 5, 0, 3, 6)
    x = np.repeat(x[..., None, :, :], 2, axis=-3)  # the same frame twice
    grid = (1, rows * m, columns * m)
    return torch.from_numpy(x.reshape(rows * columns * m * m, -1)), grid


@pytest.mark.parametrize("penalty", [None, 1.0])  # None: as generation_config.json says
@pytest.mark.parametrize("sizes", [[(112, 140)], [(56, 84), (140, 112)]])
def test_qwen_2_5_vl(qwen, sizes, penalty):
    """A stock `generate`, from the template's text: positions, penalty and stop ids are its own."""
    theirs, model = qwen
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    text = build_prompt("what is it", conversation="qwen_2_5_vl", images=len(sizes))
    ids = tokenize(text, model.language.tokenizer)
    places = iter(rows_of_patches(frame, model.config) for frame in frames)
    pixels, grids, expanded = [], [], []
    for i in ids.tolist():
        if i == -200:
            rows, grid = next(places)
            pixels.append(rows)
            grids.append(grid)
            expanded += [model.language.config.image_token_id] * (len(rows) // 4)
        else:
            expanded.append(i)
    whole = torch.tensor(expanded)[None]
    given = {
        "input_ids": whole,
        "attention_mask": torch.ones_like(whole),
        "mm_token_type_ids": (whole == model.language.config.image_token_id).long(),
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.tensor(grids),
    }
    theirs.model.rope_deltas = None
    chosen = {} if penalty is None else {"repetition_penalty": penalty}
    with torch.inference_mode():
        expected = theirs.generate(**given, do_sample=False, max_new_tokens=16, **chosen)
    expected = expected[0, len(expanded) :].tolist()
    for prompt in (ids, expanded):
        found = dv.generate_ids(model, frames, prompt, 16, repetition_penalty=penalty)
        assert found.tolist() == expected
    if penalty is None:
        assert model.language.config.repetition_penalty == 1.05
        assert theirs.generation_config.repetition_penalty == pytest.approx(1.05)
