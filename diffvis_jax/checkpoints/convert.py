"""From a PyTorch checkpoint to a weight directory: the order of events.

Headers are read and a plan is made of them, which reports all problems together. Only then are
tensors read, converted and written, one after the other.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from diffvis_jax.checkpoints import store
from diffvis_jax.checkpoints.conversion_plan import Plan, make_plan
from diffvis_jax.checkpoints.format import raise_if, resolve, unflatten
from diffvis_jax.checkpoints.formats.open import Checkpoint, open_checkpoint
from diffvis_jax.checkpoints.formats.tensors import FLOATS, Tensor
from diffvis_jax.checkpoints.hub import download
from diffvis_jax.checkpoints.keys.rules import Rule
from diffvis_jax.checkpoints.source_config import read_source_config
from diffvis_jax.checkpoints.writer import Writer, check_target
from diffvis_jax.errors import CheckpointError
from diffvis_jax.quantisation import QuantConfig, Quantiser, QuantReport
from diffvis_jax.utils.memory import peak_memory_mb
from diffvis_jax.utils.progress import Progress

# Files worth keeping beside the weights.
_COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)


def convert(
    source: str | os.PathLike[str],
    directory: str | Path,
    *,
    dtype: str | None = "float32",
    size: int | None = None,
    activation: str | None = None,
    vision_tower: str | os.PathLike[str] | None = None,
    vision_only: bool = False,
    need_language: bool = False,
    verify: bool = False,
    quantise: QuantConfig | None = None,
    force: bool = False,
    say: Callable[[str], None] = print,
    on_report: Callable[[QuantReport], None] = lambda _: None,
) -> Path:
    """Converts a PyTorch checkpoint into a weight directory.

    Args:
      source: a directory, a file (`.safetensors`, `.bin`, `.pt`), or "hf:REPO[@REVISION]".
      directory: where the result goes, such as "weights/NAME".
      dtype: "float32" or "bfloat16", of the matrices (see `store.storage_dtype`); None = the
        smallest that loses nothing: bfloat16 if all weights are, else float32.
      size: side of a FastViTHD's input in pixels; None = as the files say.
      activation: of a CLIP tower; None = as the files say.
      vision_tower: where the tower is, if `source` has none, as LLaVA-1.5's own release: likewise a
        directory, a file or "hf:REPO[@REVISION]".
      vision_only: whether to leave a language model out.
      need_language: whether a checkpoint without a language model is an error.
      verify: whether to compare with PyTorch before writing (needs the extra `parity`).
      quantise: how matrices are quantised; None = they are not.
      force: whether an existing weight directory is replaced.
      say: where lines for the user go.
      on_report: called with what quantising did, before the directory appears.

    Returns:
      The absolute path of the directory.

    Raises:
      ConfigError: matrices that cannot be quantised so.
      CheckpointError: the source cannot be converted, with every reason found, or it differs from
        PyTorch's; nothing is written then, and nothing that was there is lost.
    """
    check_target(resolve(directory), force=force)
    if verify:
        from diffvis_jax.checkpoints.torch_reference import require_torch

        require_torch()
    source = os.fspath(source)
    path, revision = _find(source)
    checkpoint = open_checkpoint(path)
    # Also for a file named by itself: config files of another model would contradict its weights.
    files = read_source_config(checkpoint.directory)
    if vision_tower is not None:
        tower = open_checkpoint(_find(os.fspath(vision_tower))[0])
        files = files.with_tower(read_source_config(tower.directory))
        checkpoint = _with_tower(checkpoint, tower)
    if dtype is None:
        dtype = _lossless_dtype(checkpoint)
    plan = make_plan(
        checkpoint.tensors,
        files,
        dtype=dtype,
        size=size,
        activation=activation,
        vision_only=vision_only,
    )
    if need_language and plan.language_config is None:
        raise CheckpointError(f"{source} holds a vision tower, but no language model")
    _describe(plan, checkpoint, say)
    configs = {"vision": plan.config, "language": plan.language_config}
    quantiser = quantise and Quantiser.of(quantise, configs)

    total = sum(len(tensors) for tensors in plan.tensors.values())
    vision: dict[str, np.ndarray] = {}
    bad: list[str] = []
    with Writer(directory, force=force) as writer, Progress(total, "converting") as progress:
        for tree in ("vision", "language"):
            rules, tensors = plan.rules[tree], plan.tensors[tree]
            for leaf_path, leaf in _leaves(rules, tensors, dtype, progress, bad):
                quantised = quantiser(tree, leaf_path, leaf) if quantiser else leaf
                writer.add(tree, leaf_path, quantised)
                if verify and tree == "vision":
                    vision[leaf_path] = leaf
        raise_if(bad, "weights that are not finite")
        if verify:
            from diffvis_jax.checkpoints.verify import verify_tower

            language = plan.language_config is not None
            verify_tower(
                plan.config, unflatten(vision), plan.tensors["vision"], say, language=language
            )
        copied = {name: checkpoint.directory / name for name in _COPIED}
        copied["source_config.json"] = checkpoint.directory / "config.json"
        copied |= {p.name: p for p in checkpoint.directory.glob("LICENSE*")}
        if quantiser:
            on_report(quantiser.report())
        result = writer.finish(
            configs,
            manifest_extra={
                # Not the path: it is nobody's business where the files lay.
                "source": source if revision else path.resolve().name,
                "revision": revision,
                "source_files": {p.name: p.stat().st_size for p in checkpoint.files},
                "ignored": checkpoint.ignored | plan.ignored,
            },
            files={name: file for name, file in copied.items() if file.is_file()},
        )
    kind = f", {quantise.name} matrices" if quantise else ""
    say(f"wrote {result.name}: {writer.bytes / 1e6:.1f} MB of parameters, {dtype}{kind}")
    if peak := peak_memory_mb():
        say(f"peak memory of this process: {peak:.0f} MB")
    return result


def _find(source: str) -> tuple[Path, str | None]:
    """Where a checkpoint is, and its revision if it comes from the hub."""
    if source.startswith("hf:"):
        return download(source)
    return Path(os.path.expanduser(source)), None


def _with_tower(checkpoint: Checkpoint, tower: Checkpoint) -> Checkpoint:
    """Both as one, as if the tower had been saved with the rest."""
    if both := sorted(checkpoint.tensors.keys() & tower.tensors.keys()):
        raise CheckpointError(f"{both[0]} is in the checkpoint, and in that of its vision tower")
    return dataclasses.replace(
        checkpoint,
        tensors=checkpoint.tensors | tower.tensors,
        files=checkpoint.files + tower.files,
        ignored=checkpoint.ignored | tower.ignored,
    )


def _lossless_dtype(checkpoint: Checkpoint) -> str:
    floats = {tensor.dtype for tensor in checkpoint.tensors.values()} & FLOATS
    return "bfloat16" if floats == {np.dtype(ml_dtypes.bfloat16)} else "float32"


def _leaves(
    rules: list[Rule],
    tensors: Mapping[str, Tensor],
    dtype: str,
    progress: Callable[[str], None],
    bad: list[str],
) -> Iterator[tuple[str, np.ndarray]]:
    """Reads, converts and casts, rule by rule -> (path, leaf).

    Tensors with NaN or infinity are added to `bad`; from the first of them on nothing is converted
    any more, and the rest is read only to find the others.
    """
    for rule in rules:
        read = {}
        for key in rule.sources:
            tensor = tensors[key]
            read[key] = tensor.load()
            if not _all_finite(read[key]):
                bad.append(f"{tensor.name}: NaN or infinite weights")
            progress(tensor.name)
        if bad:
            continue
        built = rule.build(read)
        del read
        for (path, shape), array in zip(rule.targets.items(), built, strict=True):
            if array.shape != shape:
                raise AssertionError(f"{path}: built {array.shape}, declared {shape}")
            target = store.storage_dtype(path, shape, dtype)
            with np.errstate(over="ignore"):  # reported below, by name
                leaf = np.array(array, target, order="C")
            if not _all_finite(leaf):
                bad.append(f"{path}: overflows {target.name}")
                continue
            yield path, leaf


def _all_finite(array: np.ndarray) -> bool:
    """Whether there is no NaN or infinity; a few megabytes at a time, to bound the memory."""
    flat = array.reshape(-1)
    step = 1 << 22
    return all(bool(np.isfinite(flat[i : i + step]).all()) for i in range(0, flat.size, step))


def _describe(plan: Plan, checkpoint: Checkpoint, say: Callable[[str], None]) -> None:
    names = ", ".join(file.name for file in checkpoint.files)
    lines = [f"read {len(checkpoint.tensors)} tensors in {names}", f"tower: {plan.config}"]
    if plan.language_config is not None:
        lines.append(f"language model: {plan.language_config}")
    reasons: dict[str, list[str]] = {}
    for name, reason in (checkpoint.ignored | plan.ignored).items():
        reasons.setdefault(reason, []).append(name)
    for reason, ignored in reasons.items():
        more = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
        lines.append(f"ignored: {ignored[0]}{more} ({reason})")
    for line in [*lines, *(f"note: {note}" for note in plan.notes)]:
        # Names in foreign files may hold what no encoding has.
        say(line.encode(errors="backslashreplace").decode())
