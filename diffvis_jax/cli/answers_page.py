"""`--page` of the commands that answer questions: keeps what they see, and writes it as a page."""

from __future__ import annotations

import argparse
import collections
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffvis_jax.cli.answering_options import make_question
from diffvis_jax.cli.command_line import check_file
from diffvis_jax.cli.predict_output import extra_lines

if TYPE_CHECKING:  # so that --help does not wait for JAX
    from collections.abc import Sequence

    import PIL.Image

    import diffvis_jax as dv
    from diffvis_jax.agent.answering import Answer
    from diffvis_jax.core.report import Report
    from diffvis_jax.measure.answer_pairs import Pair

MOST = 200  # frames of a page: more are slow to open


def add_page(add: Any) -> None:
    """The option."""
    add(
        "--page",
        metavar="FILE",
        type=Path,
        help="write a page to step through: each frame with what changed, what it took, and the "
        f"answer if there is one; of more than {MOST} frames the last ones",
    )


def check_page(args: argparse.Namespace) -> None:
    """Raises OSError if the page cannot be written."""
    if args.page is not None:
        check_file("--page", args.page)


class AnswersPage:
    """Keeps the last frames of a run, and writes them."""

    def __init__(self, args: argparse.Namespace, model: dv.Model):
        self._args, self._model = args, model
        self._looks: collections.deque[Any] = collections.deque(maxlen=MOST)

    def add(
        self,
        label: str,
        picture: PIL.Image.Image,
        report: Report | None,
        encoded: dict[str, Any],
        encode_ms: float,
        found: Answer | Pair | None = None,
        extra: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """A frame.

        Args:
          label: which one it is.
          picture: the screenshot.
          report: of the differential encode; None where there was none.
          encoded, encode_ms, found: see `Look`.
          extra: what `Looks.at` or `read_commands` found in the answer.
          more: further attributes of the `Look`.
        """
        from diffvis_jax.report.answers_page import Look
        from diffvis_jax.report.pictures import compressed

        changed = recomputed = None
        if report is not None:  # of an image with tiles: its overview
            changed = np.asarray(report.changed[0])
            recomputed = np.asarray(report.cell_recomputed[0]).reshape(changed.shape)
        extra = extra or {}
        regions = [
            (*region["box"], f"candidate {rank}")
            for rank, region in enumerate(extra.get("click_regions", ()), 1)
        ]
        points = [
            (*action["pixel"], action["action"])
            for action in extra.get("actions", ())
            if "pixel" in action
        ]
        self._looks.append(
            Look(
                label,
                compressed(picture),
                encoded,
                encode_ms,
                changed,
                recomputed,
                found and found.light(),
                lines=extra_lines(extra),
                marks=[regions, points],
                **more,
            )
        )

    def write(self, title: str, tiles: Sequence[tuple[str, str]]) -> None:
        """Writes the page, if there is anything to show, and says so."""
        from diffvis_jax.images.recording import shown
        from diffvis_jax.report.answers_page import write_answers_page
        from diffvis_jax.report.table import machine_text, tower_text

        if not self._looks:
            return
        args, question = self._args, self._args.prompt
        afresh = getattr(args, "disable_differential", False)
        page = write_answers_page(
            args.page,
            list(self._looks),
            self._model.config,
            question=None if question is None else shown(question),
            prompt=None if question is None else shown(make_question(args, self._model)),
            title=title,
            tiles=tiles,
            facts=[
                ("model", tower_text(self._model)),
                ("machine", machine_text()),
                ("policy", "everything afresh" if afresh else args.policy or "faithful"),
            ],
        )
        print(f"page: {page}")
