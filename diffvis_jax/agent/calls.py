"""Finds the commands in what a model wrote: prose, code, or prose with fenced code blocks.

Nothing is executed: texts are only parsed.
"""

import ast
import builtins
import dataclasses
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from diffvis_jax.errors import ActionError

OWNERS = ("pyautogui", "computer", "time")  # what commands may be attributes of
_MOST_UNCERTAIN = 1000  # letters of what may be no command
_SHOWN = 120  # letters of a command that an error quotes

# An answer that was cut off does not close its fence. ```click(1, 2)``` in a line is no block.
_FENCE = re.compile(r"```[^\n`]+```|```[^\n`]*\n(?P<block>.*?)(?:```|\Z)", re.DOTALL)
_ALIAS = re.compile(r"\bimport\s+pyautogui\s+as\s+(\w+)")

# What a reasoning model thinks before it answers; its template may have begun that in the prompt.
_THOUGHTS = re.compile(
    r"<(think(?:ing)?|thought|reasoning)>.*?(?:</\1>|\Z)|\A(?:(?!<think).)*?</think(?:ing)?>",
    re.DOTALL | re.IGNORECASE,
)

# Full-width letters, as Chinese and Japanese keyboards write them, small and mathematical ones,
# dashes for a minus, spaces of other widths, and ends of lines: a letter for a letter, so that
# places in the text stay what they are.
_LETTERS = (*range(0xFE50, 0xFE6C), *range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800))
_PLAIN = {
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in _LETTERS},
    **dict.fromkeys((*range(0x2000, 0x200C), 0x00A0, 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF), " "),
    **dict.fromkeys((0x85, 0x2028, 0x2029), "\n"),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212"), "-"),
    ord("\u3001"): ",",
}
# What closes a string that begins so.
_QUOTES = {
    "'": "'",
    '"': '"',
    "\uff07": "\uff07",
    "\uff02": "\uff02",
    **dict.fromkeys("\u201c\u201d\u201e", "\u201c\u201d"),
    **dict.fromkeys("\u2018\u2019\u201a", "\u2018\u2019"),
}

# Comments of Python, C and HTML, and what Markdown strikes out; #5 is a number, and ## a heading.
_COMMENT = (
    r"(?P<comment>(?:^|(?<=[\s;,)]))(?:(?:\#(?![\d#])|//)[^\n]*|/\*(?s:.*?)\*/)"
    r"|<!--(?s:.*?)(?:-->|\Z)|(?<!~)~~(?!~)[^\n~]+~~(?!~))"
)
_NAME = r"(?:[A-Za-z_]|\\_)(?:\w|\\_)*"  # Markdown may escape underscores
_CALL = rf"(?<![\w.\\])(?P<path>(?:{_NAME}\.)*)(?P<name>{_NAME})(?P<gap>[ \t]*)\("
# ASCII: a Chinese letter before a command is no part of its name.
_TOKEN = re.compile(f"{_COMMENT}|{_CALL}", re.MULTILINE | re.ASCII)
_BUILTINS = frozenset(dir(builtins))  # print(..) does nothing to a screen
_MARKS = " \t-*+_~\"'`>|[({#"  # of Markdown, around a command
_NUMBERED = re.compile(r"(?:(?:step|action)[ \t]*)?\d+[.),]?|python|py", re.IGNORECASE)
_END_OF_LINE = re.compile(r"[\s.,;:!*_~\"'`|\])}>\u3002]*(?:[<#].*)?")
_HEADER = re.compile(
    r"(?:async\s+)?(?:for\s+\w+(?:\s*,\s*\w+)*\s+in\b|while\b|if\b|elif\b|with\s+[\w.]+\(|def\s+\w+\s*\("
    r"|class\s+\w+|except\b|else(?=\s*:))[^\n]*:\s*(?:\#[^\n]*)?$"
)
# Behind a call: it is done several times, or under a condition, or something with what it gives.
_NOT_ALONE = re.compile(
    r"[ \t]*for\s+\w+\s+in\s+(?:range\b|[\[(])|[ \t]+[*x\u00d7][ \t]*\d|\.[A-Za-z_]\w*\("
    r"|[ \t]+if\b[^\n]+\belse\b"
)
# The name of a command as a value: {"action": "click", ..}
_JSON_NAME = re.compile(r"""["']\w+["']\s*:\s*["'](?P<name>\w+)["']""", re.ASCII)
# In a string with typographic quotes: an escape, a line that goes on, what has to be escaped.
_NO_LETTER = r"\x00-\x1f\x7f\ud800-\udfff"
_ESCAPED = re.compile(rf'(\\[^{_NO_LETTER}])|\\\n|([\\"{_NO_LETTER}])')


@dataclasses.dataclass(frozen=True)
class Call:
    """One call in a text.

    Attributes:
      name: of what is called, without "pyautogui." before it; with any other owner.
      node: parsed.
      text: what an error quotes.
    """

    name: str
    node: ast.Call
    text: str


def find_calls(text: str, known: Callable[[str], bool]) -> list[Call]:
    """The calls in a text, in order (see `parse_actions`).

    `known` tells whether a name is that of a command, in any spelling.

    Raises:
      ActionError: something that names a command cannot be read as one; quotes it.
    """
    owners = frozenset({*OWNERS, *map(str.lower, _ALIAS.findall(text))})
    thoughts = [found[0] for found in _THOUGHTS.finditer(text) if _names_one(found[0], known)]
    text = _THOUGHTS.sub("\n", text)
    blocks = [found["block"] for found in _FENCE.finditer(text) if found["block"] is not None]
    calls = [call for block in blocks for call in _calls_in_code(block, owners)]
    if calls:
        return calls
    text = _FENCE.sub(lambda found: found[0] if found["block"] is None else "\n", text)
    calls = _calls_in_prose(text, known, owners)
    if thoughts and not calls:
        raise _only_mentioned(thoughts[0])
    return calls


def quoted(text: str) -> str:
    """A text for errors: in one line, and not too long."""
    text = " ".join(text[: 10 * _SHOWN].split())
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


# ---- code -------------------------------------------------------------------------------------


def _calls_in_code(block: str, owners: frozenset[str]) -> list[Call]:
    """The calls of a code block, which must be one call a statement."""
    code = textwrap.dedent(_python(block, block.translate(_PLAIN), 0, call=False)[0])
    tree = _parsed(code, "exec")
    if tree is None:
        raise ActionError(f"not Python: {quoted(block)}")
    calls, lines = [], code.split("\n")
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom) or _is_setting(statement, owners):
            continue
        shown = "\n".join(lines[statement.lineno - 1 : statement.end_lineno]).strip()
        node = statement.value if isinstance(statement, ast.Expr) else None
        path = _path(node.func) if isinstance(node, ast.Call) else ()
        if not isinstance(node, ast.Call) or not path:
            raise ActionError(f"not a plain command: {quoted(shown)}")
        calls.append(Call(_without_owner(path, owners), node, shown))
    return calls


def _without_owner(path: Sequence[str], owners: frozenset[str]) -> str:
    """`click` of `pyautogui.click`; what has another owner as it is."""
    owned = len(path) > 1 and path[-2].lower() in owners
    return path[-1] if owned else ".".join(path)


def _is_setting(statement: ast.stmt, owners: frozenset[str]) -> bool:
    """Whether it is `pyautogui.PAUSE = 0.5` or the like, which sets nothing that matters here."""
    return isinstance(statement, ast.Assign) and all(
        isinstance(target, ast.Attribute)
        and isinstance(target.value, ast.Name)
        and target.value.id.lower() in owners
        and isinstance(statement.value, ast.Constant)
        for target in statement.targets
    )


def _path(function: ast.expr) -> tuple[str, ...]:
    """The names of `a.b.c`; none if it is anything else."""
    names = []
    while isinstance(function, ast.Attribute):
        names.append(function.attr)
        function = function.value
    return (function.id, *reversed(names)) if isinstance(function, ast.Name) else ()


def _parsed(source: str, mode: str) -> Any:
    """The syntax tree; None if there is none."""
    with warnings.catch_warnings():
        # Of backslashes that begin no escape: a path that a model types means what it says.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source, mode=mode)
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # ValueError: null bytes
            return None


# ---- prose ------------------------------------------------------------------------------------


def _calls_in_prose(text: str, known: Callable[[str], bool], owners: frozenset[str]) -> list[Call]:
    """The calls of a text without fences.

    A call counts wherever an owner stands before it; a bare name where a line, or something
    announced, begins, and behind such a call in the same line. In the middle of a sentence, and in
    a comment, it is only mentioned: that is an error where nothing else is there.
    """
    plain = text.translate(_PLAIN)
    conditions = _conditions(plain)
    calls: list[Call] = []
    gaps: list[str] = []  # what stands before, between and behind them
    mentions: list[str] = []
    at = last = 0  # read until here; where the last command ends
    while found := _TOKEN.search(plain, at):
        at = found.end()
        if found["comment"]:
            if _names_one(found["comment"], known):
                mentions.append(found["comment"])
            continue
        name, start = _unescaped(found["name"]), found.start("path")
        path = _unescaped(found["path"]).split(".")[:-1]
        owned = any(part.lower() in owners for part in path)
        line = plain.rfind("\n", 0, start) + 1
        at_start, announced = _beginning(plain[line:start])
        if not owned and not known(name) and (not at_start or name in _BUILTINS):
            continue
        certain = owned or (known(name) and announced and not found["gap"])
        # What may be a command, and may be a word before a parenthesis, ends soon in its line.
        newline = plain.find("\n", start)
        stop = newline if newline >= 0 else len(plain)
        most = len(plain) if certain else min(stop, start + _MOST_UNCERTAIN)
        try:
            source, end = _python(text[:most], plain, start, call=True)
            node = _parsed(source, "eval")
            if node is None:
                raise ActionError(f"not a command: {quoted(source)}")
        except ActionError:
            if certain:
                raise
            continue
        if not certain:
            follows = bool(calls) and known(name) and "\n" not in plain[last:start]
            alone = announced and _END_OF_LINE.fullmatch(plain, end, stop) is not None
            if not _plain_arguments(node.body) or not (known(name) or alone):
                continue
            if not follows and not alone:
                mentions.append(source)
                at = end
                continue
        condition = conditions.get(line) or _HEADER.fullmatch(plain[line:start].strip())
        if condition or _NOT_ALONE.match(plain, end):
            raise ActionError(f"not a plain command: {quoted(text[line:end])}")
        calls.append(Call(_without_owner([*path, name], owners), node.body, text[start:end]))
        gaps.append(plain[last:start])
        at = last = end
    gaps.append(plain[last:])
    gaps = [_TOKEN.sub(lambda found: "" if found["comment"] else found[0], gap) for gap in gaps]
    owner = "|".join(map(re.escape, owners - {"time", "computer"}))
    unfinished = rf"(?:^[ \t]*(?:{owner})|(?<![\w.])(?:{owner})\.\w*)\s*\Z"
    if cut := re.search(unfinished, gaps[-1], re.MULTILINE | re.IGNORECASE):
        raise ActionError(f"a command is cut off: {quoted(cut[0])}")
    # With Markdown or a space within, other brackets, or letters that only look like the name's.
    broken = re.compile(
        rf"(?<![\w.])(?:{owner})\W{{,9}}\.[^\w\s]{{,9}}\w+[^\w\s]{{,9}}?[(\[{{\u3010\u27e8]",
        re.IGNORECASE,
    )
    for unread in filter(None, map(broken.search, gaps)):
        raise ActionError(f"not a command: {quoted(unread[0])}")
    if not calls:
        mentions += [found[0] for found in _JSON_NAME.finditer(plain) if known(found["name"])]
        named = re.finditer(rf"(?<![\w.])(?:{owner})\.(\w+)\b(?!\s*=)", plain, re.A | re.I)
        mentions += [found[0] for found in named if known(found[1])]
        if mentions:
            raise _only_mentioned(mentions[0])
    return calls


def _names_one(text: str, known: Callable[[str], bool]) -> bool:
    return any(known(_unescaped(found["name"])) for found in re.finditer(_CALL, text, re.ASCII))


def _only_mentioned(text: str) -> ActionError:
    return ActionError(
        f"a command is only mentioned: {quoted(text)}; one that is to be carried out begins a "
        "line, as pyautogui.click(x=10, y=20)"
    )


def _unescaped(name: str) -> str:
    return name.replace("\\", "")


def _beginning(before: str) -> tuple[bool, bool]:
    """What stands before a name in its line: nothing but Markdown; or a colon, a backtick, .. ."""
    words = before.rstrip(_MARKS)
    marks = before[len(words) :]
    at_start = not words or _NUMBERED.fullmatch(words.lstrip(_MARKS)) is not None
    announced = any(mark in marks for mark in (">", "|", "`", "**", "__"))
    return at_start, at_start or announced or words[-1] in ":;="


def _conditions(plain: str) -> dict[int, str]:
    """The lines that stand in the block of a loop, condition or function: where they begin, and
    what the block begins with."""
    found: dict[int, str] = {}
    around: list[tuple[int, str]] = []
    for line in re.finditer(r"^([ \t]*)(\S.*)", plain, re.MULTILINE):
        indent = len(line[1].expandtabs())
        while around and indent <= around[-1][0]:
            around.pop()
        if around:
            found[line.start()] = around[-1][1]
        if _HEADER.match(line[2].rstrip()):
            around.append((indent, line[2]))
    return found


def _plain_arguments(call: ast.expr) -> bool:
    """Whether it is a call, and all its arguments are literals."""
    if not isinstance(call, ast.Call):
        return False
    try:
        for node in (*call.args, *(keyword.value for keyword in call.keywords)):
            ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _python(text: str, plain: str, start: int, *, call: bool) -> tuple[str, int]:
    """A part of a text as Python has it: plain letters outside of strings, no comments.

    Args:
      text, plain: as written, and with plain letters.
      start: where the part begins.
      call: it ends with the parenthesis that closes the first one; else with the text.

    Returns:
      the code, and where it ends.

    Raises:
      ActionError: a call that is never closed.
    """
    parts, depth, at = [], 0, start
    while at < len(text):
        letter = plain[at]
        if letter == "\\" and plain[at + 1 : at + 2] == "_":
            at += 1
            continue
        if text[at] in _QUOTES:
            end = _end_of_string(text, at)
            parts.append(_string(text[at:end]))
            at = end
            continue
        if letter == "#":
            end = plain.find("\n", at)
            at = end if end >= 0 else len(text)
            continue
        parts.append(letter)
        at += 1
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
            if call and depth <= 0:
                return "".join(parts), at
    if call:
        raise ActionError(f"a command is cut off: {quoted(text[start:])}")
    return "".join(parts), at


def _end_of_string(text: str, at: int) -> int:
    """Behind its last quote; the end of the text if it is never closed."""
    quote = text[at]
    closing = quote * 3 if quote in "\"'" and text.startswith(quote * 3, at) else ""
    at += max(1, len(closing))
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif closing:
            if text.startswith(closing, at):
                return at + 3
            at += 1
        elif text[at] in _QUOTES[quote]:
            return at + 1
        else:
            at += 1
    return len(text)


def _string(written: str) -> str:
    """A string with typographic quotes as Python has it; any other as it is."""
    if written[0] in "\"'" or len(written) < 2:
        return written
    return '"{}"'.format(
        _ESCAPED.sub(
            lambda found: found[1] or (f"\\u{ord(found[2]):04x}" if found[2] else ""), written[1:-1]
        )
    )
