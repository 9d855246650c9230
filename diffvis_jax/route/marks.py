"""Finds card numbers, addresses and the like in texts, and puts marks in their place.

Patterns only: no names of persons. Built in are cards (by their check digit), IBANs and e-mail;
Presidio (extra `privacy`) adds what it has patterns for, without its models and without a network.
"""

import functools
import importlib.util
import itertools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from diffvis_jax.errors import ConfigError


class Found(NamedTuple):
    """Letters start to stop of a text, and what they are."""

    start: int
    stop: int
    kind: str


Finder = Callable[[str], list[Found]]


def _luhn(digits: str) -> bool:
    doubled = [int(d) * (1 + i % 2) for i, d in enumerate(reversed(digits))]
    return sum(x - 9 * (x > 9) for x in doubled) % 10 == 0


def _iban(letters: str) -> bool:
    return int("".join(str(int(c, 36)) for c in letters[4:] + letters[:4])) % 97 == 1


_LOCAL = r"[^\s@<>()\[\],;:\"']"
_EMAIL = re.compile(rf"(?<!{_LOCAL}){_LOCAL}++@\w[\w-]*+(?:\.\w[\w-]*+)*")
_GAP = "[ \t\r\n\u00a0\u202f.\\-/\u2010-\u2014]{0,3}"  # between two groups of a number
_CARD = rf"(?<!\d)(?=(\d(?:{_GAP}\d){{12,19}}))"
_IBAN = rf"(?<![A-Za-z0-9])(?=([A-Za-z]{{2}}[0-9]{{2}}(?:{_GAP}[A-Za-z0-9]){{11,31}}))"
# What may begin with a number, one letter more than the longest; lengths of numbers; their check.
_NUMBERS = {
    "CARD": (re.compile(_CARD), range(19, 12, -1), _luhn),
    "IBAN": (re.compile(_IBAN), range(34, 14, -1), _iban),
}


def find_built_in(text: str) -> list[Found]:
    """Cards, IBANs and e-mail addresses, in order; in time linear in the text's length."""
    found = [Found(*match.span(), "EMAIL") for match in _EMAIL.finditer(text)]
    for kind, (run, lengths, good) in _NUMBERS.items():
        for match in run.finditer(text):
            places = [i for i, c in enumerate(match[1], match.start(1)) if c.isalnum()]
            for n in lengths:
                whole = n == len(places) or (n < len(places) and places[n] > places[n - 1] + 1)
                if whole and good("".join(text[i] for i in places[:n])):
                    found.append(Found(places[0], places[n - 1] + 1, kind))
                    break
    return _apart(found)


def _apart(found: Sequence[Found]) -> list[Found]:
    """In order; those that overlap are one, of the kind of the longest."""
    apart: list[Found] = []
    for each in sorted(found):
        if apart and each.start < apart[-1].stop:
            last = apart.pop()
            longest = max(last, each, key=lambda x: x.stop - x.start)
            each = Found(last.start, max(last.stop, each.stop), longest.kind)
        apart.append(each)
    return apart


def make_finder(presidio: bool | None, recognizers: Sequence[str]) -> Finder:
    """What is looked for; `presidio`: whether it is used, too, None = where it is installed.

    Raises:
      ConfigError: it is wanted and not installed, or has no such recogniser.
    """
    log = logging.getLogger(__name__)
    installed = importlib.util.find_spec("presidio_analyzer") is not None
    if presidio and not installed:
        raise ConfigError('presidio: true needs the extra: pip install "diffvis_jax[privacy]"')
    if not (installed if presidio is None else presidio):
        log.warning("in texts only cards, IBANs and e-mail addresses are found (no Presidio)")
        return find_built_in
    analyze = _presidio(tuple(recognizers))
    log.info("in texts: cards, IBANs, e-mail addresses, and %s", ", ".join(recognizers))
    return lambda text: _apart(find_built_in(text) + analyze(text))


@functools.cache
def _presidio(recognizers: tuple[str, ...]) -> Finder:
    import presidio_analyzer
    import tldextract
    from presidio_analyzer import predefined_recognizers as known
    from presidio_analyzer.nlp_engine import NoOpNlpEngine

    logging.getLogger("presidio-analyzer").setLevel(logging.WARNING)
    domains = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # fetches nothing

    class EmailRecognizer(known.EmailRecognizer):
        def validate_result(self, pattern_text: str) -> bool:
            return domains(pattern_text).fqdn != ""

    registry = presidio_analyzer.RecognizerRegistry(supported_languages=["en"])
    for name in recognizers:
        kind = EmailRecognizer if name == "EmailRecognizer" else getattr(known, name, None)
        if kind is None:
            raise ConfigError(f"Presidio has no recogniser {name!r}")
        registry.add_recognizer(kind(supported_language="en"))
    engine = presidio_analyzer.AnalyzerEngine(
        registry=registry, nlp_engine=NoOpNlpEngine([{"lang_code": "en", "model_name": ""}])
    )
    return lambda text: [
        Found(each.start, each.end, each.entity_type) for each in engine.analyze(text, "en")
    ]


def replaced(texts: Sequence[str], find: Finder) -> tuple[list[str], dict[str, str]]:
    """The texts with marks such as `<EMAIL_1>` for what was found, one for equal ones; and the
    original of each mark."""
    marks: dict[tuple[str, str], str] = {}
    every, numbers, results = "\n".join(texts), itertools.count(1), []
    for text in texts:
        result, at = "", 0
        for start, stop, kind in find(text):
            key = kind, text[start:stop]
            while key not in marks or marks[key] in every:  # which the texts may spell, too
                marks[key] = f"<{kind}_{next(numbers)}>"
            result, at = result + text[at:start] + marks[key], stop
        results.append(result + text[at:])
    return results, {mark: original for (_, original), mark in marks.items()}


class Restored:
    """Puts the originals back into an answer that comes in pieces."""

    def __init__(self, marks: Mapping[str, str]):
        self._marks, self._held = marks, ""
        self._pattern = re.compile("|".join(map(re.escape, marks)) or r"(?!)")

    def push(self, text: str) -> str:
        """The text that can be given out; what may be half a mark is held back."""
        text = self._held + text
        cut = text.rfind("<")
        half = cut >= 0 and any(mark.startswith(text[cut:]) for mark in self._marks)
        whole, self._held = (text[:cut], text[cut:]) if half else (text, "")
        if self._pattern.fullmatch(self._held):
            whole, self._held = whole + self._held, ""
        return self._pattern.sub(lambda found: self._marks[found[0]], whole)

    def flush(self) -> str:
        """What is left at the end."""
        held, self._held = self._held, ""
        return held
