"""`diffvis watch --view NAME=SOURCE ..`: several screens or folders, each a view of one agent."""

from __future__ import annotations

import argparse
import collections
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffvis_jax.cli.answering_options import load_model, make_policy
from diffvis_jax.cli.command_line import clear_line, tell

if TYPE_CHECKING:  # so that --help does not wait for JAX
    import numpy as np

    from diffvis_jax.images.capture import Screen
    from diffvis_jax.views import ViewEncoder

Look = tuple[str, Any]  # what it is called, and a picture as `preprocess` takes it


def view(text: str) -> tuple[str, str]:
    """A type for `add_argument`: NAME=SOURCE."""
    name, _, source = text.partition("=")
    if not name or not source:
        raise argparse.ArgumentTypeError(
            f"expected NAME=SOURCE, such as wrist=frames/wrist, got {text!r}"
        )
    return name, source


def check_views(args: argparse.Namespace, given: Callable[[tuple[str, ...]], str | None]) -> None:
    """Raises ValueError if options do not go with several views.

    Args:
      given: names of options -> the flag of the first that is not as it is by default.
    """
    names = [name for name, _ in args.view]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"--view: each view has a name of its own, there are several {twice}")
    if args.folder is not None:
        raise ValueError("--view names what is watched: drop SOURCE")
    if flag := given(("prompt", "page", "audit_every")):
        raise ValueError(f"{flag} is about one view: drop it or --view")
    if "screen" not in [source for _, source in args.view]:
        if flag := given(("monitor", "region", "display")):
            raise ValueError(f"{flag} is about the screen: no view is it")
        return
    if args.idle is not None:
        raise ValueError("--idle is about folders: a screen always has a next frame")


# ---- where the pictures of a view come from ---------------------------------------------------


def folder_looks(folder: str) -> Iterator[Look | None]:
    """At each look the next picture of a folder, or None where none has come."""
    from diffvis_jax.images.capture import looks
    from diffvis_jax.images.recording import shown

    waiting: collections.deque[Path] = collections.deque()
    for found in looks(folder):
        waiting.extend(found)
        path = waiting.popleft() if waiting else None
        yield None if path is None else (shown(path.name), path)


def screen_looks(screen: Screen) -> Iterator[Look | None]:
    """At each look what is on the screen."""
    while True:
        yield time.strftime("%H:%M:%S"), screen.grab()


def together(args: argparse.Namespace) -> Iterator[dict[str, Look]]:
    """At each look, every `--interval` seconds, what is new in any view; ends after `--idle`
    seconds without anything new."""
    from diffvis_jax.images.capture import Screen

    screen = None
    try:
        sources: dict[str, Iterator[Look | None]] = {}
        for name, source in args.view:
            if source == "screen":
                monitor = 1 if args.monitor is None else args.monitor
                screen = screen or Screen(monitor, region=args.region, display=args.display)
                sources[name] = screen_looks(screen)
            else:
                sources[name] = folder_looks(source)
        due = last = time.monotonic()
        while args.idle is None or time.monotonic() - last <= args.idle:
            found = {name: next(looks) for name, looks in sources.items()}
            new = {name: look for name, look in found.items() if look is not None}
            yield new
            last = time.monotonic() if new else last
            due = max(due + args.interval, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
    finally:
        if screen is not None:
            screen.close()


# ---- the run ----------------------------------------------------------------------------------


def run_views(args: argparse.Namespace) -> int:
    """Waits for a picture of every view, then loads and watches."""
    from diffvis_jax.cli.frame_sizes import tell_overview
    from diffvis_jax.report.table import machine_text, tower_text
    from diffvis_jax.views import ViewEncoder, ViewSet

    ticks, first = together(args), {}
    for new in ticks:
        first |= new  # the latest of each
        if len(first) == len(args.view):
            break
    if missing := [name for name, _ in args.view if name not in first]:
        source = dict(args.view)[missing[0]]
        raise ValueError(f"--view {missing[0]}: no image came into '{source}'")
    model = load_model(args, language=False)
    tell_overview(model)
    pictures = {name: first[name][1] for name, _ in args.view}
    encoder = ViewEncoder(model, ViewSet.of(pictures, model), make_policy(args, model))
    tell(f"{len(pictures)} views, {tower_text(model)}; {machine_text()}")
    tell("compiling at the first frames ...")
    watcher = ViewWatcher(args, encoder)
    watcher.head()
    try:
        watcher.see(first)
        for new in ticks:
            if args.max_frames is not None and watcher.seen >= args.max_frames:
                break
            watcher.see(new)
    except KeyboardInterrupt:  # the ordinary end
        clear_line()
    finally:
        watcher.totals()
    return 0


class ViewWatcher:
    """Encodes tick after tick, and prints a line for each view in which something happened."""

    def __init__(self, args: argparse.Namespace, encoder: ViewEncoder):
        self._args, self._encoder = args, encoder
        self._start = time.monotonic()
        self._frames: dict[str, np.ndarray] = {}
        self._times: list[float] = []
        self._compile_s = 0.0
        self.seen = self._left_out = 0
        self._width = max(map(len, ["view", *encoder.views.names]))

    def head(self) -> None:
        """The names of the columns."""
        names = ["s", "view", "path", "changed", "recomputed", "pending", "ms of all"]
        print(f"{self._line(names)}  frame")

    def see(self, new: dict[str, Look]) -> None:
        """One tick; views of which nothing is new are shown as they were."""
        import jax

        import diffvis_jax as dv
        from diffvis_jax.utils.compile_time import watch_compilation

        labels = {name: self._take(name, *look) for name, look in new.items()}
        if not self._frames:
            return
        with watch_compilation() as compiled:
            start = time.perf_counter()
            _, reports = jax.block_until_ready(self._encoder.encode(self._frames))
            ms = 1e3 * (time.perf_counter() - start)
        first, self.seen = not self.seen, self.seen + 1
        self._compile_s += compiled.seconds
        if not compiled.seconds:
            self._times.append(ms)
        note = f"  ({compiled.seconds:.1f} s compiling)" if compiled.seconds else ""
        for name, report in reports.items():
            done = dv.describe(report)[0]
            happened = first or done["changed_patches"] or done["recomputed"]
            if name not in self._frames or not (happened or self._args.all):
                continue
            clear_line()
            columns = [
                f"{time.monotonic() - self._start:.1f}",
                name,
                done["path"],
                f"{done['changed_patches']}/{done['total_patches']}",
                f"{done['recomputed']:.1%}",
                f"{done['pending']:.1%}",
                f"{ms:.0f}",
            ]
            print(f"{self._line(columns)}  {labels.get(name) or 'as before'}{note}", flush=True)

    def _take(self, name: str, label: str, image: Any) -> str | None:
        """Makes this the picture of a view; one that cannot be its is left out, and said to be."""
        import diffvis_jax as dv

        views = self._encoder.views
        try:
            frame = dv.preprocess(image, self._encoder.model.config)[0]
            if frame.shape[:2] != views.sizes[name]:
                raise dv.ImageError(f"it is of another size than the first of the view {name!r}")
        except dv.ImageError as error:
            tell(f"warning: left out: {label}: {error}")
            self._left_out += 1
            return None
        self._frames[name] = frame
        return label

    def totals(self) -> None:
        """The summary."""
        from diffvis_jax.metrics import tails
        from diffvis_jax.report.text import TAILS, milliseconds, percent, tails_text
        from diffvis_jax.views import order_views

        left_out = f", {self._left_out} pictures left out" if self._left_out else ""
        print(f"\n{self.seen} ticks{left_out}")
        if self._compile_s:
            print(f"compiled {self._compile_s:.1f} s; the ticks that waited do not count below")
        if self._times:
            print(f"all views, {TAILS}: {tails_text(tails(self._times), milliseconds)}")
        rates = self._encoder.change_rates()
        for name, rate in rates.items():
            print(f"{name}: changed in {percent(rate)} of the ticks")
        print(f"in a prompt, those that rarely change first: {', '.join(order_views(rates))}")

    def _line(self, columns: list[str]) -> str:
        widths = (8, -self._width, -7, 9, 10, 8, 9)
        return " ".join(
            text.rjust(width) if width > 0 else text.ljust(-width)
            for text, width in zip(columns, widths, strict=True)
        )
