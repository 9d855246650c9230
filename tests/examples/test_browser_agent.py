"""The example browser_agent.py: a real browser, the bundled weights, and a clock on the wall."""

import re
import shutil

import pytest

BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_an_agent_clicks_what_it_finds(script, capsys):
    pytest.importorskip("playwright")
    assert script("browser_agent").main(["--seconds", "6", "--hz", "4"]) == 0
    printed = capsys.readouterr().out
    ticks, skipped = re.search(r"ticks: (\d+), kept .*, skipped (\d+)", printed).groups()
    assert int(ticks) + int(skipped) == 24
    asked, done, hit = re.search(
        r"clicks: (\d+) asked for, (\d+) carried out, (\d+) hit", printed
    ).groups()
    assert int(asked) >= int(done) >= int(hit) > 0
    assert re.search(r"a screenshot, in the browser's thread: \d+ / \d+ / \d+ ms", printed)


def test_a_wrong_rate_is_one_line(script, capsys):
    with pytest.raises(SystemExit) as ended:
        script("browser_agent").main(["--hz", "0"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: argument --hz")
