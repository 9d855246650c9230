"""Names of keys: those of pyautogui, and other spellings of them.

pyautogui presses nothing, and says nothing, when it does not know a name. `KEYBOARD_KEYS` is its
public list of that name, PyAutoGUI 0.9.54 (https://pyautogui.readthedocs.io/en/latest/keyboard.html),
apart from single characters.
"""

import re
import string

KEYBOARD_KEYS = frozenset(
    """
    accept add alt altleft altright apps backspace browserback browserfavorites browserforward
    browserhome browserrefresh browsersearch browserstop capslock clear command convert ctrl
    ctrlleft ctrlright decimal del delete divide down end enter esc escape execute f1 f2 f3 f4 f5
    f6 f7 f8 f9 f10 f11 f12 f13 f14 f15 f16 f17 f18 f19 f20 f21 f22 f23 f24 final fn hanguel hangul
    hanja help home insert junja kana kanji launchapp1 launchapp2 launchmail launchmediaselect left
    modechange multiply nexttrack nonconvert num0 num1 num2 num3 num4 num5 num6 num7 num8 num9
    numlock option optionleft optionright pagedown pageup pause pgdn pgup playpause prevtrack print
    printscreen prntscrn prtsc prtscr return right scrolllock select separator shift shiftleft
    shiftright sleep space stop subtract tab up volumedown volumemute volumeup win winleft winright
    yen
    """.split()  # noqa: SIM905
)
# Printable ASCII, tab and line ends. Capitals are not on the list, but are typed with shift.
CHARACTERS = frozenset(string.printable) - frozenset("\x0b\x0c")

_OTHER_NAMES: dict[str, str] = dict(
    re.findall(
        r"(\w+)=(\w+)",
        """
    control=ctrl controlleft=ctrlleft controlright=ctrlright leftcontrol=ctrlleft
    rightcontrol=ctrlright leftctrl=ctrlleft rightctrl=ctrlright leftshift=shiftleft
    rightshift=shiftright leftalt=altleft rightalt=altright cmd=command meta=win super=win
    windows=win arrowup=up arrowdown=down arrowleft=left arrowright=right uparrow=up
    downarrow=down leftarrow=left rightarrow=right spacebar=space
    """,
    )
)


def find_key(name: str) -> str | None:
    """pyautogui's name of a key; None: it has none.

    Capitals count in single characters alone, as in pyautogui: Enter is enter, but A is not a.
    """
    if len(name) == 1:
        return name if name in CHARACTERS else None
    plain = re.sub(r"(?<=\w)[\s_-]+(?=[^\W_])", "", name.strip()).lower()
    plain = _OTHER_NAMES.get(plain, plain)
    return plain if plain in KEYBOARD_KEYS else None


def split_combination(text: str) -> list[str] | None:
    """The keys of "ctrl+c" or "Ctrl-Shift-T"; None: not two or more known keys."""
    # A separator stands behind something: in "ctrl++" the second plus is a key.
    parts = re.split(r"(?<=[^+-])\s*[+-]\s*", text.strip())
    # In a combination C is the key, as it is printed on keyboards, not c with shift.
    found = [find_key(part.lower()) for part in parts]
    return [key for key in found if key] if all(found) and len(found) > 1 else None
