"""The size of the frames on a command line: as it is named, or as a profile says."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvis_jax.cli.command_line import number, sides, tell
from diffvis_jax.cli.frame_sizes import BOUNDS, sized_for

if TYPE_CHECKING:  # so that --help does not wait for JAX
    import diffvis_jax as dv

AUTO = "auto"


def _size(text: str) -> Any:
    return text if text == AUTO else sides(text)


def add_size(add: Callable[..., Any]) -> None:
    """The options; `add` is a parser's or a group's `add_argument`."""
    add(
        "--size",
        type=_size,
        metavar="N",
        help="side of a square frame in pixels, of Qwen2.5-VL the longer side, or HEIGHTxWIDTH; "
        "'auto': the largest that keeps --latency-budget-ms (default: the model's own)",
    )
    add(
        "--latency-budget-ms",
        type=number(1e-3, 1e9, "a number of milliseconds above 0"),
        metavar="N",
        help="with --size auto: 95 of 100 encodes are to take no longer, by --profile",
    )
    add("--profile", type=Path, metavar="FILE", help="of diffvis profile, for --size auto")


def check_size(args: argparse.Namespace) -> None:
    """Raises ValueError if an option is missing that another one needs, or rules out."""
    needs = {"--latency-budget-ms": args.latency_budget_ms, "--profile": args.profile}
    for flag, value in needs.items():
        if (value is None) == (args.size == AUTO):
            missing = "give that" if value is None else f"drop it, or give --size {AUTO}"
            raise ValueError(f"--size {AUTO} goes with {flag}: {missing}")
    if args.size is not None:
        for name in BOUNDS:
            if getattr(args, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise ValueError(f"--size says how large frames are: drop it or {flag}")


def sized_models(
    args: argparse.Namespace,
    model: dv.Model,
    recordings: Sequence[Iterable[Any]],
    policy: dv.Policy | None,
) -> list[dv.Model]:
    """The model at the size of the options, for the pictures of each recording.

    The size is chosen once: it stays for all of them.

    Args:
      model: as it was loaded.
      recordings: pictures, as `sized_for` takes them.
      policy: with which they are encoded; None = in full.

    Raises:
      ValueError: no size fits, a profile of something else, or screens of another shape.
    """
    if args.size is None:
        return [sized_for(model, pictures) for pictures in recordings]
    from diffvis_jax.errors import ConfigError
    from diffvis_jax.resolution.choose import check_profile, choose_size, policy_name
    from diffvis_jax.resolution.profile import load_profile
    from diffvis_jax.resolution.sizes import size_text
    from diffvis_jax.towers import build

    if args.size == AUTO:
        profile = load_profile(args.profile)
        check_profile(profile, model)
        name = policy_name(profile, policy)
        choice = choose_size(profile, args.latency_budget_ms, policy=name)
        tell(f"--size {AUTO}: {choice.why}")
        config, wanted = choice.row.config(model.config), choice.size
    else:
        config, wanted = _named(args, model, recordings), None
    model = dataclasses.replace(model, config=config)
    sized = [sized_for(model, pictures) for pictures in recordings]
    for each in sized:
        frame = build(each.config).frame
        if wanted and frame != wanted:
            raise ConfigError(
                f"--size {AUTO}: the profile's frames are {size_text(wanted)}, these screens "
                f"become {size_text(frame)}: measure a profile of screens of their shape"
            )
    return sized


def _named(args: argparse.Namespace, model: dv.Model, recordings: Sequence[Iterable[Any]]) -> Any:
    """The config at the size that was named, for the first picture that can be read."""
    from diffvis_jax.cli.frame_sizes import picture_sizes
    from diffvis_jax.resolution.sizes import at_size, keeps_shape

    screens = (size for pictures in recordings for _, size in picture_sizes(pictures))
    screen = next(screens, None) if keeps_shape(model.config) else (1, 1)
    # Without a picture nothing is encoded, and that is told later.
    return model.config if screen is None else at_size(model.config, args.size, screen)
