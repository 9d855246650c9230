"""Commands that a model writes, read into actions, and where on the screen they are done."""
# ruff: noqa: RUF001  # full-width letters and typographic quotes are what is tested

import contextlib
import re

import pytest
from fuzzing import fuzz
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.agent.actions import (
    SPACES,
    Click,
    DragBy,
    DragTo,
    Finish,
    Hotkey,
    KeyDown,
    KeyUp,
    MouseDown,
    MouseUp,
    MoveBy,
    MoveTo,
    Offset,
    Point,
    Press,
    Scroll,
    Wait,
    Write,
    on_screen,
    point_on_screen,
)
from diffvis_jax.agent.commands import COMMANDS, command_prompt, parse_actions
from diffvis_jax.errors import ActionError
from diffvis_jax.images.geometry import PreprocessConfig, placement

HD = placement(1920, 1080, PreprocessConfig(size=1024))  # padded above and below
CROPPED = placement(1920, 1080, PreprocessConfig(size=336, mode="crop"))


def one(text, **options):
    (action,) = parse_actions(text, **options)
    return action


# ---- commands -----------------------------------------------------------------------------------

HALF = Point(0.5, 0.25, "screen_share")
PIXEL = Point(10, 20)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("click()", Click()),
        ("click(10, 20)", Click(PIXEL)),
        ("click(x=0.5, y=0.25)", Click(HALF)),
        ("click((10, 20))", Click(PIXEL)),
        ("click([0.5, 0.25], clicks=2)", Click(HALF, clicks=2)),
        ("click(10, 20, 2, 0.1, 'right', 1)", Click(PIXEL, "right", 2, 0.1, 1)),
        ("click(10, 20, button=3)", Click(PIXEL, "right")),
        ("click(10, 20, button=pyautogui.SECONDARY)", Click(PIXEL, "right")),
        ("leftClick(10, 20)", Click(PIXEL)),
        ("rightClick(10, 20)", Click(PIXEL, "right")),
        ("middleClick(10, 20, 0.5)", Click(PIXEL, "middle", interval=0.5)),
        ("doubleClick(10, 20)", Click(PIXEL, clicks=2)),
        ("tripleClick(x=10, y=20, button='right')", Click(PIXEL, "right", 3)),
        ("moveTo(10, 20)", MoveTo(PIXEL)),
        ("moveTo(10, 20, 2, pyautogui.easeInQuad)", MoveTo(PIXEL, 2)),
        ("moveTo(10, 20, duration=2, tween=anything, _pause=False)", MoveTo(PIXEL, 2)),
        ("move(-10, 0)", MoveBy(Offset(-10, 0))),
        ("moveRel(xOffset=-0.5, yOffset=0)", MoveBy(Offset(-0.5, 0, "screen_share"))),
        ("dragTo(10, 20, 1, button='middle')", DragTo(PIXEL, "middle", 1)),
        ("drag(0, 30)", DragBy(Offset(0, 30))),
        ("dragRel((5, 6), duration=1)", DragBy(Offset(5, 6), duration=1)),
        ("mouseDown(10, 20)", MouseDown(PIXEL)),
        ("mouseUp(button='right')", MouseUp(button="right")),
        ("scroll(-3)", Scroll(-3)),
        ("scroll(2, x=0.5, y=0.25)", Scroll(2, HALF)),
        ("vscroll(2)", Scroll(2)),
        ("hscroll(2, 10, 20)", Scroll(2, PIXEL, "horizontal")),
        ("write('a \\'b\\' (c)\\n')", Write("a 'b' (c)\n")),
        ('write(message="it\'s", interval=0.1)', Write("it's", 0.1)),
        ("typewrite(['a', 'left'])", Press(("a", "left"))),
        ("type('a')", Write("a")),
        ("press('Enter')", Press(("enter",))),
        ("press(['a', 'B'], presses=2, interval=0.5)", Press(("a", "B"), 2, 0.5)),
        ("keyDown('shift')", KeyDown("shift")),
        ("keyUp('shift')", KeyUp("shift")),
        ("hotkey('Ctrl', 'c')", Hotkey(("ctrl", "c"))),
        ("hotkey(['ctrl', 'c'], interval=0.1)", Hotkey(("ctrl", "c"), 0.1)),
        ("shortcut('ctrl', 'c')", Hotkey(("ctrl", "c"))),
        ("sleep(1.5)", Wait(1.5)),
        ("wait()", Wait()),
        ("terminate(status='failure')", Finish("failure")),
    ],
)
def test_every_command(text, expected):
    assert one(f"pyautogui.{text}") == expected


def test_the_table_of_commands_above_is_whole():
    texts = [text for text, _ in test_every_command.pytestmark[0].args[1]]
    assert {text.partition("(")[0] for text in texts} == COMMANDS.keys()


@pytest.mark.parametrize(
    ("text", "space"),
    [
        ("click(0.5, 1)", "screen_share"),
        ("click(1.0, 1.0)", "screen_share"),
        ("click(1, 1)", "screen"),  # the second pixel of the second row
        ("click(0, 0)", "screen"),
        ("click(1.0, 300.0)", "screen"),
        ("click(512.5, 20)", "screen"),
        ("click(2.5, 20)", "screen"),
        ("click(-0.02, 0.5)", "screen_share"),  # a little outside, as on_screen says
    ],
)
def test_coordinates_are_what_they_look_like(text, space):
    assert one(text).point.space == space


@pytest.mark.parametrize("space", SPACES)
def test_or_what_the_caller_says(space):
    assert one("click(1, 1)", space=space).point.space == space
    assert one("click(0.0, 1.0)", space=space).point.space == space
    assert one("move(-1, 0)", space=space).offset.space == space
    assert one("press('a')", space=space) == Press(("a",))


@pytest.mark.parametrize(
    ("text", "space", "said"),
    [
        ("click(x=1.02, y=0.5)", None, "(1.02, 0.5) are neither shares of 0-1 nor pixels"),
        ("click(0.5, 300)", None, "neither shares"),
        ("moveRel(1.5, 3)", None, "neither shares"),
        ("click(0.42, 0.17)", "screen", "(0.42, 0.17) are shares, no pixels, as screen has them"),
        ("moveRel(0.5, 0)", "input", "are shares, no pixels"),
        ("click(0.5, 20)", "input", "neither shares"),
        ("click(640, 360)", "screen_share", "(640, 360) are no shares of 0-1, as screen_share has"),
        ("click(1.02, 0.5)", "input_share", "neither shares"),
        ("moveRel(300, 0)", "input_share", "(300, 0) are no shares"),
    ],
)
def test_another_scale_than_was_asked_for_is_an_error(text, space, said):
    with pytest.raises(ActionError) as caught:
        parse_actions(text, space=space)
    assert said in str(caught.value)


# ---- texts --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Press (Enter), then wait(ing) is over.", []),
        ("Done.", []),
        ("pyautogui.FAILSAFE = False", []),
        ("```python\nimport pyautogui\n# pyautogui.press('x')\n```", []),
        ("I would click(1, 2) there.\npress('a')", [Press]),  # a name in the middle of a sentence
        ("I would click(1, 2) there: click(1, 2), then press('a').", [Click, Press]),
        ("click(1, 2); press('a') and wait()", [Click, Press, Wait]),
        ("**click(1, 2)**\n> *press('a')*\n| `wait()` |", [Click, Press, Wait]),
        ("## Action: click(1, 2)\nStep 2. press('a')\n3) wait()", [Click, Press, Wait]),
        ("<action>click(1, 2)</action>", [Click]),
        ("Click (1, 2)\nPress (Enter)", [Click]),
        ("PyAutoGUI.Click(1, 2)\nDOUBLE_CLICK(1, 2)\ncomputer.left_click(1, 2)", [Click] * 3),
        ("pyautogui.click (1, 2)", [Click]),
        (
            "_click(1, 2)_\n**pyautogui.mouse\\_down(1, 2)**\nmouse\\_up()",
            [Click, MouseDown, MouseUp],
        ),
        ("import pyautogui as pg\npg.click(1, 2)", [Click]),
        ("```\nimport pyautogui as pg\npg.click(1, 2)\n```", [Click]),
        ("点击按钮pyautogui.click（640，360）", [Click]),
        ("点击：click（x＝640，y＝３６０）\n1、press(‘a’)", [Click, Press]),
        ("```\nclick（1，2）  # （右\nwrite(“a”)\n```", [Click, Write]),
        ("print('hi')\nclick(1, 2)", [Click]),
        ("x = pyautogui.click(1, 2)", [Click]),
        ("pyautogui.click(1, 2) for OK in the dialog", [Click]),
        ("```\n```\npyautogui.click(1, 2)", [Click]),
        ("```python\nimport pyautogui\n```\nThen `click(1, 2)`", [Click]),
        ("```click(1, 2)```", [Click]),
        ("```python click(1, 2)```", [Click]),
        ("Use ```click(1, 2)``` now.\npyautogui.press('a')", [Click, Press]),
        ("~~~python\n# press('x')\nclick(1, 2)\n~~~", [Click]),
        ("<think>Not pyautogui.press('x')\n```\nwait()\n```</think>\nclick(1, 2)", [Click]),
        ("or pyautogui.press('x').</think>\n```\nclick(1, 2)\n```", [Click]),
        ("click(1, 2)\n<thinking>then pyautogui.press('x')", [Click]),
        ("/* pyautogui.press('x') */\nclick(1, 2),# pyautogui.press('x')", [Click]),
        ("~~pyautogui.press('x')~~\nclick(1, 2)\u2028# press('x')\u2028wait()", [Click, Wait]),
        ("𝐩𝐲𝐚𝐮𝐭𝐨𝐠𝐮𝐢.𝐜𝐥𝐢𝐜𝐤(𝟏, 2)\nclick﹙1﹐2﹚\nclick(1, 2)", [Click] * 3),
        ("You may use `pyautogui`. See [1]: click(1, 2)", [Click]),
        (
            "# It was pyautogui.click(12, 14) before.\n# pyautogui.press('delete')\nclick(1, 2)",
            [Click],
        ),
        ("pyautogui.click(1, 2)  # not pyautogui.press('x')", [Click]),
        ("pyautogui.click(\n  x=1,  # it's (here\n  y=2,\n)\npress('a')", [Click, Press]),
        ("// press('x')\n<!-- pyautogui.press('x')\n-->\nclick(1, 2)", [Click]),
        (
            "```\npyautogui.FAILSAFE = False\npyautogui.PAUSE = 0.5\nclick(1, 2)\n```",
            [Click],
        ),
        ("First pyautogui.click(1, 2) and then pyautogui.press('a').", [Click, Press]),
        ("Action: click(1, 2)", [Click]),
        ("- click(1, 2)\n2. press('a')\n   wait(1)", [Click, Press, Wait]),
        ("use `click(1, 2)`", [Click]),
        ("computer.click(1, 2); time.sleep(2)", [Click, Wait]),
        ("pyautogui.write('pyautogui.click(1, 2)')", [Write]),
        ("pyautogui.click(\n  x=1,\n  y=2,\n)", [Click]),
        (
            "```python\nimport pyautogui\n# pyautogui.press('x')\nclick(1, 2); press('a')\n```",
            [Click, Press],
        ),
        (
            "Not pyautogui.press('x') but\n```\nclick(1, 2)\n```\nand\n```py\nwait()\n```",
            [Click, Wait],
        ),
        ("```python\n    click(1, 2)\n    press('a')", [Click, Press]),  # indented, never closed
    ],
)
def test_commands_are_found_in_texts(text, expected):
    assert [type(action) for action in parse_actions(text)] == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pyautogui.click(x=12", "cut off: 'pyautogui.click(x=12'"),
        ("pyautogui.write('abc)", "cut off"),
        ("pyautogui.click(x=1 y=2)", "not a command"),
        ("pyautogui.write(message='it's)')", "not a command"),
        ("pyautogui.screenshot()", "no command 'screenshot'; there are click, doubleClick"),
        ("pyautogui.click(x=1)", "'pyautogui.click(x=1)': x and y belong together"),
        ("pyautogui.click('ok.png')", "x and y belong together"),
        ("pyautogui.click(1, 2, 3, 4, 5, 6, 7, 8)", "too many positional arguments"),
        ("pyautogui.click(z=1)", "unexpected keyword argument 'z'"),
        ("pyautogui.click(**where)", "** cannot be read"),
        ("pyautogui.click(x, y)", "'x' is no plain value"),
        ("pyautogui.click(__import__('os').system('true'), 1)", "no plain value"),
        ("pyautogui.click('a', 'b')", "x must be a number, got 'a'"),
        ("pyautogui.click(True, 2)", "x must be a number, got True"),
        ("pyautogui.click(1e999, 2)", "x must be a number, got inf"),
        ("pyautogui.click(1, 2, clicks=0)", "clicks must be a whole number of at least 1"),
        ("pyautogui.click(1, 2, clicks=1.5)", "clicks must be a whole number"),
        ("pyautogui.click(1, 2, button='top')", "button must be one of left, middle, right"),
        ("pyautogui.click(1, 2, button=[])", "button must be one of"),
        ("pyautogui.moveTo()", "missing a required argument: 'x'"),
        ("pyautogui.moveTo(1, 2, -1)", "duration must be at least 0 seconds"),
        ("pyautogui.press('')", "keys must be names"),
        ("pyautogui.press([])", "keys must be names"),
        ("pyautogui.hotkey()", "keys must be names"),
        ("pyautogui.write(5)", "message must be text"),
        ("pyautogui.terminate('maybe')", "status must be"),
        ("```\nfor i in range(3):\n    click(1, 2)\n```", "not a plain command: 'for i"),
        ("for i in range(3):\n    pyautogui.click(1, 2)", "not a plain command: 'pyautogui.click"),
        ("Now:\nif ok:\n  click(1, 2)", "not a plain command"),
        ("while True: pyautogui.scroll(-3)", "not a plain command: 'while True"),
        ("[pyautogui.press('a') for _ in range(3)]", "not a plain command"),
        ("pyautogui.press('a') * 3", "not a plain command"),
        ("pyautogui.press('a') × 3", "not a plain command"),
        ("pyautogui.press('a') if ok else None", "not a plain command"),
        ("pyautogui.click(1, 2).press('a')", "not a plain command"),
        ("if ok:\n    pass\nelse:\n    pyautogui.press('a')", "not a plain command"),
        ("<think>pyautogui.press('a')</think>Done.", 'only mentioned: "<think>pyautogui.press'),
        ("**pyautogui**.click(1, 2)\npress('a')", "not a command: 'pyautogui**.click('"),
        ("pyautogui.**click**(1, 2)", "not a command: 'pyautogui.**click**('"),
        ("press('a')\npyautogui\\.click(1, 2)", "not a command: 'pyautogui"),
        ("pyautogui.сlick(1, 2)\npress('a')", "not a command"),  # a Cyrillic letter
        ("press('a'), then pyautogui.click[640, 360]", "not a command: 'pyautogui.click['"),
        ("pyautogui.click【640，360】", "not a command: 'pyautogui.click【'"),
        ("pyautogui.click(1,000, 500)", "thousands are written without a comma"),
        ("I would click(1, 2) there.", "only mentioned: 'click(1, 2)'"),
        ("You can use pyautogui.click for it.", "only mentioned: 'pyautogui.click'"),
        ("# pyautogui.press('delete')", "only mentioned: \"# pyautogui.press('delete')\""),
        ('{"action": "left_click", "coordinate": [1, 2]}', "only mentioned"),
        ("click(1, 2)\npyautogui.pre", "cut off: 'pyautogui.pre'"),
        ("click(1, 2)\npyautogui", "cut off: 'pyautogui'"),
        ("pg.click(1, 2)", "no command 'pg.click'"),
        ("my\\_click(1, 2)", "no command 'my_click'"),
        ("pyautogui.mouse.click(1, 2)", "no command 'pyautogui.mouse.click'"),
        ("long_press(5, 6)", "no command 'long_press'"),
        ("Action: click(start_box='(1, 2)')", "unexpected keyword argument 'start_box'"),
        ("pyautogui.click(x=100, y=200, x=300)", "x is given twice"),
        ("```\npyautogui.PAUSE = click(1, 2)\n```", "not a plain command"),
        (f"pyautogui.click({'1' * 400}, 2)", "x must be a number, got 1111"),
        (f"pyautogui.click({'1' * 5000}, 2)", "not a command: 'pyautogui.click(1111"),
        (f"pyautogui.click(0x{'f' * 5000}, 2)", "x must be a number, got a number of thousands"),
        (f"pyautogui.click(1, 2, {'1' * 400})", "clicks must be a number"),
        (f"sleep({'1' * 400})", "seconds must be a number"),
        (f"pyautogui.write(0x{'f' * 5000})", "message must be text, got a number of thousands"),
        (f"pyautogui.click({'(' * 300}1{')' * 300}, 2)", "not a command"),
        (f"pyautogui.click({'-' * 20_000}1, 2)", "not a command"),
        (f"pyautogui{'.a' * 20_000}(1)", "a"),
        (f"pyautogui{'.' * 100_000}click[1]\npyautogui.click(", "cut off"),
        ("pyautogui.press('hello')", "pyautogui has no key 'hello'"),
        ("pyautogui.press('entr')", "no key 'entr': is it enter"),
        ("pyautogui.press('ctrl+c')", "'ctrl+c' is no key but several: hotkey('ctrl', 'c')"),
        ("pyautogui.hotkey('ctrl-')", "no key 'ctrl-': is it ctrl"),
        ("pyautogui.keyDown('é')", "pyautogui has no key 'é'"),
        ("pyautogui.hotkey('ctrl', 'hello+a')", "pyautogui has no key 'hello+a'"),
        ("```\nx = click(1, 2)\n```", "not a plain command"),
        ("```\nos.system('true')\n```", "no command 'os.system'"),
        ("```\nclick(1, 2\n```", "not Python"),
        ("```\nclick(1, 2)\x00\n```", "not Python"),
    ],
)
def test_malformed_commands_are_quoted(text, said):
    with pytest.raises(ActionError) as caught:
        parse_actions(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_space_is_named():
    with pytest.raises(ActionError, match="space must be one of screen, screen_share"):
        parse_actions("", space="pixels")  # type: ignore[arg-type]


# What answers are made of.
PIECES = st.one_of(
    st.sampled_from(
        [*COMMANDS, "Click", "double_click", "key\\_", "pyautogui.", "time.", "pg.", "page."]
    ),
    st.sampled_from(
        ["(", ")", "（", "）", ",", "，", "=", "x=", "y=", "[", "]", "{", "}", ":", ";"]
    ),
    st.sampled_from(
        ["'", '"', "“", "”", "‘", "’", "\\", '"""', "`", "```", "```python\n", "~~~\n"]
    ),
    st.sampled_from(
        [
            "#",
            "//",
            "/*",
            "*/",
            "<!--",
            "-->",
            "<think>",
            "</think>",
            "~~",
            "\n",
            "\n    ",
            "**",
            "- ",
            "1. ",
            "> ",
            "|",
        ]
    ),
    st.sampled_from(
        ["for i in range(3):", "if x:", "import pyautogui as pg\n", "lambda: ", "\x00"]
    ),
    st.sampled_from(
        ["'ctrl+c'", "'enter'", "0.5", "1.02", "640", "-3", "1" * 400, "0x" + "f" * 5000]
    ),
    st.text(max_size=5),
)


@fuzz()
@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from([None, *SPACES]))
def test_any_text_is_read_or_refused(text, space):
    for answer in (text, f"pyautogui.click({text})", f"```\n{text}\n```", f"write({text!r})"):
        with contextlib.suppress(ActionError):
            for action in parse_actions(answer, space=space):
                on_screen(action, HD)


@fuzz()
@given(st.text(max_size=40))
def test_any_text_can_be_written(text):
    assert one(f"pyautogui.write({text!r})") == Write(text)
    typographic = re.sub(r'[\\"“”`]', "", text)
    assert one(f"pyautogui.write(“{typographic}”)") == Write(typographic)
    assert one(f"```\nwrite(“{typographic}”)\n```") == Write(typographic)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("hotkey('ctrl+c')", ("ctrl", "c")),
        ("hotkey('Ctrl-Shift-T')", ("ctrl", "shift", "t")),
        ("hotkey('ctrl + alt', 'del')", ("ctrl", "alt", "del")),
        ("hotkey('ctrl++')", ("ctrl", "+")),
        ("hotkey('ctrl', '+')", ("ctrl", "+")),
        ("hotkey('ctrl', 'C')", ("ctrl", "C")),
        ("press('Control')", ("ctrl",)),
        (
            "press(['ArrowDown', 'Page Up', 'caps_lock', 'F5'])",
            ("down", "pageup", "capslock", "f5"),
        ),
        ("press(['A', '\\n', ' '])", ("A", "\n", " ")),
    ],
)
def test_keys_have_the_names_that_pyautogui_knows(text, keys):
    assert one(text).keys == keys


def test_answers_of_any_length_are_read_in_time():
    for piece in ("a click( ", "click(1, 2) ", ">>", "# click(1)\n", "for a in b:\n "):
        with contextlib.suppress(ActionError):
            parse_actions(piece * 5000)


def test_the_prompt_shows_commands_that_can_be_read():
    for space in (None, *SPACES):
        prompt = command_prompt("open the menu", space)
        assert "open the menu" in prompt
        shown = parse_actions(prompt, space=space)
        assert {Click, Write, Press, Hotkey, Scroll} <= {type(action) for action in shown}
        assert ("fractions" in prompt) == (space not in ("screen", "input"))


# ---- places -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "pixel"),
    [
        (Point(10, 20), (10, 20)),
        (Point(0.0, 0.0, "screen_share"), (0, 0)),
        (Point(0.5, 0.5, "screen_share"), (960, 540)),
        (Point(1.0, 1.0, "screen_share"), (1919, 1079)),
        (Point(511.5, 511.5, "input"), (960, 540)),  # the middle of the square
        (Point(0.5, 0.5, "input_share"), (960, 540)),
        (Point(0.0, 0.5, "input_share"), (0, 540)),
        (Point(0.0, 224.0, "input"), (0, 0)),  # 420 rows of padding, 1024 of 1920 as large
    ],
)
def test_points_become_pixels_of_the_screenshot(point, pixel):
    assert point_on_screen(point, HD).pixel == pixel


@given(st.integers(0, 1919), st.integers(0, 1079))
def test_a_pixel_survives_the_way_there_and_back(x, y):
    x_input, y_input = (float(part) for part in HD.to_model(x, y))
    assert point_on_screen(Point(x_input, y_input, "input"), HD).pixel == (x, y)
    across, down = (x_input + 0.5) / HD.frame_width, (y_input + 0.5) / HD.frame_height
    share = Point(across, down, "input_share")
    assert point_on_screen(share, HD).pixel == (x, y)
    share = Point((x + 0.5) / 1920, (y + 0.5) / 1080, "screen_share")
    assert point_on_screen(share, HD).pixel == (x, y)


def test_cropped_screens_are_mapped_back_too():
    assert point_on_screen(Point(0.0, 0.0, "input"), CROPPED).pixel == (419, 1)


@pytest.mark.parametrize(
    "point",
    [
        Point(1920, 5),
        Point(-1, 5),
        Point(5, 1080),
        Point(1.01, 0.5, "screen_share"),
        Point(0.5, 0.1, "input_share"),  # in the padding
        Point(512, 100, "input"),
    ],
)
def test_points_outside_the_screenshot_are_refused(point):
    with pytest.raises(ActionError, match="outside the screenshot of 1920 x 1080"):
        on_screen(Click(point), HD)


def test_actions_keep_everything_but_their_coordinates():
    drag = DragTo(Point(0.5, 0.5, "screen_share"), "right", 2.0)
    assert on_screen(drag, HD) == DragTo(Point(959.5, 539.5), "right", 2.0)
    assert on_screen(Write("a"), HD) == Write("a")
    assert on_screen(Scroll(2), HD) == Scroll(2)


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (Offset(3, -4), (3, -4)),
        (Offset(0.5, -0.5, "screen_share"), (960, -540)),
        (Offset(1.0, 0.5, "input_share"), (1920, 960)),
        (Offset(512, 8, "input"), (960, 15)),
    ],
)
def test_ways_are_scaled(offset, expected):
    moved = on_screen(MoveBy(offset, 1.0), HD)
    assert moved.offset == Offset(*(pytest.approx(part) for part in expected))
    assert moved.duration == 1.0


def test_ways_of_more_pixels_than_there_are_numbers_are_refused():
    with pytest.raises(ActionError, match="no way to go"):
        on_screen(MoveBy(Offset(1e308, 0, "input")), HD)


def test_only_points_on_the_screen_are_pixels():
    with pytest.raises(ActionError, match="use on_screen"):
        _ = Point(0.5, 0.5, "input").pixel
