"""Random checkpoints in the released layout go the whole way: convert, load, ask."""

import json

import numpy as np
import pytest
from PIL import Image

import diffvis_jax as dv
from diffvis_jax.checkpoints.convert import convert
from diffvis_jax.checkpoints.formats.open import open_checkpoint
from diffvis_jax.language.prompt import build_prompt, tokenize


@pytest.fixture(scope="module")
def checkpoint(script, tmp_path_factory):
    directory = tmp_path_factory.mktemp("random") / "small"
    return script("make_random_checkpoint").make(directory, "small", seed=0)


@pytest.fixture(scope="module")
def converted(checkpoint, tmp_path_factory):
    return convert(str(checkpoint), tmp_path_factory.mktemp("out") / "out", say=lambda *_: None)


@pytest.mark.slow
def test_it_is_converted_and_asked(converted):
    model = dv.load(converted)
    language = model.language
    assert language.config.tied  # lm_head is in the file, and is the embedding
    assert language.config.eos_ids == (702, 700)
    tokenizer = language.tokenizer
    assert len(tokenizer) == 703
    ids = tokenize(build_prompt("What are these?"), tokenizer)
    frame = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    logits = dv.logits(model, frame, ids)
    assert logits.shape == (1, len(ids) - 1 + 16, 2048)
    assert 0.1 < float(logits.std()) < 10
    other = dv.logits(model, 255 - frame, ids)
    assert float(abs(logits - other)[0, -1].max()) > 1e-3  # the picture matters
    options = dv.AnswerOptions(max_new_tokens=8, temperature=1.0, vocabulary=len(tokenizer))
    answer = list(dv.stream_ids(model, frame, ids, options))
    assert tokenizer.decode(answer)


def test_the_sizes_are_those_of_the_released_models(script):
    module = script("make_random_checkpoint")
    counts = {}
    for size, (tower, language) in module.SIZES.items():
        table = module.entries(tower, language)
        names = [entry.name for entry in table]
        assert len(names) == len(set(names))
        decoder = [e for e in table if "vision_tower" not in e.name and "mm_" not in e.name]
        counts[size] = sum(e.size for e in decoder)
        if language.tied:
            counts[size] -= language.vocabulary * language.width
    assert counts["0.5b"] == 494_032_768
    assert counts["1.5b"] == 1_543_714_304
    assert counts["7b"] == 7_615_616_512


def test_the_largest_qwen_2_5_vl_is_the_3b_model(script):
    module = script("make_random_checkpoint")
    table = module.entries(*module.SCALES["full"])
    of_tower = [entry.name.startswith("visual.") for entry in table]
    assert sum(e.size for e, its in zip(table, of_tower, strict=True) if its) == 668_684_288
    # Tied: there is no head in the file.
    assert sum(e.size for e, its in zip(table, of_tower, strict=True) if not its) == 3_085_938_688


def test_the_marks_of_qwen_2_5_vl_have_their_ids(script):
    module = script("make_random_checkpoint")
    files = module.tokenizer_files(module._TOKENS, module._QWEN_SPECIAL)
    added = json.loads(files["added_tokens.json"])
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    assert [added[mark] for mark in marks] == [151652, 151653, 151655, 151656]


def test_sizes_and_scales_are_not_mixed_up(script, tmp_path, capsys):
    main = script("make_random_checkpoint").main
    assert main([str(tmp_path), "--arch", "qwen2_5_vl", "--size", "7b"]) == 2
    assert main([str(tmp_path), "--scale", "tiny"]) == 2
    said = capsys.readouterr().err
    assert said.count("--size is of --arch fastvlm, --scale of the others") == 2


def test_the_tokenizer_is_as_large_as_the_released_one(script):
    files = script("make_random_checkpoint").tokenizer_files(151643)
    assert len(json.loads(files["vocab.json"])) == 151643
    assert json.loads(files["added_tokens.json"])["<|im_end|>"] == 151645


def test_the_same_seed_gives_the_same_file(script, checkpoint, tmp_path):
    module = script("make_random_checkpoint")
    again = module.make(tmp_path / "again", "small", seed=0)
    name = "model.safetensors"
    assert (again / name).read_bytes() == (checkpoint / name).read_bytes()
    tensors = open_checkpoint(checkpoint).tensors
    head, table = (tensors[n].load() for n in ("lm_head.weight", "model.embed_tokens.weight"))
    np.testing.assert_array_equal(head, table)


def test_a_directory_with_something_in_it_is_left_alone(script, checkpoint, capsys):
    assert script("make_random_checkpoint").main([str(checkpoint), "--size", "small"]) == 2
    assert capsys.readouterr().err == f"error: {checkpoint} is not empty\n"


@pytest.mark.slow
def test_differential_prefill_is_measured_on_it(script, converted, tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    frame = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    for number in range(3):
        frame[-30:, : 20 * number] = 7
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    target = tmp_path / "rows.json"
    arguments = ["--weights", converted, "--frames", tmp_path / "frames", "--json", target]
    more = ["--tolerance", 0, 1e6, "--new-tokens", 4]
    assert script("benchmark_prefill").main([str(a) for a in (*arguments, *more)]) == 0
    rows = {row["policy"]: row for row in json.loads(target.read_text())}
    assert list(rows) == [
        "fresh", "exact", "bounded", "exact, tolerance 1e+06", "bounded, tolerance 1e+06",
    ]  # fmt: skip
    for name in ("fresh", "exact"):
        assert rows[name]["logit_error"]["max"] < 1e-4
        assert rows[name]["same_text"] == 1
    assert rows["fresh"]["prefilled"] == rows["fresh"]["total"]
    assert rows["fresh"]["full_error"]["max"] == 0
    nothing = rows["exact, tolerance 1e+06"]
    assert nothing["prefilled"] == 0
    assert nothing["logit_error"]["median"] > rows["exact"]["logit_error"]["median"]
    assert capsys.readouterr().out.count("\n") == 7
    assert script("benchmark_prefill").main(["--weights", str(converted), "--num-frames", "1"]) == 2
    assert "one frame only" in capsys.readouterr().err
    nowhere = str(tmp_path / "none" / "rows.json")
    assert script("benchmark_prefill").main(["--weights", str(converted), "--json", nowhere]) == 2
    assert capsys.readouterr().err.startswith("error: --json: no such directory")


@pytest.mark.slow
def test_prefill_and_decoding_are_timed_on_it(script, converted, tmp_path, capsys):
    main, target = script("benchmark_language").main, tmp_path / "rows.json"
    arguments = ["--weights", str(converted), "--length", "20", "--new-tokens", "3"]
    assert main([*arguments, "--rounds", "1", "--json", str(target)]) == 0
    exact, rough, mixed = json.loads(target.read_text())
    assert exact["logit_error"] == 0
    assert 0 < rough["logit_error"] == mixed["logit_error"] < 0.1
    times = (row[key] for row in (exact, rough, mixed) for key in ("prefill_ms", "token_ms"))
    assert all(each["max"] >= each["median"] > 0 for each in times)
    assert main([*arguments, "--new-tokens", "1"]) == 2
    assert "--new-tokens 2" in capsys.readouterr().err
    assert main([*arguments, "--json", str(tmp_path / "none" / "rows.json")]) == 2
    assert capsys.readouterr().err.startswith("error: --json: no such directory")
    assert main([*arguments, "--torch", str(tmp_path / "none")]) == 2
    assert "no directory" in capsys.readouterr().err
