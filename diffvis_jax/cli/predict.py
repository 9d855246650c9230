"""Answers a question about screenshots: one, a sequence, or many sequences.

    diffvis predict SCREENSHOTS --model MODEL --prompt "What is open?"

Frames of a sequence are encoded differentially, and prompts read likewise: what did not change is
reused, and every frame says what was. --benchmark answers everything twice, differentially and in
full, and compares. docs/predict.md has the details.
"""

import argparse
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffvis_jax.cli.answering_options import (
    add_answer_options,
    add_differential_options,
    add_model_options,
    answerer_options,
    check_differential_options,
    load_model,
    make_policy,
    make_question,
)
from diffvis_jax.cli.answers_page import AnswersPage, add_page, check_page
from diffvis_jax.cli.chosen_size import check_size, sized_models
from diffvis_jax.cli.command_line import (
    Parser,
    check_directory,
    check_file,
    clear_line,
    number,
    run_script,
    tell,
    whole,
)
from diffvis_jax.cli.predict_output import (
    Journal,
    Looks,
    frame_text,
    is_directory,
    summary_tiles,
)
from diffvis_jax.cli.source import WHAT, add_max_frames

if TYPE_CHECKING:  # so that --help does not wait for JAX
    import diffvis_jax as dv
    from diffvis_jax.agent.answering import Answerer
    from diffvis_jax.images.anyres import Frame
    from diffvis_jax.measure.answer_pairs import Comparison

WARM_UP_FRAMES = 2  # one that is encoded in full, one in part


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser, required=True)
    what = parser.add_argument_group("the pictures (one of the first five)")
    source = what.add_mutually_exclusive_group(required=True)
    source.add_argument("source", metavar="SOURCE", nargs="?", help=WHAT)
    source.add_argument("--image-file", metavar="FILE", type=Path, help="one picture")
    source.add_argument(
        "--image-sequence", metavar="FILE", type=Path, nargs="+", help="pictures, in this order"
    )
    source.add_argument(
        "--image-dir",
        metavar="DIR",
        type=Path,
        help="a directory of pictures, in the order of their names (frame_2 before frame_10), or "
        "of its session.json",
    )
    source.add_argument(
        "--sequence-root",
        metavar="DIR",
        type=Path,
        help="a directory of such directories; nothing is carried over from one to the next",
    )
    what.add_argument(
        "--sequence-limit",
        metavar="N",
        type=whole(1, 10**6, "a whole number of sequences >= 1"),
        help="at most so many sequences of --sequence-root",
    )
    add_max_frames(what.add_argument)
    what.add_argument(
        "--strict",
        action="store_true",
        help="stop at a frame that cannot be read (default: leave it out, and say so)",
    )
    add_answer_options(parser)
    parser.set_defaults(prompt="Describe the image.")
    add_differential_options(parser)
    heat = parser.add_argument_group("where the model looks")
    heat.add_argument(
        "--save-heatmap",
        metavar="PATH",
        type=Path,
        help="draw what the last token of the prompt attends to onto the picture: a file for one "
        "picture, a directory for several",
    )
    heat.add_argument(
        "--heatmap-layer", metavar="N", type=int, default=-1, help="of the language model (-1)"
    )
    heat.add_argument(
        "--heatmap-layer-avg-k",
        metavar="K",
        type=whole(1, 1000, "a whole number of layers >= 1"),
        default=1,
        help="mean over the K layers that end with that one (1)",
    )
    heat.add_argument(
        "--heatmap-alpha",
        metavar="A",
        type=number(0, 1, "a strength, 0-1"),
        default=0.45,
        help="strength where it is hottest (0.45)",
    )
    heat.add_argument(
        "--heatmap-mode",
        choices=("smooth", "tile"),
        default="smooth",
        help="smooth: interpolated; tile: a square for each patch (smooth)",
    )
    heat.add_argument(
        "--click-regions",
        metavar="N",
        type=whole(0, 1000, "a whole number of regions >= 0"),
        default=0,
        help="also list, and draw, the N best candidates to click (0)",
    )
    out = parser.add_argument_group("what is told")
    out.add_argument(
        "--benchmark",
        action="store_true",
        help="answer everything twice, in full and differentially, and compare times and results",
    )
    out.add_argument(
        "--diff-print-stats", action="store_true", help="print counts after each sequence"
    )
    out.add_argument(
        "--output-json",
        metavar="FILE",
        type=Path,
        help="write everything there; kept up to date while it runs, so that an interrupted run "
        "keeps what it has",
    )
    add_page(out.add_argument)
    return parser


# ---- what is looked at ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Frames:
    """A sequence of pictures."""

    name: str
    paths: tuple[Path, ...]


def find_sequences(args: argparse.Namespace) -> list[Frames]:
    """The sequences that the options name, each with at most `--max-frames`; reads no pixels.

    Raises:
      ImageError: there are none, or a file that is named is not there.
    """
    from diffvis_jax.images.geometry import ImageError
    from diffvis_jax.images.recording import read_recording, sequence_folders, shown
    from diffvis_jax.images.source import read_source

    if args.sequence_limit is not None and args.sequence_root is None:
        raise ValueError("--sequence-limit counts the sequences of --sequence-root: give that")
    if args.source is not None:
        found = read_source(args.source, most=args.max_frames, say=tell)
        return [Frames(found.title, found.paths)]
    if args.image_dir is not None:
        paths = read_recording(args.image_dir).paths[: args.max_frames]
        return [Frames(shown(args.image_dir.name), paths)]
    if args.sequence_root is not None:
        folders = sequence_folders(args.sequence_root)[: args.sequence_limit]
        return [
            Frames(shown(folder.name), read_recording(folder).paths[: args.max_frames])
            for folder in folders
        ]
    files = tuple(args.image_sequence or [args.image_file])[: args.max_frames]
    for file in files:
        if not file.is_file():
            raise ImageError(f"no such file: '{file}'")
    return [Frames(files[0].name if len(files) == 1 else "sequence", files)]


def check_outputs(args: argparse.Namespace, several: bool) -> None:
    """Finds out before the work whether its results can be written.

    Raises:
      OSError: they cannot.
      ValueError: one file for several heatmaps.
    """
    if args.output_json is not None:
        check_file("--output-json", args.output_json)
    check_page(args)
    target = args.save_heatmap
    if target is None:
        return
    if is_directory(target):
        check_directory("--save-heatmap", target)
    elif several:
        raise ValueError(f"--save-heatmap: several pictures need a directory, not '{target}'")
    else:
        check_file("--save-heatmap", target)


# ---- the run ----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    args = build_parser().parse_args(arguments)
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Checks everything that can be checked, then loads, answers and reports."""
    # Here, so that --help and wrong options do not wait for JAX.
    from diffvis_jax.agent.answering import Answerer
    from diffvis_jax.measure.answer_pairs import Comparison

    sequences = find_sequences(args)
    count = sum(len(sequence.paths) for sequence in sequences)
    check_outputs(args, several=count > 1)
    check_differential_options(args)
    check_size(args)
    model = load_model(args, language=True)
    policy = None if args.disable_differential else make_policy(args, model)
    sized = sized_models(args, model, [sequence.paths for sequence in sequences], policy)
    model = sized[0]  # what there is room for is found out with its size; others may differ
    looks = Looks(args, model)
    if looks.wants_attention and args.compress != "none":
        raise ValueError(
            "--save-heatmap and --click-regions look at all tokens of a frame: drop --compress"
        )
    if looks.wants_attention and args.layer_keep is not None:
        raise ValueError(
            "--save-heatmap and --click-regions look at all layers' tokens: drop --layer-keep"
        )
    options = {"attention": looks.wants_attention, **answerer_options(args, model)}
    question = make_question(args, model)
    if args.benchmark:
        runner = Comparison(model, question, **options)
    else:
        runner = Answerer(model, question, **options, differential=not args.disable_differential)
    journal = Journal(args, model)
    page = None if args.page is None else AnswersPage(args, model)
    try:
        if isinstance(runner, Comparison):
            tell("compiling ...")
            frames = read_frames(sequences[0], model, args.strict, lambda path, error: None)
            first = [frame for _, _, frame in itertools.islice(frames, WARM_UP_FRAMES)]
            journal.warm_up_s = runner.warm_up(first)
        answer_all(args, model, runner, sequences, looks, journal, page)
    except KeyboardInterrupt:
        tell("\ninterrupted; what was done until then:")
        journal.close(complete=False)
        return 130
    else:
        if not journal.answered:
            raise ValueError(f"none of the {count} pictures could be read")
        journal.close(complete=True)
        return 0
    finally:  # whatever ends it: the page holds what was answered
        if page is not None:
            names = ", ".join(sequence.name for sequence in sequences)
            page.write(names, summary_tiles(journal.summary()))


def answer_all(
    args: argparse.Namespace,
    model: "dv.Model",
    runner: "Answerer | Comparison",
    sequences: list[Frames],
    looks: Looks,
    journal: Journal,
    page: AnswersPage | None,
) -> None:
    """Answers about every frame of every sequence, and tells each answer as it comes."""
    from diffvis_jax.images.recording import open_screenshot, shown
    from diffvis_jax.measure.answer_pairs import Comparison, Pair
    from diffvis_jax.utils.progress import Progress

    ours = runner.differential if isinstance(runner, Comparison) else runner
    count = sum(len(sequence.paths) for sequence in sequences)
    with Progress(count, "answering") as progress:

        def leave_out(path: Path, error: Exception) -> None:
            tell(f"warning: left out: {error}")
            journal.leave_out(path, error)
            progress(path.name)

        for sequence in sequences:
            runner.reset()
            journal.begin(sequence.name)
            if len(sequences) > 1:
                say(f"\n=== {sequence.name}: {len(sequence.paths)} frames ===")
            for place, path, frame in read_frames(sequence, model, args.strict, leave_out):
                # One picture: its answer is shown as it comes.
                found = runner.answer(frame, stream if count == 1 else None)
                answer = found.differential if isinstance(found, Pair) else found
                extra = looks.at(path, answer, journal.answered)
                if count == 1:
                    say("")
                else:
                    say(f"[{place}/{len(sequence.paths)}] {path.name}: {answer.text}")
                say(frame_text(found, extra))
                journal.add(path, found, extra)
                if page is not None:
                    before = f"{sequence.name}: " if len(sequences) > 1 else ""
                    page.add(
                        before + shown(path.name),
                        open_screenshot(path),
                        ours.encoder and ours.encoder.report,
                        answer.encoded,
                        answer.encode_ms,
                        found,
                        extra,
                        compile_s=found.compile_s,
                        attention=looks.heat(answer),
                    )
                progress(path.name)
            journal.end(ours.stats())
            if args.diff_print_stats:
                for name, value in ours.stats().items():
                    say(f"  {name}: {value:g}")


def read_frames(
    sequence: Frames,
    model: "dv.Model",
    strict: bool,
    on_left_out: Callable[[Path, Exception], None],
) -> "Iterator[tuple[int, Path, Frame]]":
    """Number from 1, file and frame, as `make_frame` gives it, of each picture that can be read.

    Raises:
      ImageError: one that cannot, with `strict`; otherwise `on_left_out` is called.
    """
    import diffvis_jax as dv
    from diffvis_jax.images.anyres import make_frame
    from diffvis_jax.images.frame_stream import FrameStream

    stream = FrameStream(model.config)
    for place, path in enumerate(sequence.paths, 1):
        try:
            frame = make_frame(path, model.config, stream)
        except dv.ImageError as error:
            if strict:
                raise
            on_left_out(path, error)
            continue
        yield place, path, frame


def say(text: str) -> None:
    """A line of the results."""
    clear_line()
    print(text, flush=True)


def stream(text: str) -> None:
    """A piece of an answer."""
    print(text, end="", flush=True)
