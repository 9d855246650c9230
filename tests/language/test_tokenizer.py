"""Prompts and tokenizer, on a small byte-level BPE made here."""

import builtins
import json

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

import diffvis_jax as dv
from diffvis_jax.language.prompt import IMAGE_TOKEN, build_prompt, tokenize
from diffvis_jax.language.tokenizer import TextStream, load_tokenizer

WORDS = ("the", "Th", "is", "in", " a", " the", "are", "What", "user", "sys", "tem", "ing", "\n\n")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = (
    "What are these?",
    "This is the thing, isn't it?  2024 x 17\n\n  indented\r\n\ttab",
    "größer naïve 漢字かな 🙂🙃 é e\u0301",
    "<|im_start|>user\nThe system<|im_end|>\n",
    "",
)


def alphabet():
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def merges_of(words):
    """Merges that build each word from the left."""
    spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    found = []
    for word in words:
        letters = spelled.pre_tokenize_str(word)[0][0]
        for i in range(1, len(letters)):
            pair = (letters[:i], letters[i])
            if pair not in found:
                found.append(pair)
    return found


def vocabulary():
    merges = merges_of(WORDS)
    tokens = [*alphabet(), *dict.fromkeys(a + b for a, b in merges)]
    return {token: i for i, token in enumerate(tokens)}, merges


FIRST_SPECIAL = len(vocabulary()[0])


@pytest.fixture(scope="module")
def with_merges(tmp_path_factory):
    """A directory as Qwen2's are released, without tokenizer.json."""
    directory = tmp_path_factory.mktemp("merges")
    vocab, merges = vocabulary()
    (directory / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (directory / "merges.txt").write_text("\n".join(lines) + "\n")
    entries = {
        str(FIRST_SPECIAL + i): {"content": text, "special": True} for i, text in enumerate(SPECIAL)
    }
    (directory / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": entries}))
    return directory


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same as one file; its pattern is written out again, as Qwen2's tokenizer.json has it."""
    directory = tmp_path_factory.mktemp("whole")
    vocab, merges = vocabulary()
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))
    tokenizer.normalizer = normalizers.NFC()
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [
        {
            "id": FIRST_SPECIAL + i, "content": text, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": True,
        }
        for i, text in enumerate(SPECIAL)
    ]  # fmt: skip
    (directory / "tokenizer.json").write_text(json.dumps(document))
    return directory


@pytest.mark.parametrize("text", TEXTS)
def test_both_kinds_of_files_give_the_same_ids(with_merges, whole, text):
    one, other = load_tokenizer(with_merges), load_tokenizer(whole)
    assert one.encode(text) == other.encode(text)
    plain = text.replace("e\u0301", "é")  # what NFC makes of it
    assert one.decode(one.encode(text), skip_special=False) == plain


def test_words_are_merged_and_specials_are_not_cut(with_merges):
    tokenizer = load_tokenizer(with_merges)
    vocab, _ = vocabulary()
    assert tokenizer.encode("What") == [vocab["What"]]
    assert tokenizer.encode("<|im_end|>") == [FIRST_SPECIAL + 2]
    assert len(tokenizer) == FIRST_SPECIAL + 3
    assert tokenizer.decode([vocab["What"], FIRST_SPECIAL + 2, 9999]) == "What"


def test_added_tokens_may_have_a_file_of_their_own(with_merges, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((with_merges / name).read_bytes())
    added = {text: FIRST_SPECIAL + i for i, text in enumerate(SPECIAL)}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    one, other = load_tokenizer(tmp_path), load_tokenizer(with_merges)
    assert [one.encode(text) for text in TEXTS] == [other.encode(text) for text in TEXTS]


def test_no_text_is_cut_off_or_filled_up(whole, tmp_path):
    document = json.loads((whole / "tokenizer.json").read_text())
    document["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    document["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "a",
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    for text in ("a", "a long text with a few words"):
        assert load_tokenizer(tmp_path).encode(text) == load_tokenizer(whole).encode(text)


def test_text_comes_in_whole_characters(whole):
    tokenizer = load_tokenizer(whole)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        stream = TextStream(tokenizer)
        pieces = [stream.push(i) for i in ids]
        assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)
        assert not any("�" in piece for piece in pieces)
    tail = TextStream(tokenizer)
    ids = [*tokenizer.encode("a 🙂 b"), 99999, *tokenizer.encode("c🙂")[:-1]]
    assert "".join(tail.push(i) for i in ids) + tail.flush() == tokenizer.decode(ids)
    broken = TextStream(tokenizer)
    for i in tokenizer.encode("🙂")[:-1]:
        assert broken.push(i) == ""
    assert set(broken.flush()) == {"�"}


def test_files_with_byte_order_marks_and_the_lines_of_windows(with_merges, whole, tmp_path):
    for directory in (with_merges, whole):
        copy = tmp_path / directory.name
        copy.mkdir()
        for file in directory.iterdir():
            text = file.read_text(encoding="utf-8").replace("\n", "\r\n")
            (copy / file.name).write_text(text, encoding="utf-8-sig", newline="")
        one, other = load_tokenizer(copy), load_tokenizer(directory)
        assert [one.encode(text) for text in TEXTS] == [other.encode(text) for text in TEXTS]


def test_added_tokens_keep_their_options(with_merges, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((with_merges / name).read_bytes())
    entry = {"content": "<mark>", "lstrip": True, "special": True, "unheard_of": 1}
    document = {"added_tokens_decoder": {str(FIRST_SPECIAL): entry}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("the  <mark>") == [*tokenizer.encode("the"), FIRST_SPECIAL]


def test_a_pointer_instead_of_a_tokenizer(with_merges, tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0f\nsize 1234\n"
    (tmp_path / "tokenizer.json").write_bytes(pointer)
    with pytest.raises(dv.CheckpointError, match=r"tokenizer\.json: is a Git LFS pointer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("files", ["merges", "whole"])
def test_a_template_needs_its_special_tokens(with_merges, whole, tmp_path, files):
    if files == "merges":
        for name in ("vocab.json", "merges.txt"):
            (tmp_path / name).write_bytes((with_merges / name).read_bytes())
    else:
        document = json.loads((whole / "tokenizer.json").read_text())
        document["added_tokens"] = []
        (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(dv.PromptError, match=r"no token '<\|im_start\|>', which the template"):
        tokenize(build_prompt("What?"), tokenizer)
    # Without a template they are text like any other.
    assert len(tokenize(build_prompt("<|im_start|>?", conversation="plain"), tokenizer)) > 3


def test_missing_and_damaged_files(with_merges, tmp_path, monkeypatch):
    with pytest.raises(dv.CheckpointError, match=r"no tokenizer; put tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(dv.CheckpointError, match="damaged tokenizer files"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((with_merges / name).read_bytes())
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|im_end|>": 3}))
    with pytest.raises(dv.CheckpointError, match="should have the id 3"):
        load_tokenizer(tmp_path)

    def without(name, *args, **kwargs):
        if name == "tokenizers":
            raise ImportError
        return real(name, *args, **kwargs)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"diffvis_jax\[text\]"):
        load_tokenizer(with_merges)


# ---- tokenizers of sentencepiece's kind ---------------------------------------------------------

LETTERS = ("▁", "\n", *"ACDEFGHINOQRSTUWabcdefghijklmnopqrstuvwxyz.,:?'[]/")


def llama_tokenizer(directory, *, mark: bool, start: bool = True):
    """As Llama's tokenizer.json: bytes for what it does not know, a space and `<s>` first."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *LETTERS]
    merges = [("▁", "a")]
    tokens.append("▁a")
    for token in ("▁W", "▁Wh", "▁Wha", "▁What"):
        merges.append((token[:-1], token[-1]))
        tokens.append(token)
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *(["<image>"] if mark else [])])
    if start:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    directory.mkdir(exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    return load_tokenizer(directory)


@pytest.mark.parametrize("mark", [False, True])
def test_llamas_prompts_begin_once(tmp_path, mark):
    """As LLaVA's `tokenizer_image_token`: each piece has its space, the first alone its `<s>`."""
    tokenizer = llama_tokenizer(tmp_path, mark=mark)
    assert tokenizer.start == [1]
    ids = tokenize("a<image>\nWhat<image>", tokenizer)
    names = [None if i == IMAGE_TOKEN else tokenizer._tokenizer.id_to_token(i) for i in ids]
    assert names[:6] == ["<s>", "▁a", None, "▁", "\n", "W"]
    assert names[-1] is None
    assert names.count("<s>") == 1
    assert tokenizer.decode(tokenizer.encode("What, 漢🙂?")) == "What, 漢🙂?"
    pieces = TextStream(tokenizer)
    text = "".join(pieces.push(i) for i in tokenizer.encode("What, 漢🙂? a")) + pieces.flush()
    assert text == "What, 漢🙂? a"


def test_a_tokenizer_that_begins_otherwise_is_refused(tmp_path, whole):
    for tokenizer in (llama_tokenizer(tmp_path, mark=True, start=False), load_tokenizer(whole)):
        assert tokenizer.start == []
        for conversation in ("vicuna_v1", "mistral"):
            with pytest.raises(dv.PromptError, match="no special token"):
                tokenize(build_prompt("?", conversation=conversation), tokenizer)


def test_sentencepieces_own_format_is_refused(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")
    with pytest.raises(dv.CheckpointError, match=r"tokenizer\.model is sentencepiece's.*llava-hf"):
        load_tokenizer(tmp_path)


# ---- prompts ----------------------------------------------------------------------------------

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def test_the_template_is_that_of_fastvlm():
    assert build_prompt("What are these?") == (
        SYSTEM + "<|im_start|>user\n<image>\nWhat are these?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_of_qwen_2_5_vl():
    """No newline around an image; its marks are tokens of the tokenizer."""
    image = "<|vision_start|><image><|vision_end|>"
    end = "<|im_end|>\n<|im_start|>assistant\n"
    question = "Describe this image."
    assert build_prompt(question, conversation="qwen_2_5_vl") == (
        SYSTEM + f"<|im_start|>user\n{image}{question}{end}"
    )
    assert build_prompt("?", conversation="qwen_2_5_vl", images=2) == (
        SYSTEM + f"<|im_start|>user\n{image}{image}?{end}"
    )
    turns = [("<image> or <image>", "Both.")]
    numbered = build_prompt(
        "And <image>?", conversation="qwen_2_5_vl", images=3, turns=turns, numbered=True
    )
    assert numbered == (
        SYSTEM + f"<|im_start|>user\nPicture 1: {image} or Picture 2: {image}<|im_end|>\n"
        "<|im_start|>assistant\nBoth.<|im_end|>\n"
        f"<|im_start|>user\nAnd Picture 3: {image}?{end}"
    )
    with pytest.raises(dv.PromptError, match="'qwen_2' gives images no numbers"):
        build_prompt("?", numbered=True)


def test_the_marks_around_an_image_must_be_tokens(whole):
    with pytest.raises(dv.PromptError, match=r"no token '<\|vision_start\|>', which the template"):
        tokenize(build_prompt("What?", conversation="qwen_2_5_vl"), load_tokenizer(whole))


@pytest.mark.parametrize("text", ["{}?", "<|vision_start|>{}<|vision_end|> What?"])
def test_a_place_for_a_video_is_named(whole, text):
    prompt, tokenizer = text.format("<|video_pad|>"), load_tokenizer(whole)
    assert tokenize(prompt, tokenizer).size > 1  # where it is no token, it is text
    tokenizer._tokenizer.add_special_tokens(["<|video_pad|>"])
    with pytest.raises(dv.PromptError, match=r"holds <\|video_pad\|>, a place for a video; videos"):
        tokenize(prompt, tokenizer)


def test_plain_is_the_text_alone():
    assert build_prompt("What are these?", conversation="plain") == "<image>\nWhat are these?\n"


VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def test_the_templates_are_those_of_llava():
    assert build_prompt("What?", conversation="vicuna_v1") == (
        f"{VICUNA} USER: <image>\nWhat? ASSISTANT:"
    )
    turns = [("What?", "A page.")]
    assert build_prompt("And now?", conversation="vicuna_v1", turns=turns) == (
        f"{VICUNA} USER: <image>\nWhat? ASSISTANT: A page.</s>USER: And now? ASSISTANT:"
    )
    assert build_prompt("What?", conversation="mistral") == "[INST] <image>\nWhat? [/INST]"
    assert build_prompt("And now?", conversation="mistral", turns=turns) == (
        "[INST] <image>\nWhat? [/INST] A page. </s>[INST] And now? [/INST]"
    )


def test_several_images_and_turns():
    assert build_prompt("And now?", images=2, turns=[("What is it?", "A page.")]) == (
        SYSTEM + "<|im_start|>user\n<image>\n<image>\nWhat is it?<|im_end|>\n"
        "<|im_start|>assistant\nA page.<|im_end|>\n"
        "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_marks_in_the_text_are_taken_as_they_are():
    prompt = build_prompt("Before: <image> after: <image>", images=2)
    assert prompt.count("<image>") == 2
    assert "user\nBefore: <image>" in prompt
    with pytest.raises(dv.PromptError, match="1 <image> marks for 2 images"):
        build_prompt("only <image>", images=2)
    with pytest.raises(dv.PromptError, match="1 <image> marks for 0 images"):
        build_prompt("only <image>", images=0)
    assert "<image>" not in build_prompt("text alone", images=0)
    with pytest.raises(dv.PromptError, match="no conversation template 'vicuna'"):
        build_prompt("?", conversation="vicuna")


def test_pieces_are_tokenised_each_by_itself(whole):
    tokenizer = load_tokenizer(whole)
    ids = tokenize("the<image>\n\nthe<image>", tokenizer)
    assert ids.dtype == np.int32
    the, lines = tokenizer.encode("the"), tokenizer.encode("\n\n")
    assert ids.tolist() == [*the, IMAGE_TOKEN, *lines, *the, IMAGE_TOKEN]
    assert tokenize("<image>", tokenizer).tolist() == [IMAGE_TOKEN]
    prompt = build_prompt("What are these?")
    ids = tokenize(prompt, tokenizer)
    assert (ids == IMAGE_TOKEN).sum() == 1
    decoded = tokenizer.decode(ids[ids >= 0], skip_special=False)
    assert decoded == prompt.replace("<image>", "")
