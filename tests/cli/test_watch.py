"""`diffvis watch`: a folder that is being filled, and a real X screen."""

import ctypes
import ctypes.util
import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from vlm_files import changed, screen, write_checkpoint, write_frames

from diffvis_jax.checkpoints import store
from diffvis_jax.errors import CaptureError
from diffvis_jax.images.capture import Screen, new_frames
from diffvis_jax.images.geometry import ImageError


@pytest.fixture(scope="module")
def watch(script):
    return script("watch")


@pytest.fixture(scope="module")
def weights(tmp_path_factory, square):
    place = tmp_path_factory.mktemp("watch") / "tower"
    return store.save(place, config=square.config, params=square.params)


def rows(printed: str) -> list[list[str]]:
    """The columns of every line of the table."""
    return [line.split() for line in printed.splitlines() if re.match(r" +[0-9.]+ (f|p|r)", line)]


# ---- folders ----------------------------------------------------------------------------------


def save(pixels, path):
    Image.fromarray(pixels).save(path)


def test_frames_there_come_first_in_natural_order(tmp_path):
    for name in ("f_10.png", "f_2.png", ".hidden.png", "notes.txt"):
        save(screen(), tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / name)
    found = [path.name for path in new_frames(tmp_path, poll=0.01, idle=0.1)]
    assert found == ["f_2.png", "f_10.png"]


def test_frames_that_come_later_are_given_once_they_are_whole(tmp_path):
    whole = write_frames(tmp_path / "whole", {"b.png": screen()}) / "b.png"
    folder = write_frames(tmp_path / "folder", {"a.png": screen()})
    data, found = whole.read_bytes(), new_frames(folder, poll=0.1, idle=5)

    def write_slowly():
        with (folder / "b.png").open("wb") as file:
            for start in range(0, len(data), len(data) // 4):
                file.write(data[start : start + len(data) // 4])
                file.flush()
                time.sleep(0.02)

    assert next(found).name == "a.png"
    writer = threading.Thread(target=write_slowly)
    writer.start()
    path = next(found)
    assert path.read_bytes() == data
    writer.join()
    save(screen(1), folder / "a.png")  # written anew
    assert next(found).name == "a.png"


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_that_is_overwritten_all_the_time_is_given(tmp_path, whole):
    data = (write_frames(tmp_path / "whole", {"b.png": screen()}) / "b.png").read_bytes()
    folder = tmp_path / "live"
    folder.mkdir()
    end = threading.Event()

    def overwrite():
        number = 0
        while not end.is_set():
            number += 1
            content = data if whole else data[: len(data) // 2]
            (folder / ".new").write_bytes(content + bytes(number % 100))
            (folder / ".new").replace(folder / "screen.png")
            time.sleep(0.005)

    writer = threading.Thread(target=overwrite)
    writer.start()
    try:
        # As often as it is looked at; what is never whole is not given.
        frames = itertools.islice(new_frames(folder, poll=0.05, idle=1), 3)
        assert [path.name for path in frames] == (["screen.png"] * 3 if whole else [])
    finally:
        end.set()
        writer.join()


def test_links_and_what_is_no_file(tmp_path):
    folder = write_frames(tmp_path / "folder", {"a.png": screen()})
    other = write_frames(tmp_path / "other", {"1.png": screen(1), "2.png": screen(2)})
    (folder / "nowhere.png").symlink_to(tmp_path / "no.png")
    (folder / "circle.png").symlink_to(folder / "circle.png")
    (folder / "latest.png").symlink_to(other / "1.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    found = new_frames(folder, poll=0.02, idle=5)
    assert [next(found).name for _ in range(2)] == ["a.png", "latest.png"]
    (folder / "new").symlink_to(other / "2.png")
    (folder / "new").replace(folder / "latest.png")
    assert next(found).name == "latest.png"  # it shows another picture


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ImageError, match="no such directory"):
        next(new_frames(tmp_path / "no"))
    folder = write_frames(tmp_path / "folder", {"a.png": screen()})
    found = new_frames(folder, poll=0.01)
    next(found)
    shutil.rmtree(folder)
    with pytest.raises(ImageError, match="cannot be read"):
        next(found)


def test_a_folder_is_encoded_differentially(watch, weights, tmp_path, capsys):
    first = screen()
    frames = {"1.png": first, "2.png": changed(first), "3.png": changed(first), "5.png": first}
    folder = write_frames(tmp_path / "frames", frames)
    (folder / "4.png").write_bytes(b"no picture")
    status = watch.main(
        [
            *("--folder", str(folder), "--model-path", str(weights), "--policy", "exact"),
            *("--interval", "0.02", "--idle", "0.2", "--audit-every", "2"),
            *("--page", str(tmp_path / "page.html")),
        ]
    )
    printed = capsys.readouterr()
    assert status == 0
    table = rows(printed.out)
    # The third frame is like the second: nothing was done, and it has no line.
    assert [(row[1], row[2]) for row in table] == [
        ("full", "0/25"),
        ("partial", "3/25"),
        ("partial", "3/25"),
    ]
    assert "4 frames, 1 left out (unreadable)" in printed.out
    assert "warning: left out" in printed.err
    errors = {row[7]: float(row[6]) for row in table[1:]}
    assert errors.keys() == {"2.png", "5.png"}
    assert max(errors.values()) < 1e-4
    assert "2 audits" in printed.out
    text = (tmp_path / "page.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert [screen["label"] for screen in data["screens"]] == ["1.png", "2.png", "5.png"]
    assert [len(step["changed"]) for step in data["runs"][0]["steps"]] == [0, 3, 3]
    assert "true error" in [name for name, _ in data["columns"]]


def test_it_stops_after_so_many_frames(watch, weights, tmp_path, capsys):
    folder = write_frames(tmp_path, {f"{n}.png": screen() for n in range(5)})
    options = ("--folder", str(folder), "--model-path", str(weights), "--interval", "0.02")
    assert watch.main([*options, "--frames", "3", "--all"]) == 0
    printed = capsys.readouterr().out
    assert [row[1] for row in rows(printed)] == ["full", "reuse", "reuse"]
    assert "\n3 frames\n" in printed


def test_views_are_encoded_together(watch, weights, tmp_path, capsys):
    first = screen()
    base = write_frames(tmp_path / "base", {f"{n}.png": first for n in range(4)})
    wrist = {"1.png": first, "2.png": changed(first), "3.png": changed(first), "4.png": first}
    wrist = write_frames(tmp_path / "wrist", wrist)
    (base / "2.png").write_bytes(b"no picture")
    status = watch.main(
        [
            *("--view", f"base={base}", "--view", f"wrist={wrist}", "--policy", "exact"),
            *("--model", str(weights), "--interval", "0.02", "--idle", "0.2"),
        ]
    )
    printed = capsys.readouterr()
    assert status == 0
    lines = [line.split() for line in printed.out.splitlines() if "/25" in line]
    assert [(line[1], line[2], line[3], line[7]) for line in lines] == [
        ("base", "full", "0/25", "0.png"),
        ("wrist", "full", "0/25", "1.png"),
        ("wrist", "partial", "3/25", "2.png"),
        ("wrist", "partial", "3/25", "4.png"),
    ]
    assert "1 pictures left out" in printed.out
    assert "those that rarely change first: base, wrist" in printed.out


@pytest.mark.slow
def test_a_prompt_is_answered_at_every_change(watch, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFVIS_CACHE", str(tmp_path / "cache"))
    source = write_checkpoint(tmp_path / "tiny")
    first = screen()
    frames = {"1.png": first, "2.png": first, "3.png": changed(first)}
    folder = write_frames(tmp_path / "frames", frames)
    status = watch.main(
        [
            *("--folder", str(folder), "--model-path", str(source), "--prompt", "What now?"),
            *("--interval", "0.02", "--idle", "0.1", "--max-new-tokens", "3"),
        ]
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert printed.count("tokens prefilled, first token after") == 2  # the first, and the change
    assert "2 answers" in printed


@pytest.mark.slow
def test_a_picture_may_be_gone_when_it_is_answered(watch, tmp_path, monkeypatch, capsys):
    from diffvis_jax.agent.answering import Answerer

    monkeypatch.setenv("DIFFVIS_CACHE", str(tmp_path / "cache"))
    source = write_checkpoint(tmp_path / "tiny")
    folder = write_frames(tmp_path / "frames", {"1.png": screen()})
    reply = Answerer.reply

    def slowly(self, *arguments, **options):
        (folder / "1.png").unlink()
        answer = reply(self, *arguments, **options)
        return dataclasses.replace(answer, text="pyautogui.click(0.5, 0.5)")

    monkeypatch.setattr(Answerer, "reply", slowly)
    options = ("--prompt", "What?", "--prompt-style", "pyautogui", "--max-new-tokens", "2")
    source_and_folder = ("--folder", str(folder), "--model-path", str(source))
    assert watch.main([*source_and_folder, "--interval", "0.02", "--idle", "0.1", *options]) == 0
    assert "action: Click at (" in capsys.readouterr().out


QUICK = ("--folder", ".", "--idle", "0", "--interval", "0.01")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--folder", "nowhere"), "no such directory: 'nowhere'"),
        (QUICK, "no image came into"),
        (("--folder", ".", "--prompt", "a"), "--prompt needs a language model"),
        (("--idle", "1"), "--idle is about --folder"),
        ((*QUICK, "--page", "no/such/page.html"), "--page: no such directory"),
        ((*QUICK, "--monitor", "1"), "--monitor is about the screen: drop it or --folder"),
        ((*QUICK, "--region", "0,0,9,9"), "--region is about the screen"),
        ((*QUICK, "--display", ":1"), "--display is about the screen"),
        ((*QUICK, "--min-change", "1"), "--min-change is about the answers to --prompt"),
        ((*QUICK, "--history", "2"), "--history is about the answers to --prompt: give that"),
        ((*QUICK, "--prefill", "bounded"), "--prefill is about the answers"),
        ((*QUICK, "--prefill-tolerance", "1"), "--prefill-tolerance is about the answers"),
        (
            (*QUICK, "--model-path", "x", "--prompt", "a", "--prefill-refresh", "3"),
            "--prefill-refresh is about --prefill bounded",
        ),
        ((*QUICK, "--model-path", "x", "--prompt", "a", "--top-p", "0.9"), "--top-p is about"),
        (("--view", "a=.", "--view", "a=."), "there are several ['a']"),
        (("--view", "a=nowhere"), "no such directory: 'nowhere'"),
        (("--view", "a=.", *QUICK[2:]), "--view a: no image came into '.'"),
        (("--view", "a=.", *QUICK), "--view names what is watched: drop SOURCE"),
        (("--view", "a=.", "--monitor", "1"), "--monitor is about the screen: no view is it"),
        (("--view", "a=screen", "--idle", "1"), "--idle is about folders"),
        (("--view", "a=.", "--page", "x.html"), "--page is about one view"),
        (("--view", "a=.", "--audit-every", "1"), "--audit-every is about one view"),
    ],
)
def test_bad_input_is_named(watch, arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert watch.main(list(arguments)) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_wrong_options_are_one_line(watch, capsys):
    for arguments in (
        ["--region", "1,2,3"],
        ["--interval", "0"],
        ["--frames", "0"],
        ["--view", "wrist"],
        ["--view", "=wrist"],
    ):
        with pytest.raises(SystemExit) as ended:
            watch.main(arguments)
        assert ended.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_without_the_extra(watch, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mss", None)
    assert watch.main([]) == 2
    assert "diffvis_jax[watch]" in capsys.readouterr().err


# ---- screens ----------------------------------------------------------------------------------

SIZE = 320, 180


class Root:
    """The root window of a display, to be coloured."""

    def __init__(self, display: str):
        name = ctypes.util.find_library("X11")
        if name is None:
            pytest.skip("libX11 is not installed")
        x = self._x = ctypes.CDLL(name)
        x.XOpenDisplay.restype = ctypes.c_void_p
        x.XDefaultRootWindow.restype = ctypes.c_ulong
        self._display = ctypes.c_void_p(x.XOpenDisplay(display.encode()))
        assert self._display
        self._window = ctypes.c_ulong(x.XDefaultRootWindow(self._display))

    def fill(self, color: int) -> None:
        self._x.XSetWindowBackground(self._display, self._window, ctypes.c_ulong(color))
        self._x.XClearWindow(self._display, self._window)
        self._x.XSync(self._display, 0)

    def patch(self, color: int, left: int, top: int, width: int, height: int) -> None:
        """Colours a part."""
        self._x.XSetWindowBackground(self._display, self._window, ctypes.c_ulong(color))
        self._x.XClearArea(self._display, self._window, left, top, width, height, 0)
        self._x.XSync(self._display, 0)

    def close(self) -> None:
        self._x.XCloseDisplay(self._display)


@pytest.fixture(scope="module")
def display():
    """A real X server without a screen to look at."""
    pytest.importorskip("mss", reason="capturing needs mss, the extra [watch]")
    server = shutil.which("Xvfb")
    if server is None:
        pytest.skip("Xvfb is not installed")
    process = subprocess.Popen(
        # Without -noreset it starts again, and is away for a moment, whenever the last client goes.
        [server, "-displayfd", "1", "-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24", "-noreset"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        number = process.stdout.readline().strip()  # once it is ready
    if not number:
        pytest.skip("Xvfb does not start here")
    yield f":{number}"
    process.terminate()
    process.wait()


@pytest.fixture
def root(display):
    window = Root(display)
    window.fill(0x2060C0)
    yield window
    window.close()


def test_a_screen_is_captured_as_it_is(display, root):
    with Screen(display=display) as screen:
        pixels = screen.grab()
        assert (pixels.shape, pixels.dtype) == ((180, 320, 3), np.uint8)
        assert (pixels == [0x20, 0x60, 0xC0]).all()
        root.patch(0xFF8000, 10, 20, 30, 40)
        pixels = screen.grab()
    assert (pixels[20:60, 10:40] == [0xFF, 0x80, 0x00]).all()
    assert (pixels == [0xFF, 0x80, 0x00]).all(-1).sum() == 30 * 40


def test_a_region_of_a_screen(display, root):
    root.patch(0xFF8000, 10, 20, 30, 40)
    with Screen(region=(10, 20, 30, 40), display=display) as screen:
        assert (screen.grab() == [0xFF, 0x80, 0x00]).all()
        assert screen.grab().shape == (40, 30, 3)


def test_screens_that_do_not_exist(display):
    with pytest.raises(CaptureError, match="no screen can be captured"):
        Screen(display=":99999")
    with pytest.raises(CaptureError, match="no monitor 7: there are"):
        Screen(7, display=display)
    for region in ((0, 0, 321, 10), (-1, 0, 5, 5), (0, 0, 0, 5)):
        with pytest.raises(CaptureError, match="is not within the monitor of 320 x 180"):
            Screen(region=region, display=display)


@pytest.fixture
def changing():
    """A server whose screen has another size when it is told so."""
    pytest.importorskip("mss", reason="capturing needs mss, the extra [watch]")
    if not (shutil.which("Xvfb") and shutil.which("xrandr")):
        pytest.skip("Xvfb or xrandr is not installed")
    process = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "640x400x24", "-noreset"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        display = f":{process.stdout.readline().strip()}"

    def resize(mode):
        options = ["--output", "screen", "--mode", mode]
        subprocess.run(["xrandr", "--display", display, *options], check=True)

    timing = ["25.18", "320", "336", "384", "400", "200", "210", "212", "225"]
    subprocess.run(["xrandr", "--display", display, "--newmode", "small", *timing], check=True)
    subprocess.run(["xrandr", "--display", display, "--addmode", "screen", "small"], check=True)
    yield display, resize, process
    process.terminate()
    process.wait()


def test_a_screen_that_changes_is_captured_as_it_is(changing):
    display, resize, process = changing
    resize("small")
    with Screen(display=display) as screen:
        assert screen.grab().shape == (200, 320, 3)
        resize("640x400")  # docked
        assert screen.grab().shape == (400, 640, 3)
        resize("small")
        assert screen.grab().shape == (200, 320, 3)
    resize("640x400")
    with Screen(region=(400, 0, 100, 100), display=display) as screen:
        assert screen.grab().shape == (100, 100, 3)
        resize("small")
        with pytest.raises(CaptureError, match="is not within the monitor of 320 x 200"):
            screen.grab()
    with Screen(display=display) as screen:
        process.terminate()
        process.wait()
        with pytest.raises(CaptureError, match="cannot be captured any more"):
            screen.grab()


def test_a_run_that_ends_tells_what_it_has_seen(watch, weights, changing, capsys, monkeypatch):
    display, _, process = changing
    captured = Screen.grab

    def grab(self):
        grabs.append(None)
        if len(grabs) == 3:
            process.terminate()
            process.wait()
        return captured(self)

    grabs = []
    monkeypatch.setattr(Screen, "grab", grab)
    options = ("--display", display, "--model-path", str(weights), "--interval", "0.02")
    assert watch.main(list(options)) == 2
    printed = capsys.readouterr()
    assert "\n2 frames\n" in printed.out
    assert printed.err.splitlines()[-1].startswith("error: the screen cannot be captured any more")


def test_a_live_screen_is_encoded_differentially(watch, weights, display, root, capsys):
    from diffvis_jax.images.capture import Screen as Captured

    grabs = []

    def grab(self):
        """Something happens between the second and the third look."""
        grabs.append(None)
        if len(grabs) == 3:
            root.patch(0xFF8000, 20, 20, 20, 20)
        return captured(self)

    captured = Captured.grab
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Captured, "grab", grab)
        status = watch.main(
            [
                *("--display", display, "--model-path", str(weights), "--policy", "exact"),
                *("--interval", "0.02", "--frames", "4", "--all", "--audit-every", "4"),
            ]
        )
    assert status == 0
    table = rows(capsys.readouterr().out)
    assert [row[1] for row in table] == ["full", "reuse", "partial", "reuse"]
    assert table[2][2] == "2/25"
    assert float(table[3][6]) < 1e-4


def test_no_screen_is_an_error_in_one_line(watch, monkeypatch, capsys):
    pytest.importorskip("mss", reason="capturing needs mss, the extra [watch]")
    assert watch.main(["--display", ":99999"]) == 2
    printed = capsys.readouterr().err
    assert "no screen can be captured" in printed
    assert printed.count("\n") == 1
