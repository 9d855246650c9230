"""Weight directories: how they are written, and how they are checked and loaded.

    NAME/
      vision/part_00/, ...   Orbax checkpoints, each some leaves of the tower's parameters
      language/part_00/, ... likewise; only where there is a language model
      grounding/part_00/     likewise; only where there is a grounding head
      config.json            kind and fields of the configs
      manifest.json          source; shape, dtype, checksum of every tensor; checksums of the files
      tokenizer.json, ...    files copied from the source

A tree is split into parts because Orbax holds what it writes three times in memory.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.checkpoints.architectures import expected_shapes, kinds
from diffvis_jax.checkpoints.fields import is_number, shown
from diffvis_jax.checkpoints.format import (
    FORMAT,
    FORMAT_VERSION,
    Params,
    checksum,
    compare_shapes,
    file_checksum,
    flatten,
    quiet_orbax,
    raise_if,
    read_json,
    resolve,
    to_dtype,
    unflatten,
)
from diffvis_jax.checkpoints.formats.open import SUFFIXES
from diffvis_jax.checkpoints.quantised import Stored, read_stored
from diffvis_jax.checkpoints.writer import Writer
from diffvis_jax.errors import CheckpointError, ConfigError
from diffvis_jax.grounding.head import HeadConfig
from diffvis_jax.language.config import DecoderConfig
from diffvis_jax.ops.quantised import QuantKernel
from diffvis_jax.towers.dtypes import storage_dtype

_LARGE = 1 << 20  # bytes of a file whose checksum is not worth reading it twice
# Trees that a directory may hold beside its tower.
_FURTHER = {"language": "language model", "grounding": "grounding head"}


def save(
    directory: str | os.PathLike[str],
    *,
    config: Any,
    params: Mapping[str, Any],
    language_config: DecoderConfig | None = None,
    language_params: Mapping[str, Any] | None = None,
    grounding_config: HeadConfig | None = None,
    grounding_params: Mapping[str, Any] | None = None,
    manifest_extra: Mapping[str, Any] | None = None,
    files: Mapping[str, Path] | Iterable[Path] = (),
    force: bool = False,
) -> Path:
    """Writes parameters that are in memory as a weight directory.

    Args:
      directory: where to; parents are made.
      config, params: of the tower, nested dicts of float32 or bfloat16 arrays, which are stored in
        the dtypes that `config.dtype` asks for (see `storage_dtype`), and of quantised matrices.
      language_config, language_params, grounding_config, grounding_params: both or neither.
      manifest_extra: further entries of the manifest, such as the source.
      files: to be copied into the directory; a mapping gives them other names.
      force: whether an existing weight directory is replaced.

    Returns:
      The absolute path.

    Raises:
      CheckpointError: the directory exists, or the parameters are not those of the config.
    """
    configs = {"vision": config, "language": language_config, "grounding": grounding_config}
    trees = {"vision": params, "language": language_params, "grounding": grounding_params}
    for tree in configs:
        if (configs[tree] is None) != (trees[tree] is None):
            raise TypeError(f"{tree}_config and {tree}_params belong together: both or neither")
    with Writer(directory, force=force) as writer:
        for tree, tree_params in trees.items():
            for path, leaf in flatten(tree_params or {}).items():
                if isinstance(leaf, QuantKernel):
                    writer.add(tree, path, leaf)
                    continue
                leaf = np.asarray(leaf)
                dtype = storage_dtype(path, leaf.shape, configs[tree].dtype)
                writer.add(tree, path, leaf.astype(dtype, copy=False))
        return writer.finish(configs, manifest_extra=manifest_extra, files=files)


def load_vision(
    directory: str | os.PathLike[str], dtype: str | None = None, *, verify: bool = True
) -> tuple[Any, Params]:
    """Loads a tower.

    Args:
      directory: as written by `diffvis convert` or `save`.
      dtype: "float32" or "bfloat16" to cast the matrices to; None = as stored.
      verify: whether checksums are compared; what is missing, or of another shape or size, is
        found without them, too.

    Returns:
      (config, params): the tower's frozen config and nested dicts of jax arrays on the default
      device.

    Raises:
      CheckpointError: the directory is missing, foreign, half-written or damaged; lists every
        problem found.
    """
    return _load(directory, "vision", verify, dtype)


def load_language(
    directory: str | os.PathLike[str],
    dtype: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    *,
    verify: bool = True,
) -> tuple[DecoderConfig, Params]:
    """Loads the language model and projector of a weight directory; as `load_vision`.

    Args:
      mesh: the parameters are split over it (see `language/sharding.py`); None = they are not.

    Raises:
      CheckpointError: also when there is no language model.
      ConfigError: a mesh that the model cannot be split over.
    """

    def shardings(config: DecoderConfig) -> dict[str, jax.sharding.Sharding]:
        from diffvis_jax.language.sharding import param_shardings

        return {} if mesh is None else flatten(param_shardings(config, mesh))

    return _load(directory, "language", verify, dtype, shardings)


def load_grounding(
    directory: str | os.PathLike[str], *, verify: bool = True
) -> tuple[HeadConfig, Params]:
    """Loads the grounding head of a weight directory; as `load_vision`.

    Raises:
      CheckpointError: also when there is none.
    """
    return _load(directory, "grounding", verify)


def holds(directory: str | os.PathLike[str], tree: str) -> bool:
    """Whether a weight directory holds a "language" model, or a "grounding" head.

    Raises:
      CheckpointError: this is no weight directory.
    """
    return any(name.startswith(f"{tree}/") for name in read_manifest(directory)["tensors"])


def cast(config: Any, params: Params, dtype: str) -> tuple[Any, Params]:
    """The config and parameters with the matrices in another dtype.

    Raises:
      CheckpointError: the matrices are quantised, and the dtype is not that of the rest.
    """
    if any(isinstance(leaf, QuantKernel) for leaf in flatten(params).values()):
        if dtype == config.dtype:
            return config, params
        raise CheckpointError(
            f"quantised matrices are not cast to {dtype}: load them with dtype=None (the rest is "
            f"{config.dtype}), or quantise from the floats with --dtype {dtype}"
        )
    config = dataclasses.replace(config, dtype=dtype)
    leaves = {
        path: leaf.astype(storage_dtype(path, leaf.shape, dtype))
        for path, leaf in flatten(params).items()
    }
    return config, unflatten(leaves)


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a weight directory.

    Raises:
      CheckpointError: this is no weight directory, or a half-written one.
    """
    directory = resolve(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory}: no such directory; `diffvis convert` writes one")
    if not (directory / "manifest.json").is_file():
        torch_files = sorted(p.name for p in directory.iterdir() if p.suffix in SUFFIXES)
        if torch_files:
            raise CheckpointError(
                f"{directory} holds a PyTorch checkpoint ({torch_files[0]}); convert it first: "
                "diffvis convert SRC weights/NAME"
            )
        raise CheckpointError(
            f"{directory}: no manifest.json, so this is no weight directory, or a half-written one"
        )
    manifest = read_json(directory / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{directory}: manifest.json is not of this library")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{directory}: format version {manifest.get('format_version')}, this library reads "
            f"{FORMAT_VERSION}; convert the checkpoint again"
        )
    if not all(isinstance(manifest.get(name), dict) for name in ("tensors", "files")):
        raise CheckpointError(f"{directory}: manifest.json is damaged, convert it again")
    return manifest


def _load(
    path: str | os.PathLike[str],
    tree: str,
    verify: bool,
    dtype: str | None = None,
    shardings: Callable[[Any], Mapping[str, jax.sharding.Sharding]] = lambda _: {},
) -> tuple[Any, Params]:
    opened = open_tree(path, tree, verify=verify)
    placed = shardings(opened.config)
    if placed and opened.stored.kind:
        raise ConfigError("a quantised language model is not split over several devices")
    leaves = dict(opened.leaves(placed))
    params = unflatten(
        opened.stored.joined({path: leaves[path] for path in opened.tensors}, opened.config.dtype)
    )
    return (opened.config, params) if dtype is None else cast(opened.config, params, dtype)


@dataclasses.dataclass(frozen=True)
class OpenTree:
    """One tree of a weight directory, whose files are there and fit its config.

    Attributes:
      directory: absolute.
      tree: "vision", "language" or "grounding".
      config: frozen.
      stored: its quantised matrices.
      tensors: path of each leaf -> its entry in the manifest.
      verify: whether checksums of what is read are compared.
    """

    directory: Path
    tree: str
    config: Any
    stored: Stored
    tensors: Mapping[str, Any]
    verify: bool

    def leaves(
        self, placed: Mapping[str, jax.sharding.Sharding] | None = None
    ) -> Iterator[tuple[str, jax.Array]]:
        """Reads the leaves, a part of the directory at a time -> path, array.

        Args:
          placed: where leaves go, by path; the others go to the default device.

        Raises:
          CheckpointError: damaged data, after all that is whole; lists every problem found.
        """
        # Orbax would otherwise use the sharding of the machine that wrote the checkpoint.
        one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        placed, problems = placed or {}, []
        for part in sorted({entry["part"] for entry in self.tensors.values()}):
            entries = {path: entry for path, entry in self.tensors.items() if entry["part"] == part}
            target = {
                path: jax.ShapeDtypeStruct(
                    tuple(entry["shape"]),
                    to_dtype(entry["dtype"]),
                    sharding=placed.get(path, one_device),
                )
                for path, entry in entries.items()
            }
            place = self.directory / self.tree / f"part_{part:02d}"
            loaded, part_problems = _load_part(place, target)
            problems += part_problems
            for path in list(loaded):
                leaf = loaded.pop(path)
                values = np.asarray(leaf)
                if self.verify and checksum(values) != entries[path]["crc32"]:
                    problems.append(f"{self.tree}/{path}: checksum differs, its data was changed")
                # What Orbax made is committed to its device, and so is what is computed with it: a
                # step would be compiled once for the cache of `init_cache`, and again for its own.
                yield path, leaf if path in placed else jnp.array(values)
        raise_if(problems, f"{self.directory}: damaged, convert the checkpoint again")


def open_tree(path: str | os.PathLike[str], tree: str, *, verify: bool = True) -> OpenTree:
    """Checks one tree of a weight directory before anything of it is read; as `load_vision`."""
    directory = resolve(path)
    manifest = read_manifest(directory)
    document = read_json(directory / "config.json")
    config = _read_config(directory, tree, document)
    stored = read_stored(document, tree, str(directory))
    tensors = {
        name.removeprefix(f"{tree}/"): entry
        for name, entry in manifest["tensors"].items()
        if name.startswith(f"{tree}/")
    }
    problems = _check_files(directory, manifest["files"], tree, verify)
    problems += _check_entries(tree, tensors, config, stored)
    raise_if(problems, f"{directory}: damaged, convert the checkpoint again")
    return OpenTree(directory, tree, config, stored, tensors, verify)


def _read_config(directory: Path, tree: str, document: Mapping[str, Any]) -> Any:
    if tree in _FURTHER:
        fields = document.get(tree)
        if fields is None:
            raise CheckpointError(f"{directory} holds a vision tower, but no {_FURTHER[tree]}")
        fields = dict(fields) if isinstance(fields, dict) else {}
        kind = fields.pop("kind", None)
    else:
        kind, fields = document.get("kind"), document.get("vision")
    if not isinstance(kind, str) or kind not in kinds() or not isinstance(fields, dict):
        raise CheckpointError(
            f"{directory}: config.json is of kind {kind!r}, known are {sorted(kinds())}; convert "
            "the checkpoint again"
        )
    # JSON has no tuples, and configs must be hashable.
    values = {k: _tuples(v) for k, v in fields.items()}
    defaults = {field.name: field.default for field in dataclasses.fields(kinds()[kind])}
    if unknown := sorted(set(values) - set(defaults)):
        raise CheckpointError(f"{directory}: config.json has unknown fields {unknown}")
    for name, value in values.items():
        if not _is_like(value, defaults[name]):
            raise CheckpointError(f"{directory}: config.json: {name} cannot be {shown(value)}")
    try:
        return kinds()[kind](**values)
    except (ConfigError, TypeError) as error:  # TypeError: fields that are missing
        raise CheckpointError(f"{directory}: config.json: {error}") from None


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value of a config has the type of the field's default."""
    if isinstance(default, tuple):
        kind = default[0] if default else 0
        return isinstance(value, tuple) and all(
            _is_like(x, default if isinstance(x, tuple) and not default else kind) for x in value
        )
    if isinstance(default, float):
        return is_number(value)
    if default is None or default is dataclasses.MISSING:
        return type(value) is int or value is default
    return type(value) is type(default)


def _check_files(directory: Path, files: Mapping[str, Any], tree: str, verify: bool) -> list[str]:
    """What is wrong with the tree's files and the config; found before Orbax meets damaged data.

    A config that was changed may fit the shapes and be wrong all the same: in its number of heads,
    for example. Large files are not read here: they hold tensors, which have checksums of their
    own, compared when they are loaded.
    """
    problems = []
    for name, entry in files.items():
        file = directory / name
        if not name.startswith(f"{tree}/") and name != "config.json":
            continue  # a missing tokenizer is the tokenizer's business
        if not isinstance(entry, dict):
            problems.append(f"{name}: malformed entry in manifest.json")
            continue
        size, crc32 = entry.get("size"), entry.get("crc32")
        if not file.is_file():
            problems.append(f"{name}: missing")
        elif file.stat().st_size != size:
            problems.append(f"{name}: {file.stat().st_size} bytes, expected {size}")
        elif verify and file.stat().st_size <= _LARGE and file_checksum(file) != crc32:
            problems.append(f"{name}: checksum differs, its data was changed")
    return problems


def _check_entries(tree: str, tensors: Mapping[str, Any], config: Any, stored: Stored) -> list[str]:
    problems, found = [], {}
    for path, entry in tensors.items():
        try:
            found[path] = tuple(entry["shape"]), to_dtype(entry["dtype"])
            if not all(isinstance(entry[name], int) for name in ("part", "crc32")):
                raise TypeError
        except (KeyError, TypeError, ValueError):
            problems.append(f"{tree}/{path}: malformed entry in manifest.json")
    blocks = (getattr(config, name, 0) for name in ("layers", "depth", "projector_layers"))
    deepest = max(*blocks, *getattr(config, "depths", ()))
    if deepest > len(tensors):  # whose names would not end
        return [*problems, f"{tree}: {deepest} layers, but {len(tensors)} tensors"]
    shapes = expected_shapes(config)
    kept = set(stored.kept) - shapes.keys()
    problems += [f"{tree}/{path}: unknown, in quantisation" for path in sorted(kept)]
    expected = stored.leaves(shapes, config.dtype)
    for path, (_, dtype) in found.items():
        if path in expected and dtype != expected[path][1]:
            problems.append(f"{tree}/{path}: {dtype.name}, expected {expected[path][1].name}")
    return problems + compare_shapes(
        tree,
        *({path: shape for path, (shape, _) in leaves.items()} for leaves in (found, expected)),
    )


def _load_part(
    directory: Path, target: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[dict[str, jax.Array], list[str]]:
    """Leaves by path, and problems. `target` says what must be there, and on which devices."""
    import orbax.checkpoint as ocp

    try:
        with quiet_orbax(), ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(directory, dict(target)), []
    except Exception as error:
        # Orbax and TensorStore raise whatever they like on damaged data.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        return {}, [f"{directory.parent.name}/{directory.name}: cannot be read ({reason})"]
