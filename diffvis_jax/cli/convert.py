"""Converts a PyTorch checkpoint: `diffvis convert SRC weights/NAME`."""

import argparse

from diffvis_jax.cli.command_line import Parser, run_script


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Parser(description=__doc__)
    parser.add_argument(
        "source",
        metavar="SRC",
        help="checkpoint directory, .safetensors, .bin or .pt file, or hf:REPO[@REVISION]",
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
        "--force", action="store_true", help="replace weights/NAME if it exists already"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = parse_arguments(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    # Here, so that --help and wrong options do not wait for JAX.
    from diffvis_jax.checkpoints.convert import convert

    convert(
        args.source,
        args.directory,
        dtype=args.dtype,
        size=args.size,
        activation=args.activation,
        vision_tower=args.vision_tower,
        vision_only=args.vision_only,
        verify=args.verify,
        force=args.force,
    )
    return 0
