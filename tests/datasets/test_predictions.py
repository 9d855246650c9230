"""Any agent's answers: read with their frames, scored by the rules of the data sets."""

import contextlib
import json
import math

import dataset_samples as samples
import pytest
from fuzzing import fuzz, json_texts
from hypothesis import given
from hypothesis import strategies as st

from diffvis_jax.datasets import CoordinateError, DatasetError, open_dataset
from diffvis_jax.datasets.predictions import read_predictions
from diffvis_jax.evaluation.answers import (
    answers_table,
    paired_test,
    questions,
    score,
    summarise_answers,
)
from diffvis_jax.metrics.actions import click_score, edit_similarity, same_text, word_f1


def lines(path, *items):
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


@pytest.fixture
def spots(tmp_path):
    """Boxes 10-40 x 20-60 and 150-200 x 60-100 of 200 x 100, 0-400 x 0-10.5 of 400 x 300."""
    return open_dataset(samples.screenspot(tmp_path / "data"))


IDS = ("screenspot_desktop/0", "screenspot_desktop/1", "screenspot_web/0")


def test_one_answer_in_all_frames(spots, tmp_path):
    for frame, point in (
        ({"frame": "pixels"}, [20, 30]),
        ({"frame": "0-1"}, [0.1, 0.3]),
        ({"frame": "0-1000"}, [100, 300]),
        ({"frame": "resized", "size": [1092, 560]}, [109.2, 168]),
    ):
        path = lines(tmp_path / "a.jsonl", frame, {"id": IDS[0], "point": point})
        said = read_predictions(path, spots)[IDS[0]]
        assert said.answer.tolist() == pytest.approx([20, 30])
        assert score(spots, {IDS[0]: said})[0]["outcome"] == "correct"


def test_scored_by_hand(spots, tmp_path):
    path = lines(
        tmp_path / "a.jsonl",
        {"frame": "pixels"},
        {"id": IDS[0], "box": [10, 20, 40, 80]},  # its middle is inside; IoU 2 / 3
        {"id": IDS[1], "raw": "I cannot tell"},
    )
    rows = score(spots, read_predictions(path, spots))
    assert [row["outcome"] for row in rows] == ["correct", "wrong_format", "no_prediction"]
    assert rows[0]["iou"] == pytest.approx(2 / 3)
    said = summarise_answers(rows)
    assert said["questions"] == 3
    assert said["correct"] == pytest.approx(1 / 3)
    assert (said["boxes"], said["iou"]) == (1, 1)
    assert answers_table({"a": said}, "answers")[1][3] == "1"
    better = [{**row, "correct": True} for row in rows]
    assert paired_test(rows, better) == {"only_first": 0, "only_second": 2, "p": 0.5}


def test_refusals_and_polygons(tmp_path):
    data = open_dataset(samples.osworld_g(tmp_path / "data"))
    path = lines(
        tmp_path / "a.jsonl",
        {"frame": "pixels"},
        {"id": "A-0", "refused": True},
        {"id": "A-1", "point": [19, 19]},
        {"id": "A-2", "refused": True},
    )
    rows = score(data, read_predictions(path, data))
    assert [row["outcome"] for row in rows] == ["refused", "correct", "correct"]
    path = lines(
        tmp_path / "a.jsonl",
        {"frame": "pixels"},
        {"id": "A-1", "point": [25, 25]},
        {"id": "A-2", "point": [1, 5]},
    )
    rows = score(data, read_predictions(path, data))
    assert [row["outcome"] for row in rows] == ["no_prediction", "outside", "not_refused"]


def test_agentnet_rules(tmp_path):
    data = open_dataset(samples.agentnet(tmp_path / "data"))
    path = lines(
        tmp_path / "a.jsonl",
        {"frame": "0-1"},
        {"id": "t1/0/0", "action": "click", "point": [0.25, 0.55]},
        {"id": "t1/1/0", "action": "write", "text": "hello worlds"},
        {"id": "t1/1/1", "action": "moveTo", "point": [0.76, 0.52]},
        {"id": "t1/1/2", "action": "click", "point": [0.5, 0.5]},
    )
    rows = score(data, read_predictions(path, data))
    distance = math.hypot(0.01, 0.02)
    near = math.exp(-120 * (distance - 0.01 * math.sqrt(2)))
    assert [row["score"] for row in rows] == pytest.approx([1, 1, near, 0])
    said = summarise_answers(rows)
    assert said["score"] == pytest.approx((1 + 1 + near + 0) / 4)
    assert said["correct"] == 0.5
    assert len(questions(data)) == 4


def test_mind2web_rules(tmp_path):
    pytest.importorskip("pyarrow")
    data = open_dataset(samples.mind2web(tmp_path / "data"))
    path = lines(
        tmp_path / "a.jsonl",
        {"frame": "pixels"},
        {"id": "a", "action": "CLICK", "point": [60, 5]},
        {"id": "b", "action": "TYPE", "text": "blue shoes", "point": [20, 30]},
    )
    rows = score(data, read_predictions(path, data))
    assert {row["id"]: row["success"] for row in rows} == {"a": True, "b": False}
    assert {row["id"]: row["f1"] for row in rows} == pytest.approx({"a": 1, "b": 2 / 3})
    said = summarise_answers(rows)
    assert said["correct_macro"] == 1
    assert said["success_macro"] == 0.5
    assert said["f1_macro"] == pytest.approx(5 / 6)


def test_text_rules():
    assert edit_similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert edit_similarity("", "") == 1
    assert same_text("abcde", "abcdx")
    assert not same_text("abcd", "abxx")
    assert word_f1("TYPE red shoes", "type shoes") == pytest.approx(0.8)
    assert word_f1("", "") == 1
    assert click_score([5, 5], [[0, 0, 10, 10]], [9, 9], (100, 100)) == 1
    far = click_score([90, 90], [[0, 0, 10, 10]], [5, 5], (100, 100))
    assert 0 <= far < 1e-6


@pytest.mark.parametrize(
    ("items", "error", "said"),
    [
        ([{"frame": "pixels"}, {"id": "x", "point": [1, 2]}], DatasetError, "line 2: no record"),
        ([{"id": IDS[0], "point": [1, 2]}], DatasetError, "line 1: frame must be one of pixels"),
        ([{"id": IDS[0], "point": [1, 2], "frame": "resized"}], DatasetError, "needs a size"),
        ([{"frame": "pixels"}, *[{"id": IDS[0]}] * 2], DatasetError, "line 3: .* answered twice"),
        ([{"frame": "pixels"}], DatasetError, "holds no answers"),
        ([{"frame": "pixels"}, [1]], DatasetError, "line 2: an object is needed"),
        ([{"frame": "pixels"}, {"frame": "0-1"}], DatasetError, "line 2: no record with id None"),
        (
            [{"id": IDS[0], "point": [1, 2], "frame": "resized", "size": [0, 9]}],
            DatasetError,
            "line 1: frame 'resized' needs a size",
        ),
        (
            [{"id": IDS[0], "point": [1, 2], "frame": "resized", "size": [10**400, 9]}],
            DatasetError,
            "needs a size",
        ),
        ([{"id": IDS[0], "point": [1, 2], "frame": {}}], DatasetError, "frame must be one of"),
        (
            [{"frame": "0-1"}, *({"id": name, "point": [90, 50]} for name in IDS)],
            CoordinateError,
            "3 of 3 answers in frame '0-1' lie outside the image .the first: .* line 2",
        ),
        (
            [{"frame": "pixels"}, *({"id": name, "point": [0.5, 0.5]} for name in IDS)],
            CoordinateError,
            "in frame 'pixels' look like 0-1",
        ),
    ],
)
def test_bad_files_name_the_line(spots, tmp_path, items, error, said):
    with pytest.raises(error, match=said):
        read_predictions(lines(tmp_path / "a.jsonl", *items), spots)


def test_one_answer_far_outside_is_only_wrong(spots, tmp_path):
    path = lines(
        tmp_path / "a.jsonl",
        {"frame": "pixels"},
        {"id": IDS[0], "point": [20, 30]},
        {"id": IDS[1], "point": [160, 70]},
        {"id": IDS[2], "point": [5000, 5]},
    )
    rows = score(spots, read_predictions(path, spots))
    assert [row["outcome"] for row in rows] == ["correct", "correct", "outside"]


@pytest.mark.parametrize(
    "numbers", [[1], ["a", 2], [None, 2], [True, 1], "1,2", {"x": 1}, [9, 1, 2], [10**400, 1]]
)
def test_what_is_no_point_is_of_wrong_format(spots, tmp_path, numbers):
    path = lines(tmp_path / "a.jsonl", {"frame": "pixels"}, {"id": IDS[0], "point": numbers})
    assert score(spots, read_predictions(path, spots))[0]["outcome"] == "wrong_format"


def test_box_turned_round_is_of_wrong_format(spots, tmp_path):
    path = lines(tmp_path / "a.jsonl", {"frame": "pixels"}, {"id": IDS[0], "box": [40, 20, 10, 60]})
    assert score(spots, read_predictions(path, spots))[0]["outcome"] == "wrong_format"


def test_marks_empty_lines_and_signs_within_texts(spots, tmp_path):
    path = tmp_path / "a.jsonl"
    said = {"id": IDS[0], "point": [20, 30], "text": "a\u2028b\x85c"}
    text = f'\r\n \n{{"frame": "pixels"}}\r\n\n{json.dumps(said, ensure_ascii=False)}\n'
    path.write_text(text, encoding="utf-8-sig", newline="")
    assert read_predictions(path, spots)[IDS[0]].text == "a\u2028b\x85c"


def test_a_field_twice_is_refused(spots, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id": "{IDS[0]}", "point": [1, 2], "point": [3, 4]}}')
    with pytest.raises(DatasetError, match="line 1: holds 'point' twice, with two values"):
        read_predictions(path, spots)


def test_a_text_that_is_null_is_none(spots, tmp_path):
    path = lines(tmp_path / "a.jsonl", {"id": IDS[0], "action": "write", "text": None})
    assert read_predictions(path, spots)[IDS[0]].text == ""


def test_answers_about_a_scaled_screen_are_in_pixels_of_its_image(tmp_path):
    samples.recorded(tmp_path / "s", 2, (400, 200))
    file = tmp_path / "s" / "trajectory.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "resolution": [200, 100]}))
    data = open_dataset(tmp_path / "s")  # the box is 10-40 x 20-40 for the recorder
    for point, outcome in (([25, 30], "outside"), ([50, 60], "correct")):
        answers = {"id": "s/0", "point": point, "frame": "pixels"}
        path = lines(tmp_path / "a.jsonl", answers)
        assert score(data, read_predictions(path, data))[0]["outcome"] == outcome


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return open_dataset(samples.screenspot(tmp_path_factory.mktemp("asked")))


LINES = [
    {"id": IDS[0], "point": [20, 30], "frame": "0-1000"},
    {"id": IDS[1], "box": [10, 20, 30, 40], "action": "write", "text": "a"},
    {"id": IDS[2], "point": [20, 30], "frame": "resized", "size": [1092, 560]},
    {"id": IDS[0], "refused": True},
]


@fuzz()
@given(st.lists(json_texts(*LINES), max_size=4))
def test_any_answers_are_read_or_refused(asked, tmp_path_factory, some):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(b"\n".join([b'{"frame": "pixels"}', *some]))
    with contextlib.suppress(DatasetError):
        assert score(asked, read_predictions(path, asked))
