"""Commands in the manner of pyautogui, as models write them, read into actions.

Nothing is ever executed: the text is parsed with `ast`, and arguments are literals.

    parse_actions("pyautogui.click(x=0.25, y=0.5)")
    -> (Click(point=Point(x=0.25, y=0.5, space='screen_share')),)

The commands and the order of their arguments are those of pyautogui (version 0.9.54); `type`,
`wait` and `terminate`, which other agents' vocabularies have, are understood as well. Names count
in any spelling: `doubleClick`, `double_click`, `DoubleClick`.
"""

import ast
import collections
import dataclasses
import difflib
import inspect
import math
import re
from collections.abc import Callable
from typing import Any

from diffvis_jax.agent import actions
from diffvis_jax.agent.calls import Call, find_calls, quoted
from diffvis_jax.agent.keys import KEYBOARD_KEYS, find_key, split_combination
from diffvis_jax.errors import ActionError


def parse_actions(text: str, *, space: actions.Space | None = None) -> tuple[actions.Action, ...]:
    """All commands in a model's answer, in order.

    In prose a command is a call such as `pyautogui.click(10, 20)`, or a bare `click(10, 20)` that
    begins a line, follows a colon or a backtick, or another command in its line. Where the answer
    has fenced code blocks with commands, only what stands in them counts; they may hold imports,
    settings (`pyautogui.PAUSE = 1`), comments and plain commands. What stands in a comment,
    is struck out, or is a thought (`<think>..</think>`) is not done. Full-width letters,
    typographic quotes and Markdown are understood.

    Args:
      text: as the model wrote it.
      space: what its coordinates are measured in (see `actions.Space`). None: as they are
        written, which is how such data sets do it: two numbers in 0-1 with a decimal point are
        shares of the screenshot, anything else its pixels.

    Returns:
      The actions; none if there is no command in the text.

    Raises:
      ActionError: a command that is cut off, unknown, in a loop or a condition, or has arguments
        that make no sense: coordinates of another scale than `space`, keys that no keyboard has.
        Or one that is only mentioned, in a sentence or a comment, where no other is there. The
        message quotes it.
    """
    if space is not None and space not in actions.SPACES:
        raise ActionError(
            f"space must be one of {', '.join(actions.SPACES)} or None, got {space!r}"
        )
    calls = find_calls(text, lambda name: _spelled(name) is not None)
    return tuple(_action(call, space) for call in calls)


def command_prompt(task: str, space: actions.Space | None = None) -> str:
    """A prompt that asks for commands.

    Args:
      task: what is to be done.
      space: the coordinates to ask for: pixels for "screen" and "input", else fractions.
    """
    pixels = space in ("screen", "input")
    where = "x=640, y=360" if pixels else "x=0.42, y=0.17"
    unit = "pixels" if pixels else "fractions of the picture's width and height, 0.0 to 1.0"
    return (
        "Look at the screenshot and carry out the task below. Answer with pyautogui commands and "
        f"nothing else, one on each line. Coordinates are {unit}. The commands are:\n"
        f"pyautogui.click({where})\n"
        f"pyautogui.doubleClick({where})\n"
        f"pyautogui.rightClick({where})\n"
        f"pyautogui.moveTo({where})\n"
        f"pyautogui.dragTo({where})\n"
        "pyautogui.scroll(-3)\n"
        "pyautogui.write('some text')\n"
        "pyautogui.press('enter')\n"
        "pyautogui.hotkey('ctrl', 'c')\n"
        f"Task: {task}"
    )


# ---- from a call to an action -----------------------------------------------------------------

_CONSTANTS = "LEFT|MIDDLE|RIGHT|PRIMARY|SECONDARY|linear|ease\\w+"  # of pyautogui
_NO_MATTER = ("tween", "pause", "logScreenshot", "_pause")  # arguments that change nothing for us


def _action(call: Call, space: actions.Space | None) -> actions.Action:
    """Reads one call.

    Raises:
      ActionError: quotes it.
    """
    try:
        name = _spelled(call.name)
        if name is None:
            known = ", ".join(sorted(COMMANDS))
            raise ActionError(f"no command {quoted(call.name)}; there are {known}")
        given = collections.Counter(keyword.arg for keyword in call.node.keywords)
        if None in given:
            raise ActionError("** cannot be read")
        if twice := [keyword for keyword, times in given.items() if times > 1]:
            raise ActionError(f"{twice[0]} is given twice")
        arguments = [_literal(node) for node in call.node.args]
        named = {
            str(keyword.arg): _literal(keyword.value)
            for keyword in call.node.keywords
            if keyword.arg not in _NO_MATTER
        }
        try:
            bound = inspect.signature(COMMANDS[name]).bind(*arguments, **named)
        except TypeError as error:
            raise ActionError(str(error)) from None
        action = COMMANDS[name](*bound.args, **bound.kwargs)
        return action if space is None else _measured_in(space, action)
    except ActionError as error:
        raise ActionError(f"{quoted(call.text)}: {error}") from None


def _spelled(name: str) -> str | None:
    """The command of that name, whatever its capitals and underscores; None: there is none."""
    return _SPELLINGS.get(name.replace("_", "").lower())


def _measured_in(space: actions.Space, action: actions.Action) -> actions.Action:
    """The action with its coordinates in that space.

    Raises:
      ActionError: they are of another scale.
    """
    for field in ("point", "offset"):
        if (place := getattr(action, field, None)) is None:
            continue
        x, y, seen = dataclasses.astuple(place)
        shares = space in ("screen_share", "input_share")
        if shares and max(abs(x), abs(y)) > 1:
            raise ActionError(f"({x:g}, {y:g}) are no shares of 0-1, as {space} has them")
        if not shares and seen == "screen_share" and not (x.is_integer() and y.is_integer()):
            raise ActionError(f"({x:g}, {y:g}) are shares, no pixels, as {space} has them")
        action = dataclasses.replace(action, **{field: dataclasses.replace(place, space=space)})
    return action


def _literal(node: ast.expr) -> Any:
    """The value of a literal, or the name of one of pyautogui's constants."""
    if (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and re.fullmatch(_CONSTANTS, node.attr)
    ):
        return node.attr.lower()
    zero = isinstance(node, ast.Constant) and type(node.value) is int and not node.value
    if zero and (node.end_col_offset or 0) > node.col_offset + 1:  # of 1,000 Python makes 1 and 000
        raise ActionError("thousands are written without a comma")
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        shown = f"'{node.id}'" if isinstance(node, ast.Name) else "an argument"
        raise ActionError(f"{shown} is no plain value") from None


# ---- pyautogui's parameters, in their order ---------------------------------------------------
# `tween` says how the pointer's speed changes on its way, which nobody can see on a screenshot.


def _click(
    x=None, y=None, clicks=1, interval=0.0, button="primary", duration=0.0, tween=None
) -> actions.Click:
    return actions.Click(
        _point(x, y),
        _button(button),
        _count("clicks", clicks),
        _seconds("interval", interval),
        _seconds("duration", duration),
    )


def _clicks_of(button: actions.Button) -> Callable[..., actions.Click]:
    def command(x=None, y=None, interval=0.0, duration=0.0, tween=None) -> actions.Click:
        return _click(x, y, 1, interval, button, duration)

    return command


def _several_clicks(clicks: int) -> Callable[..., actions.Click]:
    def command(
        x=None, y=None, interval=0.0, button="left", duration=0.0, tween=None
    ) -> actions.Click:
        return _click(x, y, clicks, interval, button, duration)

    return command


def _move_to(x, y=None, duration=0.0, tween=None) -> actions.MoveTo:
    return actions.MoveTo(_place(x, y), _seconds("duration", duration))


def _move_by(xOffset=0, yOffset=0, duration=0.0, tween=None) -> actions.MoveBy:
    return actions.MoveBy(_offset(xOffset, yOffset), _seconds("duration", duration))


def _drag_to(x, y=None, duration=0.0, tween=None, button="primary") -> actions.DragTo:
    return actions.DragTo(_place(x, y), _button(button), _seconds("duration", duration))


def _drag_by(xOffset=0, yOffset=0, duration=0.0, tween=None, button="primary") -> actions.DragBy:
    return actions.DragBy(
        _offset(xOffset, yOffset), _button(button), _seconds("duration", duration)
    )


def _mouse_down(x=None, y=None, button="primary", duration=0.0, tween=None) -> actions.MouseDown:
    return actions.MouseDown(_point(x, y), _button(button))


def _mouse_up(x=None, y=None, button="primary", duration=0.0, tween=None) -> actions.MouseUp:
    return actions.MouseUp(_point(x, y), _button(button))


def _scroll(clicks, x=None, y=None) -> actions.Scroll:
    return actions.Scroll(_number("clicks", clicks), _point(x, y))


def _hscroll(clicks, x=None, y=None) -> actions.Scroll:
    return actions.Scroll(_number("clicks", clicks), _point(x, y), "horizontal")


def _write(message, interval=0.0) -> actions.Write | actions.Press:
    if isinstance(message, list):  # key names among the letters
        return actions.Press(_keys(message), 1, _seconds("interval", interval))
    if not isinstance(message, str):
        raise ActionError(f"message must be text, got {_shown(message)}")
    return actions.Write(message, _seconds("interval", interval))


def _press(keys, presses=1, interval=0.0) -> actions.Press:
    return actions.Press(_keys(keys), _count("presses", presses), _seconds("interval", interval))


def _key_down(key) -> actions.KeyDown:
    return actions.KeyDown(*_keys([key]))


def _key_up(key) -> actions.KeyUp:
    return actions.KeyUp(*_keys([key]))


def _hotkey(*args, interval=0.0) -> actions.Hotkey:
    one_list = len(args) == 1 and isinstance(args[0], list | tuple)
    keys: list[Any] = []
    for key in args[0] if one_list else args:
        together = isinstance(key, str) and find_key(key) is None and split_combination(key)
        keys += together or [key]
    return actions.Hotkey(_keys(keys), _seconds("interval", interval))


def _sleep(seconds) -> actions.Wait:
    return actions.Wait(_seconds("seconds", seconds))


def _wait(seconds=None) -> actions.Wait:
    return actions.Wait(None if seconds is None else _seconds("seconds", seconds))


def _terminate(status="success") -> actions.Finish:
    if status not in ("success", "failure"):
        raise ActionError(f"status must be 'success' or 'failure', got {_shown(status)}")
    return actions.Finish(status)


COMMANDS: dict[str, Callable[..., actions.Action]] = {
    "click": _click,
    "leftClick": _clicks_of("left"),
    "rightClick": _clicks_of("right"),
    "middleClick": _clicks_of("middle"),
    "doubleClick": _several_clicks(2),
    "tripleClick": _several_clicks(3),
    "moveTo": _move_to,
    "move": _move_by,
    "moveRel": _move_by,
    "dragTo": _drag_to,
    "drag": _drag_by,
    "dragRel": _drag_by,
    "mouseDown": _mouse_down,
    "mouseUp": _mouse_up,
    "scroll": _scroll,
    "vscroll": _scroll,
    "hscroll": _hscroll,
    "write": _write,
    "typewrite": _write,
    "type": _write,
    "press": _press,
    "keyDown": _key_down,
    "keyUp": _key_up,
    "hotkey": _hotkey,
    "shortcut": _hotkey,
    "sleep": _sleep,
    "wait": _wait,
    "terminate": _terminate,
}
_SPELLINGS = {name.lower(): name for name in COMMANDS}


# ---- checked values ---------------------------------------------------------------------------


def _point(x: Any, y: Any) -> actions.Point | None:
    """A point, or None where neither coordinate is given."""
    return None if x is None and y is None else _place(x, y)


def _place(x: Any, y: Any) -> actions.Point:
    x, y, space = _pair("x", "y", x, y)
    return actions.Point(x, y, space)


def _offset(x: Any, y: Any) -> actions.Offset:
    x, y, space = _pair("xOffset", "yOffset", x, y)
    return actions.Offset(x, y, space)


def _pair(x_name: str, y_name: str, x: Any, y: Any) -> tuple[float, float, actions.Space]:
    """Two coordinates, given apart or as one pair, and what they look like."""
    if isinstance(x, list | tuple) and len(x) == 2 and not y:
        x, y = x
    if x is None or y is None:
        raise ActionError(f"{x_name} and {y_name} belong together, got {_shown(x)} and {_shown(y)}")
    decimal = isinstance(x, float) or isinstance(y, float)
    x, y = _number(x_name, x), _number(y_name, y)
    if decimal and abs(x) <= 1 and abs(y) <= 1:
        return x, y, "screen_share"
    # Nobody means a fraction of the first pixels: it is a share a little outside, or half a pair.
    if any(abs(part) < 2 and not part.is_integer() for part in (x, y)):
        raise ActionError(f"({x:g}, {y:g}) are neither shares of 0-1 nor pixels")
    return x, y, "screen"


def _shown(value: Any) -> str:
    """A value for errors."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits are not written out
        return "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, OverflowError):  # 400 digits are no number, either
        number = math.nan
    if not math.isfinite(number):
        raise ActionError(f"{name} must be a number, got {_shown(value)}")
    return number


def _seconds(name: str, value: Any) -> float:
    seconds = _number(name, value)
    if seconds < 0:
        raise ActionError(f"{name} must be at least 0 seconds, got {_shown(value)}")
    return seconds


def _count(name: str, value: Any) -> int:
    number = _number(name, value)
    if number < 1 or number != int(number):
        raise ActionError(f"{name} must be a whole number of at least 1, got {_shown(value)}")
    return int(number)


_BUTTONS: dict[str | int, actions.Button] = {
    **{button: button for button in actions.BUTTONS},
    **{"primary": "left", "secondary": "right"},
    **{1: "left", 2: "middle", 3: "right"},
}


def _button(value: Any) -> actions.Button:
    value = value.lower() if isinstance(value, str) else value
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in _BUTTONS:
        raise ActionError(
            f"button must be one of {', '.join(actions.BUTTONS)}, got {_shown(value)}"
        )
    return _BUTTONS[value]


def _keys(value: Any) -> tuple[str, ...]:
    keys = [value] if isinstance(value, str) else value
    if (
        not isinstance(keys, list | tuple)
        or not keys
        or not all(isinstance(key, str) and key for key in keys)
    ):
        raise ActionError(f"keys must be names such as 'enter', got {_shown(value)}")
    return tuple(map(_key, keys))


def _key(name: str) -> str:
    if (key := find_key(name)) is not None:
        return key
    if together := split_combination(name):
        arguments = ", ".join(map(repr, together))
        raise ActionError(f"{quoted(name)} is no key but several: hotkey({arguments})")
    close = difflib.get_close_matches(name[:40].lower(), sorted(KEYBOARD_KEYS), 3)
    hint = f": is it {' or '.join(close)}?" if close else "; write(..) types text"
    raise ActionError(f"pyautogui has no key {quoted(name)}{hint}")
