"""Converts a PyTorch checkpoint, or quantises weights: `diffvis convert SRC weights/NAME`."""

import argparse
import os
from pathlib import Path
from typing import Any

from diffvis_jax.cli.command_line import Parser, run_script


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "source",
        metavar="SRC",
        help="checkpoint directory, .safetensors, .bin or .pt file, or hf:REPO[@REVISION]; with "
        "--quantise also a directory that this command wrote, or bundled weights by name",
    )
    parser.add_argument("directory", metavar="weights/NAME", help="directory to be written")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the matrices"
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side of FastViTHD's input in pixels (default: as the files say, or 1024)",
    )
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu", "gelu_pytorch_tanh"),
        help="of a CLIP tower without a config.json (default: quick_gelu)",
    )
    parser.add_argument(
        "--vision-tower",
        metavar="TOWER",
        help="where the vision tower is, if SRC has none (LLaVA-1.5's own release: "
        "hf:openai/clip-vit-large-patch14-336)",
    )
    parser.add_argument(
        "--vision-only", action="store_true", help="leave the language model out, if there is one"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare the tower's output with PyTorch's before writing (needs the extra `parity`)",
    )
    parser.add_argument(
        "--quantise",
        choices=("int8", "w8a8", "w8a16", "int4"),
        help="matrices in 8 bits, with activations in floats, 8 or 16 bits; int4: those of a "
        "language model's decoder in 4 bits",
    )
    parser.add_argument(
        "--group", type=int, metavar="N", help="inputs that share a scale, of int4 (default: 64)"
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="PATTERN",
        help="matrices that stay floats, such as 'block_0/*' or 'language/*'; may be repeated",
    )
    parser.add_argument(
        "--report",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="SOURCE",
        help="say what was lost in each kind of layer, and in the tokens of these screenshots",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace weights/NAME if it exists already"
    )
    parser.add_argument(
        "--export-language",
        action="store_true",
        help="the other way: write the decoder of SRC, which this command wrote, as a Hugging Face "
        "Qwen2ForCausalLM, for other engines (docs/engines.md)",
    )
    args = parser.parse_args(arguments)
    chosen = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    if args.export_language and chosen - {"source", "directory", "export_language", "device"}:
        parser.error("--export-language takes no other options: it writes what SRC holds")
    if not args.quantise and (args.skip or args.report or args.group is not None):
        parser.error("--group, --skip and --report belong to --quantise")
    if args.group is not None and args.quantise != "int4":
        parser.error("--group is for --quantise int4: the others have a scale for each output")
    return args


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = parse_arguments(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    # Here, so that --help and wrong options do not wait for JAX.
    from diffvis_jax.checkpoints.bundled import bundled_directory
    from diffvis_jax.checkpoints.convert import convert

    if args.export_language:
        from diffvis_jax.checkpoints.export_language import export_language

        print(f"wrote {export_language(os.path.expanduser(args.source), args.directory)}")
        return 0
    if not args.quantise:
        convert(args.source, args.directory, **_options(args))
        return 0
    from diffvis_jax.checkpoints.quantise_directory import quantise_directory
    from diffvis_jax.cli import quantisation_report as told
    from diffvis_jax.quantisation import QuantConfig, QuantReport

    fields = {} if args.group is None else {"group": args.group}
    quant = QuantConfig.named(args.quantise, skip=tuple(args.skip), **fields)
    source = bundled_directory(args.source) or Path(os.path.expanduser(args.source))
    frames = args.report if args.report != Path() else None
    if (source / "manifest.json").is_file():
        if args.size or args.activation or args.vision_tower or args.verify:
            raise ValueError(
                f"{args.source} is converted already: --size, --activation, --vision-tower and "
                "--verify are for PyTorch checkpoints"
            )
        if frames:
            told.read_frames(source, args.dtype, frames)  # what is wrong with them, before work
        report = quantise_directory(
            source,
            args.directory,
            quant,
            dtype=args.dtype,
            vision_only=args.vision_only,
            force=args.force,
        )
    else:
        if frames:
            raise ValueError(
                f"--report {frames}: to compare tokens the floats are needed: convert "
                f"{args.source} first, then quantise what that wrote"
            )
        reports: list[QuantReport] = []
        convert(
            args.source,
            args.directory,
            quantise=quant,
            on_report=reports.append,
            **_options(args),
        )
        (report,) = reports
    told.print_report(report, details=args.report is not None)
    if frames:
        told.print_fidelity(source, args.directory, args.dtype, frames)
    return 0


def _options(args: argparse.Namespace) -> dict[str, Any]:
    names = "dtype", "size", "activation", "vision_tower", "vision_only", "verify", "force"
    return {name: getattr(args, name) for name in names}
