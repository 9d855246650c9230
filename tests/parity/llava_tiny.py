"""Tiny LLaVAs of transformers with random weights, the same for both versions.

`python tests/parity/llava_tiny.py` writes tests/data/llava_tiny.*: the weights in the layout of
LLaVA's own releases, and what transformers makes of them. `test_parity_llava.py` holds the two
together.
"""

from pathlib import Path

import numpy as np
import torch
import transformers

DATA = Path(__file__).parent.parent / "data"
SIZE, GRID = 32, 4  # pixels and tokens along a side of the tower's input
VOCABULARY, IMAGE_ID = 120, 119
PINPOINTS = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "image_size": SIZE,
    "patch_size": SIZE // GRID,
    "hidden_act": "quick_gelu",
    "projection_dim": 32,
}
# Pictures (height, width) of LLaVA-1.6: tiles side by side, above each other, two by two, one row
# and one column of three; and a small one.
SIZES = {"wide": (30, 70), "high": (71, 33), "square": (90, 101), "row": (20, 96), "small": (9, 7)}


def make(version: str, seed: int = 0):
    """A model of version "1.5", with Llama, or "1.6", with Mistral."""
    common = {"vision_config": VISION, "image_token_index": IMAGE_ID, "tie_word_embeddings": False}
    if version == "1.5":
        config = transformers.LlavaConfig(
            text_config={**TEXT, "model_type": "llama"}, image_seq_length=GRID**2, **common
        )
        model = transformers.LlavaForConditionalGeneration(config)
    else:
        text = {**TEXT, "model_type": "mistral", "sliding_window": None}
        config = transformers.LlavaNextConfig(
            text_config=text, image_grid_pinpoints=PINPOINTS, **common
        )
        model = transformers.LlavaNextForConditionalGeneration(config)
    with torch.no_grad():
        for name, x in model.named_parameters():
            rng = np.random.default_rng([seed, *name.encode()])
            noise = torch.from_numpy(rng.standard_normal(x.shape).astype(np.float32))
            if x.ndim > 1:
                x.copy_(noise * x[0].numel() ** -0.5)
            elif name.endswith(("bias", "newline", "class_embedding")):
                x.copy_(0.2 * noise)
            else:
                x.copy_(1 + 0.1 * noise)
    return model.eval()


def released(name: str) -> str:
    """A name in transformers' model -> LLaVA's own."""
    if name.startswith("model.vision_tower."):
        inner = name.removeprefix("model.vision_tower.").removeprefix("vision_model.")
        return f"model.vision_tower.vision_tower.vision_model.{inner}"
    for number in (1, 2):
        theirs = f"multi_modal_projector.linear_{number}"
        name = name.replace(theirs, f"mm_projector.{2 * number - 2}")
    return name.replace("language_model.", "")


def pixels(frames: np.ndarray) -> torch.Tensor:
    """`uint8 [..., H, W, 3]` as the towers of transformers take them."""
    from diffvis_jax.towers.clip import OPENAI_MEAN, OPENAI_STD

    x = (frames / np.float32(255) - np.float32(OPENAI_MEAN)) / np.float32(OPENAI_STD)
    return torch.from_numpy(np.moveaxis(x, -1, -3).astype(np.float32))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """`uint8 [height, width, 3]`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def prompt(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids with -200 for an image, and with an id for each of its tokens."""
    rng = np.random.default_rng(1)
    before, after = rng.integers(3, IMAGE_ID, 5), rng.integers(3, IMAGE_ID, 7)
    ours = np.concatenate([[1], before, [-200], after])
    theirs = np.concatenate([[1], before, [IMAGE_ID] * tokens, after])
    return ours.astype(np.int32), theirs.astype(np.int64)


def answer(model, ids: np.ndarray, new: int = 12, **images) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[L, V]` and the ids of the greedy answer."""
    given = {
        "input_ids": torch.from_numpy(ids)[None],
        "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        **images,
    }
    with torch.inference_mode():
        logits = model(**given).logits[0].numpy()
        greedy = model.generate(**given, do_sample=False, max_new_tokens=new, min_new_tokens=new)
    return logits, greedy[0, len(ids) :].numpy()


def tiled(model, name: str) -> tuple[np.ndarray, np.ndarray, dict[str, torch.Tensor]]:
    """A picture, its frames uint8 `[1 + tiles, S, S, 3]`, and transformers' inputs."""
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_grid_pinpoints=model.config.image_grid_pinpoints,
        do_rescale=False,
        do_normalize=False,
    )
    image = picture(*SIZES[name])
    given = processor(image, return_tensors="np")
    frames = np.moveaxis(given["pixel_values"][0], 1, -1).astype(np.uint8)
    sizes = torch.from_numpy(np.asarray(given["image_sizes"]))
    return image, frames, {"pixel_values": pixels(frames)[None], "image_sizes": sizes}


def packed(model, given: dict[str, torch.Tensor]) -> np.ndarray:
    """Features of an image as the prompt shows them, float32 `[M, D]`."""
    with torch.inference_mode():
        found = model.get_image_features(**given)
    return getattr(found, "pooler_output", found)[0].numpy()


def main() -> None:
    from safetensors.torch import save_file

    new = make("1.6")
    state = {released(k): v.contiguous() for k, v in new.state_dict().items()}
    state = {k: v for k, v in state.items() if v.is_floating_point()}
    save_file(state, DATA / "llava_tiny.safetensors")
    arrays: dict[str, np.ndarray] = {}
    ours, theirs = prompt(GRID**2)
    frame = picture(SIZE, SIZE)
    logits, greedy = answer(make("1.5"), theirs, pixel_values=pixels(frame[None]))
    arrays |= {"frame": frame, "input_ids": ours, "logits": logits, "greedy": greedy}
    for name in SIZES:
        image, frames, given = tiled(new, name)
        features = packed(new, given)
        logits, greedy = answer(new, prompt(len(features))[1], **given)
        # Logits where the image is are as many as its tokens: those behind it tell as much.
        arrays |= {
            f"{name}_image": image,
            f"{name}_frames": frames,
            f"{name}_features": features,
            f"{name}_logits": logits[-8:],
            f"{name}_greedy": greedy,
        }
    np.savez_compressed(DATA / "llava_tiny.npz", **arrays)


if __name__ == "__main__":
    main()
