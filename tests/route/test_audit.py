"""What is written down before anything leaves."""

import errno
import json
import os
import stat

import pytest

from diffvis_jax.providers.chat import SEAL, Chat, Cleared, Message, Picture, Text
from diffvis_jax.route.audit import Audit
from diffvis_jax.route.decide import Decision
from diffvis_jax.route.labels import Sensitivity, StaysHere

PNG = b"\x89PNG\r\n\x1a\nCANARY"
DECISION = Decision("cloud", "masked", ("here",), ("internal: stated by the caller",))


def chat_of(text="CANARY", png=PNG):
    return Chat((Message("user", (Picture(png, (1, 1)), Text(text))),))


def write(audit, chat, request="r1"):
    cleared = Cleared(SEAL, chat, "cloud", {"<EMAIL_1>": "CANARY"}, 0.25)
    audit.intent(request, cleared, DECISION, Sensitivity.INTERNAL)


@pytest.fixture
def audit(tmp_path):
    opened = Audit(tmp_path / "audit.jsonl")
    yield opened
    opened.close()


def lines(folder):
    return [json.loads(line) for line in (folder / "audit.jsonl").read_text().splitlines()]


def test_lines(audit, tmp_path):
    write(audit, chat_of())
    audit.outcome("r1", "ok", 0.1234)
    intent, outcome = lines(tmp_path)
    assert {name: intent[name] for name in ("event", "id", "target", "send", "sensitivity")} == {
        "event": "intent",
        "id": "r1",
        "target": "cloud",
        "send": "masked",
        "sensitivity": "internal",
    }
    assert (intent["bytes"], intent["pictures"], intent["marks"]) == (len(PNG) + 6, 1, 1)
    assert intent["masked"] == 0.25
    assert intent["reasons"] == list(DECISION.reasons)
    assert (outcome["event"], outcome["status"], outcome["ms"]) == ("outcome", "ok", 123)
    assert "CANARY" not in (tmp_path / "audit.jsonl").read_text()


def test_equal_pictures_can_be_told_and_only_with_the_key(audit, tmp_path):
    for chat in (chat_of("a"), chat_of("b"), chat_of("a", PNG + b"x")):
        write(audit, chat)
    one, two, three = (line["digests"] for line in lines(tmp_path))
    assert one[0] == two[0] != three[0]
    assert one[1] == three[1] != two[1]
    again = Audit(tmp_path / "audit.jsonl")  # the same key
    write(again, chat_of("a"))
    again.close()
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = Audit(other / "audit.jsonl")
    write(elsewhere, chat_of("a"))
    elsewhere.close()
    assert lines(tmp_path)[-1]["digests"] == one
    assert lines(other)[0]["digests"] != one


def test_only_its_owner_reads_it(tmp_path):
    file = tmp_path / "audit.jsonl"
    file.write_text("")
    file.chmod(0o644)
    Audit(file).close()
    for each in (file, tmp_path / "audit.jsonl.key"):
        assert stat.S_IMODE(each.stat().st_mode) == 0o600


def test_links_are_not_followed(tmp_path):
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        Audit(tmp_path / "audit.jsonl")
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_key_is_told(tmp_path):
    (tmp_path / "audit.jsonl.key").write_bytes(b"short")
    with pytest.raises(OSError, match="no key of 32 bytes"):
        Audit(tmp_path / "audit.jsonl")


@pytest.mark.parametrize("fault", ["error", "part", "sync"])
def test_what_cannot_be_written_down_stays(audit, monkeypatch, fault):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if fault == "part":
        monkeypatch.setattr(os, "write", lambda _, data: len(data) // 2)
    else:
        monkeypatch.setattr(os, "write" if fault == "error" else "fsync", full)
    with pytest.raises(StaysHere, match="cannot be written"):
        write(audit, chat_of())


def test_a_full_disk():
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    audit = Audit.__new__(Audit)
    audit._file, audit._key = os.open("/dev/full", os.O_WRONLY), bytes(32)
    with pytest.raises(StaysHere):
        write(audit, chat_of())
    audit.close()
