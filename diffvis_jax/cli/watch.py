"""Watches a screen, or a folder that is being filled, and encodes it differentially.

    diffvis watch                        # the screen (extra: watch), until Ctrl-C
    diffvis watch DIR                    # images as they appear there
    diffvis watch --model MODEL --prompt "What has changed?"
    diffvis watch --view base=DIR --view wrist=DIR    # several views of one agent

Prints a line for each frame of which something was recomputed: what changed, what was done, how
long it took and, every N frames, the true error of the tokens. With a prompt, the model answers it
whenever the screen changes.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvis_jax.cli.answering_options import (
    add_answer_options,
    add_differential_options,
    add_model_options,
    answerer_options,
    check_answer_options,
    load_model,
    make_policy,
    make_question,
    make_space,
)
from diffvis_jax.cli.answers_page import AnswersPage, add_page, check_page
from diffvis_jax.cli.chosen_size import check_size, sized_models
from diffvis_jax.cli.command_line import Parser, clear_line, number, run_script, tell, whole
from diffvis_jax.cli.predict_output import extra_lines, read_commands
from diffvis_jax.cli.source import add_max_frames
from diffvis_jax.cli.watch_views import check_views, run_views, view

if TYPE_CHECKING:  # so that --help does not wait for JAX
    import diffvis_jax as dv
    from diffvis_jax.agent.answering import Answer, Answerer
    from diffvis_jax.images.anyres import Frame

OF_THE_SCREEN = ("monitor", "region", "display")
OF_THE_ANSWERS = (
    *("prompt_style", "coordinates", "conv_mode", "temperature", "top_p", "num_beams"),
    *("add_vision_id", "repetition_penalty", "max_new_tokens", "history", "seed", "min_change"),
    *("compress", "token_budget", "history_layout", "history_tolerance", "layer_keep"),
    *("decode_dtype", "prefill", "prefill_refresh", "prefill_tolerance"),
)


def _region(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected LEFT,TOP,WIDTH,HEIGHT in pixels, got {text!r}"
        ) from None
    return left, top, width, height


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group("what is watched (default: the first monitor)")
    what.add_argument(
        "folder",
        metavar="SOURCE",
        nargs="?",
        default=argparse.SUPPRESS,
        help="'screen', or a folder: images that are there, and those that come",
    )
    what.add_argument("--folder", help=argparse.SUPPRESS)
    what.add_argument(
        "--view",
        metavar="NAME=SOURCE",
        type=view,
        action="append",
        help="a view of one agent, by its name; given for each of them, in place of SOURCE",
    )
    what.add_argument(
        "--monitor",
        metavar="N",
        type=whole(0, 64, "a whole number of a monitor, 0 = all together"),
        help="which monitor, 0 = all together (1)",
    )
    what.add_argument(
        "--region", metavar="L,T,W,H", type=_region, help="a part of it: left, top, width, height"
    )
    what.add_argument("--display", metavar="NAME", help="X display (default: $DISPLAY)")
    what.add_argument(
        "--interval",
        metavar="SECONDS",
        type=number(0.01, 3600, "a number of seconds, 0.01-3600"),
        default=0.5,
        help="between two looks (0.5)",
    )
    add_max_frames(what.add_argument, "--frames")
    what.add_argument(
        "--idle",
        metavar="SECONDS",
        type=number(0, 1e6, "a number of seconds >= 0"),
        help="of a folder: stop after so long without a new image (default: never)",
    )
    add_model_options(parser, required=False)
    add_differential_options(parser, disable=False)
    add_answer_options(parser)
    parser.add_argument(
        "--min-change",
        metavar="N",
        type=whole(1, 10**6, "a whole number of patches >= 1"),
        help="changed patches that make the model answer --prompt again (1)",
    )
    parser.add_argument(
        "--audit-every",
        metavar="N",
        type=whole(0, 10**9, "a whole number of frames >= 0"),
        default=0,
        help="measure the true error every N frames, by a full encode; 0 = never (0)",
    )
    parser.add_argument(
        "--all", action="store_true", help="a line for every frame, idle ones as well"
    )
    add_page(parser.add_argument)
    return parser


# ---- frames -----------------------------------------------------------------------------------


def screen_frames(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The screen, every `--interval` seconds (or as often as there is time)."""
    from diffvis_jax.images.capture import Screen

    monitor = 1 if args.monitor is None else args.monitor
    with Screen(monitor, region=args.region, display=args.display) as screen:
        due = time.monotonic()
        while True:
            yield time.strftime("%H:%M:%S"), screen.grab()
            due = max(due + args.interval, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))


def folder_frames(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The images of a folder as they come."""
    from diffvis_jax.images.capture import new_frames
    from diffvis_jax.images.recording import shown

    for path in new_frames(args.folder, poll=args.interval, idle=args.idle):
        yield shown(path.name), path


# ---- the run ----------------------------------------------------------------------------------


def check_options(args: argparse.Namespace) -> None:
    """Raises ValueError if an option is about something that another one rules out, or needs."""
    parser = build_parser()

    def given(names: tuple[str, ...]) -> str | None:
        """The first of these options that is not as it is by default."""
        for name in names:
            if getattr(args, name) != parser.get_default(name):
                return f"--{name.replace('_', '-')}"
        return None

    if args.view:
        check_views(args, given)
    if args.prompt is not None and args.model is None:
        raise ValueError("--prompt needs a language model: name one by --model")
    if args.prompt is None and (flag := given(OF_THE_ANSWERS)):
        raise ValueError(f"{flag} is about the answers to --prompt: give that")
    if args.folder is not None and (flag := given(OF_THE_SCREEN)):
        raise ValueError(f"{flag} is about the screen: drop it or --folder")
    if args.idle is not None and args.folder is None and not args.view:
        raise ValueError("--idle is about --folder: a screen always has a next frame")
    check_answer_options(args)
    check_size(args)
    check_page(args)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    args.folder = None if args.folder in (None, "screen") else Path(args.folder)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Checks everything that can be checked, then loads and watches."""
    # Here, so that --help and wrong options do not wait for JAX.
    import diffvis_jax as dv
    from diffvis_jax.agent.answering import Answerer
    from diffvis_jax.report.table import machine_text, tower_text

    check_options(args)
    if args.view:
        return run_views(args)
    frames = folder_frames(args) if args.folder is not None else screen_frames(args)
    first = next(frames, None)  # before the model is loaded: is there anything to watch?
    if first is None:
        raise ValueError(f"no image came into '{args.folder}'")
    model = load_model(args, language=args.prompt is not None)
    (model,) = sized_models(args, model, [[first[1]]], make_policy(args, model))
    answerer = None
    if args.prompt is not None:
        answerer = Answerer(model, make_question(args, model), **answerer_options(args, model))
        encoder = answerer.encoder
        assert encoder is not None
    else:
        encoder = dv.DifferentialVisionEncoder(model, make_policy(args, model))
    tell(f"{tower_text(model)}; {machine_text()}")
    tell("compiling at the first frames ...")
    watcher = Watcher(args, encoder, answerer)
    watcher.head()
    try:
        for label, image in itertools.islice(itertools.chain([first], frames), args.max_frames):
            watcher.see(label, image)
    except KeyboardInterrupt:  # the ordinary end
        clear_line()
    finally:  # whatever ends it, such as a screen that is gone
        watcher.totals()
    return 0


class Watcher:
    """Encodes frame after frame, and prints the table."""

    def __init__(
        self,
        args: argparse.Namespace,
        encoder: "dv.DifferentialVisionEncoder",
        answerer: "Answerer | None",
    ):
        from diffvis_jax.images.frame_stream import FrameStream

        self._args, self._encoder, self._answerer = args, encoder, answerer
        self._frames = FrameStream(encoder.model.config)
        self._start = time.monotonic()
        self._idle_since: float | None = None
        self._shape: tuple[int, ...] = ()
        self._seen = self._left_out = self._answers = 0
        self._times: dict[str, list[float]] = {}
        self._errors: list[float] = []
        self._compile_s = 0.0
        self._page = None if args.page is None else AnswersPage(args, encoder.model)

    def head(self) -> None:
        """The names of the columns."""
        print(_line(["s", "path", "changed", "recomputed", "pending", "ms", "error"]) + "  frame")

    def see(self, label: str, image: Any) -> None:
        """One frame; an image that cannot be read is left out, and said to be."""
        import jax
        import PIL.Image

        import diffvis_jax as dv
        from diffvis_jax.core.report import combine
        from diffvis_jax.images.anyres import make_frame
        from diffvis_jax.images.preprocess import open_image, upright_rgb
        from diffvis_jax.utils.compile_time import watch_compilation

        config = self._encoder.model.config
        try:
            # Read once: when it is answered, its file may hold the next picture.
            if isinstance(image, Path):
                with open_image(image, "image") as opened:
                    picture = upright_rgb(opened, "image")
            else:
                picture = PIL.Image.fromarray(image)
            frame = make_frame(picture, config, self._frames)
        except dv.ImageError as error:
            tell(f"warning: left out: {label}: {error}")
            self._left_out += 1
            return
        with watch_compilation() as compiled:
            start = time.perf_counter()
            tokens = jax.block_until_ready(self._encoder.encode(frame))
            encode_ms = 1e3 * (time.perf_counter() - start)
        assert self._encoder.report is not None
        done = combine(dv.describe(self._encoder.report))
        # Of its size: where the screen has grown or shrunk, there is nothing to compare with.
        first, self._shape, self._seen = frame.shape != self._shape, frame.shape, self._seen + 1
        if compiled.seconds:
            self._compile_s += compiled.seconds
        else:
            self._times.setdefault(done["path"], []).append(encode_ms)
        error = None
        if self._args.audit_every and self._seen % self._args.audit_every == 0:
            error = float(self._encoder.audit().max())
            self._errors.append(error)
        idle = not (first or done["changed_patches"] or done["recomputed"])
        if idle and error is None and not self._args.all:
            self._show_idle()
            return
        self._idle_since = None
        clear_line()
        columns = [
            f"{time.monotonic() - self._start:.1f}",
            done["path"],
            f"{done['changed_patches']}/{done['total_patches']}",
            f"{done['recomputed']:.1%}",
            f"{done['pending']:.1%}",
            f"{encode_ms:.0f}",
            "" if error is None else f"{error:.1e}",
        ]
        note = f"  ({compiled.seconds:.1f} s compiling)" if compiled.seconds else ""
        print(f"{_line(columns)}  {label}{note}", flush=True)
        answer, found = None, {}
        if self._answerer is not None and (
            first or done["changed_patches"] >= (self._args.min_change or 1)
        ):
            width, height = picture.size
            where = dv.placement(width, height, config)
            answer, found = self._answer(tokens, frame, done, encode_ms, where)
        if self._page is not None:
            seconds = compiled.seconds + (answer.compile_s if answer else 0.0)
            told = (label, picture, self._encoder.report, done, encode_ms, answer, found)
            self._page.add(*told, compile_s=seconds, error=error)

    def _answer(
        self,
        tokens: Any,
        frame: "Frame",
        done: dict[str, Any],
        encode_ms: float,
        placement: "dv.Placement",
    ) -> "tuple[Answer, dict[str, Any]]":
        """The answer, and what was read out of it."""
        assert self._answerer is not None
        print("  > ", end="", flush=True)
        answer = self._answerer.reply(
            tokens, frame, done, encode_ms, lambda text: print(text, end="", flush=True)
        )
        self._answers += 1
        waited = answer.time_to_first_token_ms
        read = f"{answer.prefilled['prefilled']} of {answer.prefilled['total']} tokens prefilled"
        soon = "" if waited is None else f", first token after {waited:.0f} ms"
        print(f"\n    {read}{soon}", flush=True)
        found = {}
        if self._args.prompt_style == "pyautogui":
            space = make_space(self._args, self._encoder.model)
            found = read_commands(answer.text, space, placement)
            for line in extra_lines(found):
                print(f"    {line}", flush=True)
        return answer, found

    def _show_idle(self) -> None:
        """How long nothing has happened; only where the line can be taken back."""
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        if sys.stderr.isatty():
            text = f"nothing changes, for {now - self._idle_since:.0f} s"
            print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)

    def totals(self) -> None:
        """The summary."""
        from diffvis_jax.metrics import tails
        from diffvis_jax.report.text import TAILS, decimal, milliseconds, tails_text

        left_out = f", {self._left_out} left out (unreadable)" if self._left_out else ""
        print(f"\n{self._seen} frames{left_out}")
        if self._compile_s:
            print(f"compiled {self._compile_s:.1f} s; the frames that waited do not count below")
        if self._times or self._errors:
            print(f"{TAILS}:")
        for path, times in self._times.items():
            print(f"{path}: {len(times)} frames, {tails_text(tails(times), milliseconds)}")
        if self._errors:
            errors = tails_text(tails(self._errors), lambda error: decimal(error, ".1e"))
            print(f"true error of the worst token in {len(self._errors)} audits: {errors}")
        if self._answers:
            print(f"{self._answers} answers")
        if self._page is not None:
            self._page.write(self._title(), self._tiles())

    def _title(self) -> str:
        from diffvis_jax.images.recording import shown

        return "the screen" if self._args.folder is None else shown(str(self._args.folder))

    def _tiles(self) -> list[tuple[str, str]]:
        """Totals, and what they are."""
        from diffvis_jax.report.text import milliseconds

        return [
            (f"{self._seen}", "frames seen"),
            (f"{self._left_out}", "left out (unreadable)"),
            (f"{self._answers}", "answers"),
            *(
                (milliseconds(statistics.median(times)), f"median of {len(times)} encodes, {path}")
                for path, times in self._times.items()
            ),
        ]


def _line(columns: list[str]) -> str:
    widths = (8, -7, 9, 10, 8, 7, 8)
    return " ".join(
        text.rjust(width) if width > 0 else text.ljust(-width)
        for text, width in zip(columns, widths, strict=True)
    )
