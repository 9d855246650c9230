"""How confidential a task is, and how complex: from what callers say, and from rules on words.

Pure. Rules only ever raise what the caller says, and nothing that a model has written lowers it.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Callable, Iterable

from diffvis_jax.route.labels import Complexity, Region, Screen, Sensitivity, Task

_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR")


@dataclasses.dataclass(frozen=True)
class Words:
    """Rules on words.

    Attributes:
      raising: patterns of words, and what a text that has one is at least.
      titles: likewise of window titles, which are also those that are hidden.
      simple, complex: patterns of words.
      unlabelled: what a task is of which the caller says nothing.
      block_pii: whether personal data in a text keeps the task here; else it is replaced.
    """

    raising: tuple[tuple[re.Pattern, Sensitivity], ...] = ()
    titles: tuple[tuple[re.Pattern, Sensitivity], ...] = ()
    simple: re.Pattern | None = None
    complex: re.Pattern | None = None
    unlabelled: Sensitivity = Sensitivity.CONFIDENTIAL
    block_pii: bool = False

    def hides(self, region: Region) -> bool:
        """Whether a region is masked."""
        named = any(pattern.search(region.label) for pattern, _ in self.titles)
        return region.kind != "window" or not region.label or named


@dataclasses.dataclass(frozen=True)
class Judged:
    """What came out, and why; reasons quote nothing of the task."""

    sensitivity: Sensitivity
    complexity: Complexity
    reasons: tuple[str, ...] = ()


def whole_words(words: Iterable[str]) -> re.Pattern | None:
    """A pattern that finds any of them in a text from `plain`, as whole words; in scripts without
    spaces, anywhere. None = there are none."""

    def edge(letter: str, look: str) -> str:
        spaced = letter.isalnum() and not unicodedata.name(letter, "").startswith(_UNSPACED)
        return look if spaced else ""

    found = [plain(word).strip() for word in words]
    parts = [
        edge(w[0], r"(?<!\w)") + r"\s+".join(map(re.escape, w.split())) + edge(w[-1], r"(?!\w)")
        for w in found
        if w
    ]
    return re.compile("|".join(parts)) if parts else None


def plain(text: str) -> str:
    """A text as words are looked for in it: one case, one form of each letter, nothing unseen."""
    if text.isascii():
        return text.casefold()
    text = unicodedata.normalize("NFKC", text)
    return "".join(c for c in text if unicodedata.category(c) != "Cf").casefold()


def classify(task: Task, words: Words, find_pii: Callable[[str], list]) -> Judged:
    """How a task is judged; the highest of all that is found.

    What has a box is masked and does not raise a task. What has none, as the title of a window
    whose box nobody gave, does.
    """
    stated = words.unlabelled if task.stated is None else task.stated
    raised = [(stated, "stated by the caller" if task.stated is not None else "not labelled")]
    shown = _titles_shown(task, words)
    for text in map(plain, (task.text, *shown)):
        raised += [(to, "a word of the rules") for found, to in words.raising if found.search(text)]
    for title in shown:
        raised += [(to, "a window title") for found, to in words.titles if found.search(title)]
        if find_pii(title):
            raised.append((Sensitivity.CONFIDENTIAL, "personal data in a window title"))
    if words.block_pii and find_pii(task.text):
        raised.append((Sensitivity.CONFIDENTIAL, "personal data in a text"))
    highest = max(level for level, _ in raised)
    why = dict.fromkeys(f"{highest.name.lower()}: {r}" for level, r in raised if level == highest)
    return Judged(highest, _complexity(task, words), tuple(why))


def _titles_shown(task: Task, words: Words) -> list[str]:
    """Titles that can be read in the pictures once they are masked."""
    newest = (task.screens or (Screen(),))[-1].regions or ()
    hidden = {region.label for region in newest if words.hides(region)}
    windows = [r for screen in task.screens for r in screen.regions or () if r.kind == "window"]
    return [
        *(title for title in task.titles if title not in hidden),
        *(region.label for region in windows if not words.hides(region)),
    ]


def _complexity(task: Task, words: Words) -> Complexity:
    if task.complexity is not None:
        return task.complexity
    text = plain(task.text)
    if words.complex and words.complex.search(text):
        return Complexity.COMPLEX
    if words.simple and words.simple.search(text):
        return Complexity.SIMPLE
    return Complexity.MODERATE
