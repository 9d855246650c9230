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
    """Rules on words: patterns, and what a text that has one is at least."""

    raising: tuple[tuple[re.Pattern, Sensitivity], ...] = ()
    titles: tuple[tuple[re.Pattern, Sensitivity], ...] = ()  # of windows, which are hidden
    simple: re.Pattern | None = None
    complex: re.Pattern | None = None
    unlabelled: Sensitivity = Sensitivity.CONFIDENTIAL  # of what the caller says nothing
    block_pii: bool = False  # personal data in a text keeps a task here; else it is replaced

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

    found = filter(None, (plain(word).split() for word in words))
    parts = [
        edge(w[0][0], r"(?<!\w)") + r"\s+".join(map(re.escape, w)) + edge(w[-1][-1], r"(?!\w)")
        for w in found
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
    if task.stated is None:
        raised = [(words.unlabelled, "not labelled")]
    else:
        raised = [(task.stated, "stated by the caller")]
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
    for pattern, found in (words.complex, Complexity.COMPLEX), (words.simple, Complexity.SIMPLE):
        if pattern and pattern.search(text):
            return found
    return Complexity.MODERATE
