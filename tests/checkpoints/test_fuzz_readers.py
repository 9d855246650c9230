"""Readers of foreign files know two endings: a right value, or an error of this library.

`DIFFVIS_FUZZ_EXAMPLES=100000 pytest tests/checkpoints/test_fuzz_readers.py` tries more, at random.
"""

import io
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoint_reading import Rebuild, tensor_file
from test_checkpoint_store import CONFIG, LANGUAGE, parameters
from test_settings import CONFIGS, TENSORS

from diffvis_jax.checkpoints import settings as table
from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.conversion_plan import make_plan
from diffvis_jax.checkpoints.format import parse_json
from diffvis_jax.checkpoints.formats.open import open_checkpoint
from diffvis_jax.checkpoints.formats.tensors import Tensor, count
from diffvis_jax.checkpoints.settings import Rule
from diffvis_jax.checkpoints.source_config import SourceConfig
from diffvis_jax.errors import CheckpointError, ConfigError
from diffvis_jax.images.geometry import PreprocessConfig
from diffvis_jax.language.tokenizer import Tokenizer, load_tokenizer

EXAMPLES = int(os.environ.get("DIFFVIS_FUZZ_EXAMPLES", "0"))
fuzzed = settings(max_examples=EXAMPLES or 30, derandomize=not EXAMPLES)

NUMBERS = (
    st.integers(-3, 5)
    | st.integers()
    | st.floats()
    | st.sampled_from([10**30, 1e30, 2**63, 10**400])
)
WORDS = st.sampled_from(
    ["default", "silu", "gelu", "quick_gelu", "pad", "crop", "anyres", "squash", "longest", "full"]
)
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.fixed_dictionaries({"height": inner, "width": inner})
        | st.fixed_dictionaries({"shortest_edge": inner})
        | st.fixed_dictionaries({"rope_type": inner, "rope_theta": inner})
    ),
    max_leaves=5,
)


def names_of(rules: table.Table) -> list[str]:
    found = []
    for name, rule in rules.items():
        found += [name] if isinstance(rule, Rule) else [name, *names_of(rule)]
    return found


NAMES = {
    "config": names_of(table.VISION_ALONE | table.LANGUAGE | table.WRAPPER)
    + list(table.LAYER)
    + ["text_config", "vision_config", "mm_vision_select_feature"],
    "preprocessor": names_of(table.PREPROCESSOR),
    "processor": names_of(table.PROCESSOR),
    "generation": names_of(table.GENERATION),
    "tokenizer": names_of(table.TOKENIZER),
    "open_clip": names_of(table.OPEN_CLIP),
}
CHANGES = {
    file: st.dictionaries(
        st.sampled_from(sorted(set(names))) | st.text(max_size=5), VALUES, max_size=2
    )
    for file, names in NAMES.items()
}


def put(document: dict, name: str, value: object, inside: bool) -> None:
    """Sets a field, in a section of the document if there is one."""
    sections = [inner for inner in document.values() if isinstance(inner, dict) and inner]
    target = sections[0] if inside and sections else document
    target[name] = value


# ---- config files -----------------------------------------------------------------------------


@fuzzed
@given(
    st.sampled_from(sorted(TENSORS)),
    st.fixed_dictionaries(CHANGES),
    st.booleans(),
    st.booleans(),
)
def test_config_files(model, changes, inside, vision_only):
    files = {
        "config": json.loads(json.dumps(CONFIGS[model])),
        "open_clip": {"model_cfg": {"vision_cfg": {}}, "preprocess_cfg": {}},
        "processor": {"image_processor": {"do_resize": True}},
        "preprocessor": {}, "generation": {}, "tokenizer": {},
    }  # fmt: skip
    for file, change in changes.items():
        for name, value in change.items():
            put(files[file], name, value, inside)
    if not changes["open_clip"]:
        files["open_clip"] = {}
    try:
        plan = make_plan(TENSORS[model], SourceConfig(**files), vision_only=vision_only)
    except CheckpointError:
        return
    assert plan.config.preprocess.size == plan.config.size
    assert np.isfinite([*plan.config.mean, *plan.config.std]).all()
    assert min(plan.config.std) > 0
    if plan.language_config is not None:
        assert 1 <= plan.language_config.max_length < 10**9
        assert all(type(i) is int and i >= 0 for i in plan.language_config.eos_ids)


@fuzzed
@given(
    st.sampled_from(sorted(TENSORS)),
    st.lists(st.tuples(st.integers(0, 10**6), st.text("._0129model", max_size=12)), max_size=3),
    st.lists(st.tuples(st.integers(0, 10**6), st.lists(st.integers(0, 5), max_size=5)), max_size=3),
    st.sampled_from(["", "module.", "_orig_mod.", "a."]),
)
def test_names_and_shapes(model, renamed, reshaped, prefix):
    tensors = list(TENSORS[model].values())
    for number, name in renamed:
        old = tensors[number % len(tensors)]
        parts = old.name.split(".")
        parts[number % len(parts)] = name
        tensors[number % len(tensors)] = Tensor(
            ".".join(parts), old.shape, old.dtype, "f", old.load
        )
    for number, shape in reshaped:
        old = tensors[number % len(tensors)]
        array = np.zeros(shape, old.dtype)
        new = Tensor(old.name, array.shape, array.dtype, "f", lambda array=array: array)
        tensors[number % len(tensors)] = new
    try:
        make_plan({prefix + x.name: x for x in tensors}, SourceConfig(CONFIGS[model]))
    except CheckpointError:
        return


@fuzzed
@given(st.binary(max_size=40) | VALUES.map(lambda x: json.dumps(x).encode()), st.data())
def test_json(raw, data):
    if raw and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + data.draw(st.binary(max_size=4)) + raw[at + 1 :]
    try:
        document = parse_json(raw, "config.json")
    except CheckpointError:
        return
    assert isinstance(document, dict)


@fuzzed
@given(VALUES, VALUES, VALUES, VALUES)
def test_preprocess_config(size, mode, color, resample):
    try:
        config = PreprocessConfig(size, mode, color, resample)  # type: ignore[arg-type]
    except ConfigError:
        return
    assert config.size > 0
    assert len(config.pad_color) == 3
    hash(config)


# ---- weight files -----------------------------------------------------------------------------


def damaged(data: st.DataObject, raw: bytes) -> bytes:
    """The bytes with a few of them changed, inserted or left out."""
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(raw) - 1, 0)))
        gap = data.draw(st.sampled_from([0, 0, 1, 1, 1, 2, 8, len(raw)]))
        raw = raw[:at] + data.draw(st.binary(max_size=8)) + raw[at + gap :]
    return raw


def read_whole(file: Path) -> None:
    """Opens a file and reads its tensors, or ends in this library's error."""
    message, tensors = file.name, {}
    try:
        tensors = open_checkpoint(file).tensors
    except CheckpointError as error:
        message = str(error)
    assert file.name in message
    for tensor in tensors.values():
        if tensor.dtype is None or count(tensor.shape) > 10**6:
            continue
        array = tensor.load()
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F8_E4M3", "U32"]) | VALUES,
        "shape": st.lists(st.integers(0, 4), max_size=4) | VALUES,
        "data_offsets": st.tuples(st.integers(0, 64), st.integers(0, 64)) | VALUES,
    }
)


@fuzzed
@given(
    st.dictionaries(st.text(max_size=4), ENTRY | VALUES, max_size=3),
    st.integers(-2, 2) | st.integers(0, 2**64 - 1),
    st.binary(max_size=70),
    st.data(),
)
def test_safetensors(folder, header, length, content, data):
    text = json.dumps(header).encode()
    length = len(text) if abs(length) < 3 else length
    raw = struct.pack("<Q", length) + text + content
    if data.draw(st.booleans()):
        raw = damaged(data, raw)
    file = folder / "fuzz.safetensors"
    file.write_bytes(raw)
    read_whole(file)


@fuzzed
@given(st.data())
def test_damaged_safetensors(folder, data):
    file = folder / "damaged.safetensors"
    file.write_bytes(damaged(data, (DATA / "openai_clip.safetensors").read_bytes()))
    read_whole(file)


OPCODES = [
    b"}", b")", b"(", b"]", b"N", b"K\x01", b"K\x00", b"X\x01\x00\x00\x00w", b"s", b"u", b"t", b"R",
    b"b", b"\x85", b"\x86", b"\x87", b"Q", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"2", b"e",
    b"0", b"\x88", b"\x89", b"J\xff\xff\xff\xff", b"X\x07\x00\x00\x00storage", b"\x8a\x01\xff",
    b"ctorch\nFloatStorage\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"\x81", b"\x93", b"o",
    b"ccollections\nOrderedDict\n", b"cargparse\nNamespace\n", b"c__torch__\nX\n",
    b"ctorch\nSize\n",
    b"X\x0a\x00\x00\x00state_dict", b"r\xff\xff\xff\xff", b"cbuiltins\nexec\n", b"\x94", b"1", b"a",
    b"ctorch._utils\n_rebuild_parameter\n", b"ctorch.jit._pickle\nbuild_intlist\n", b"\x8f", b"d",
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0ctQ",
    b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x0ctQK\x00K\x03\x85K\x01\x85\x89NtR",
]  # fmt: skip


@fuzzed
@given(st.lists(st.sampled_from(OPCODES), max_size=25), st.booleans(), st.booleans())
def test_pickle_programs(folder, program, script, in_dict):
    code = b"".join(program)
    if in_dict:
        code = b"}X\x01\x00\x00\x00w" + code + b"s"
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + code + b".")
        archive.writestr("m/data/0", bytes(48))
        if script:
            archive.writestr("m/code/x.py", b"")
    file = folder / "program.pt"
    file.write_bytes(data.getvalue())
    read_whole(file)


PYTORCH = ["openai_clip_zip.bin", "openai_clip_legacy.bin", "openai_clip_script.pt"]


@fuzzed
@given(st.sampled_from(PYTORCH), st.data())
def test_damaged_pytorch_files(folder, name, data):
    file = folder / name
    file.write_bytes(damaged(data, (DATA / name).read_bytes()))
    read_whole(file)


@fuzzed
@given(st.sampled_from(PYTORCH[::2]), st.data())
def test_damaged_structure_in_a_whole_archive(folder, name, data):
    """What is changed is the pickle itself, which a checksum of the archive would protect."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(DATA / name) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            raw = old.read(info)
            if info.filename.endswith("data.pkl"):
                raw = damaged(data, raw)
            new.writestr(info.filename, raw)
    file = folder / name
    file.write_bytes(buffer.getvalue())
    read_whole(file)


SMALL = st.integers(-1, 13)


@fuzzed
@given(
    st.dictionaries(
        st.text(max_size=3),
        st.builds(
            Rebuild, st.sampled_from("01"), SMALL | NUMBERS, SMALL | NUMBERS,
            st.lists(SMALL, max_size=4).map(tuple) | VALUES,
            st.lists(SMALL, max_size=4).map(tuple) | VALUES,
        ) | VALUES,
        max_size=3,
    ),
    st.sampled_from([None, "state_dict", "model", "optimizer"]),
)  # fmt: skip
def test_tensors_in_a_pickle(folder, tensors, key):
    document = tensors if key is None else {key: tensors}
    read_whole(tensor_file(folder / "tensors.pt", document, {"0": bytes(48)}))


@fuzzed
@given(
    st.dictionaries(
        st.sampled_from("ab") | st.text(max_size=4),
        st.sampled_from(["x.safetensors", "../x.safetensors", ".", ""]) | VALUES,
        max_size=3,
    ) | VALUES,
)  # fmt: skip
def test_an_index_of_shards(folder, weight_map):
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / "x.safetensors").write_bytes((DATA / "openai_clip.safetensors").read_bytes())
    read_whole(index)


# ---- tokenizer files --------------------------------------------------------------------------


@fuzzed
@given(
    st.dictionaries(st.sampled_from("abcĠé") | st.text(max_size=3), st.integers(0, 9) | VALUES),
    st.lists(st.text("ab Ġ\r\u2028#", max_size=5), max_size=4),
    st.dictionaries(
        st.integers(0, 12).map(str) | st.text(max_size=3),
        st.fixed_dictionaries(
            {"content": st.text(max_size=3) | VALUES},
            optional={"special": VALUES, "lstrip": VALUES, "normalized": VALUES, "x": VALUES},
        ) | VALUES,
        max_size=3,
    ) | VALUES,
    st.booleans(),
)  # fmt: skip
def test_tokenizer_files(folder, vocabulary, merges, added, own_file):
    for name in ("tokenizer_config.json", "added_tokens.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    name = "added_tokens.json" if own_file else "tokenizer_config.json"
    document = added if own_file else {"added_tokens_decoder": added}
    (folder / name).write_text(json.dumps(document))
    try:
        tokenizer = load_tokenizer(folder)
    except CheckpointError:
        return
    assert isinstance(tokenizer, Tokenizer)
    ids = tokenizer.encode("ab a é<|x|>")
    assert isinstance(tokenizer.decode(ids), str)


# ---- weight directories -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return store.save(
        tmp_path_factory.mktemp("store") / "pristine",
        config=CONFIG,
        params=parameters(CONFIG),
        language_config=LANGUAGE,
        language_params=parameters(LANGUAGE, 1),
    )


def changed(data: st.DataObject, document: object) -> object:
    """The document with one value in it replaced, or left out."""
    if isinstance(document, dict) and document and data.draw(st.integers(0, 3)):
        name = data.draw(st.sampled_from(sorted(document)))
        if not data.draw(st.integers(0, 5)):
            return {key: value for key, value in document.items() if key != name}
        return document | {name: changed(data, document[name])}
    return data.draw(VALUES)


@fuzzed
@given(st.sampled_from(["manifest.json", "config.json"]), st.booleans(), st.booleans(), st.data())
def test_documents_of_weight_directories(directory, name, language, verify, data):
    file = directory / name
    before = file.read_bytes()
    load = store.load_language if language else store.load_vision
    try:
        file.write_text(json.dumps(changed(data, json.loads(before))))
        load(directory, verify=verify)
    except CheckpointError:
        pass
    finally:
        file.write_bytes(before)
