"""The command `diffvis`: which of its commands is meant. Imports nothing slow."""

import difflib
import importlib
import sys

import diffvis_jax

COMMANDS = {
    "demo": "encode a recorded session differentially; draw what it saves and what it misses",
    "predict": "answer a question about screenshots",
    "watch": "encode your screen, or a folder that is being filled, as it changes",
    "convert": "convert a PyTorch checkpoint",
    "calibrate": "choose what may be left out, on your screenshots",
    "profile": "measure what frames of each size cost, and what is found in them",
    "evaluate": "score full and differential encodes on a data set",
    "benchmark": "time single changes, batches and full encodes",
    "compare": "compare with other ways of doing less",
    "serve": "answer OpenAI's clients, and keep what did not change between turns",
    "runtime": "replay sessions to a control loop: deadlines, ages, change missed",
    "stats": "say how redundant screens are, without any model",
    "doctor": "look at this machine, and time a full encode and a small step",
}
HELP = f"""\
usage: diffvis COMMAND ... (diffvis COMMAND --help tells more)

Encode only what changed on the screen.

{chr(10).join(f"  {name:<10} {what}" for name, what in COMMANDS.items())}

  --version  print the version
"""


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if name in ("-V", "--version"):
        print(f"diffvis_jax {diffvis_jax.__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: no command '{name}': {meant} (see diffvis --help)", file=sys.stderr)
        return 2
    sys.argv[0] = f"diffvis {name}"  # as argparse shows it
    return importlib.import_module(f"diffvis_jax.cli.{name}").main(rest)
