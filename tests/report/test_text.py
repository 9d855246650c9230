"""Numbers as text."""

import pytest

from diffvis_jax.metrics import tails
from diffvis_jax.report.table import print_table
from diffvis_jax.report.text import interval, milliseconds, percent, tails_text, times


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (percent, 0.1384, "13.8%"),
        (percent, 1.56, "156.0%"),
        (percent, 0, "0.0%"),
        (percent, 1e-6, "<0.1%"),
        (percent, None, "-"),
        (times, 1.904, "1.90x"),
        (times, 1100.3, "1100x"),
        (milliseconds, 0.012, "0.01 ms"),
        (milliseconds, 51.26, "51.3 ms"),
    ],
)
def test_numbers(form, value, text):
    assert form(value) == text


def test_tails_and_intervals():
    assert tails_text(tails([0.0, 0.5, 1.0])) == "50.0% / 90.0% / 100.0%"
    assert tails_text(tails([])) == "-"
    assert interval(0.958, (0.938, 0.972)) == "95.8% (93.8%-97.2%)"
    assert interval(0.958, None) == "95.8%"
    assert interval(None, (0.0, 1.0)) == "-"


def test_a_table_in_a_log_is_plain_markdown(capsys):
    print_table([["policy", "missed"], ["[red]", "13.8%"], ["x" * 200, "-"]])
    printed = capsys.readouterr().out
    head, rule, first, second = printed.splitlines()
    assert head.split() == ["|", "policy", "|", "missed", "|"]
    assert set(rule) == {"|", "-"}
    assert first.split() == ["|", "[red]", "|", "13.8%", "|"]
    assert "x" * 200 in second
    assert "\x1b" not in printed
