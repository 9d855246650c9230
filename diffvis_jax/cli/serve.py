"""Answers OpenAI's clients: a server whose sessions keep what did not change.

    diffvis serve --model DIR --port 8077
    diffvis serve --config serve.yaml

It takes POST /v1/chat/completions with pictures as data: URLs, and shows a page at its address.
docs/serving.md has the details.
"""

import argparse
from pathlib import Path
from typing import Any

from diffvis_jax.cli.command_line import Parser, number, run_script, tell, whole
from diffvis_jax.cli.models import WHAT

_FLAGS = {
    "model": "model.path",
    "name": "model.name",
    "policy": "model.policy",
    "dtype": "model.dtype",
    "host": "serve.host",
    "port": "serve.port",
    "memory_mb": "serve.memory_mb",
}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", "--model-path", metavar="MODEL", help=WHAT)
    add("--name", help="by which clients ask for it (default: the directory's)")
    add("--config", metavar="FILE", help="a YAML file, or the name of a preset")
    add("--policy", choices=("exact", "faithful", "fast", "whole", "off"), help="(faithful)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the computation (as the weights are)")
    add("--host", metavar="ADDRESS", help="where it listens (127.0.0.1)")
    add("--port", metavar="N", type=whole(0, 65535, "a port"), help="0 = any (8077)")
    megabytes = number(1, 1e9, "a number of megabytes >= 1")
    add(
        "--memory-mb",
        metavar="MB",
        type=megabytes,
        help="of sessions (default: a quarter of what is free)",
    )
    add(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="any other setting, in YAML",
    )
    add("--explain", metavar="FILE", type=Path, help="where would the router send this request?")
    add("--show-config", action="store_true", help="print every setting and where it is from")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Reads the settings, loads, and serves until it is told to end."""
    try:
        from diffvis_jax.serve import settings_file
    except ImportError as error:
        raise ImportError(f'{error}: pip install "diffvis_jax[serve]"') from None

    given: dict[str, Any] = {
        path: value for flag, path in _FLAGS.items() if (value := getattr(args, flag)) is not None
    }
    for text in args.set:
        path, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set {text!r}: expected PATH=VALUE, as limits.images=4")
        given |= settings_file.as_yaml({path: value})
    settings, sources = settings_file.load_settings(args.config, given)
    keys = settings_file.read_keys(settings.serve)
    if args.show_config:
        print(settings_file.show_settings(settings, sources))
        return 0
    if args.explain is not None:
        from diffvis_jax.serve.router import explain

        print(explain(settings, args.explain.read_bytes()))
        return 0
    from diffvis_jax.serve.run import serve

    return serve(settings, keys, say=tell)
