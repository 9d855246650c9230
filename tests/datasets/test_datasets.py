"""Published formats, on hand-made samples, and what is wrong with bad ones."""

import contextlib
import functools
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import dataset_samples as samples
import numpy as np
import pytest
from fuzzing import fuzz, json_texts
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffvis_jax.datasets import (
    UNIT,
    Boxes,
    DatasetError,
    Outline,
    chained,
    in_pixels,
    load_screen,
    merged,
    open_dataset,
    records,
)
from diffvis_jax.datasets.coordinates import bounds, boxes_in_pixels
from diffvis_jax.datasets.records import image_size
from diffvis_jax.images.geometry import ImageError, PreprocessConfig
from diffvis_jax.metrics import Refusal


def boxes(record) -> list:
    return np.round(np.asarray(in_pixels(record.target, *record.size)), 6).tolist()


@pytest.mark.parametrize("version", ["", "_v2"])
def test_screenspot(tmp_path, version):
    data = open_dataset(samples.screenspot(tmp_path, version))
    assert data.kind == ("screenspot-v2" if version else "screenspot")
    first, second, third = data.records
    assert boxes(first) == [[10, 20, 40, 60]]  # left, top, width, height
    assert boxes(second) == [[150, 60, 200, 100]]
    assert boxes(third) == [[0, 0, 400, 10.5]]
    assert first.instruction == "open a file"
    assert first.groups == {"platform": "desktop", "type": "text", "source": "windows"}
    assert second.groups["type"] == "icon"
    assert third.groups["platform"] == "web"
    # Two questions about one screenshot are one screen.
    assert [len(stream.screens) for stream in data.streams] == [1, 1]
    assert len(data.streams[0].screens[0].records) == 2


def test_screenspot_pro(tmp_path):
    data = open_dataset(samples.screenspot_pro(tmp_path))
    assert data.kind == "screenspot-pro"
    assert [record.id for record in data.records] == ["vscode_0", "vscode_1"]
    assert boxes(data.records[0]) == [[10, 20, 40, 60]]  # left, top, right, bottom
    assert data.records[0].groups["platform"] == "macos"


def test_osworld_g(tmp_path):
    data = open_dataset(samples.osworld_g(tmp_path))
    box, triangle, refused = data.records
    assert boxes(box) == [[100.5, 20, 127, 48]]
    assert isinstance(triangle.target, Outline)
    assert triangle.target.vertices.xy.tolist() == [[0, 0], [40, 0], [0, 40]]
    assert isinstance(refused.target, Refusal)
    assert [record.groups["target"] for record in data.records] == ["bbox", "polygon", "refusal"]


def test_agentnet(tmp_path):
    data = open_dataset(samples.agentnet(tmp_path))
    click, written, moved, ended = data.records
    assert click.target.corners.frame == UNIT
    assert boxes(click) == [[40, 40, 60, 60]]
    assert click.position.xy.tolist() == [0.25, 0.5]
    assert (written.action, written.text, written.target) == ("write", "hello world", None)
    assert boxes(moved) == [[150, 50, 150, 50]]  # no box: the position itself
    assert (ended.action, ended.text) == ("terminate", "success")
    assert [record.id for record in data.records] == ["t1/0/0", "t1/1/0", "t1/1/1", "t1/1/2"]
    (stream,) = data.streams
    assert [len(screen.records) for screen in stream.screens] == [1, 3]


def test_mind2web(tmp_path):
    pytest.importorskip("pyarrow")
    data = open_dataset(samples.mind2web(tmp_path))
    (stream,) = data.streams
    records = [screen.records[0] for screen in stream.screens]
    assert [record.id for record in records] == ["a", "b", "c"]
    assert boxes(records[0]) == [[0, 0, 20, 10], [50, 0, 70, 10]]  # the hidden one left out
    assert (records[1].action, records[1].text) == ("TYPE", "red shoes")
    assert records[2].target is None  # no positive candidate
    frame, size = load_screen(stream.screens[0].image, PreprocessConfig(size=20))
    assert frame.shape == (20, 20, 3)
    assert size == (200, 150)
    assert frame[10, 10].tolist() == [1, 2, 3]


def test_plain_frames(tmp_path):
    for name in ("one", "two"):
        for i in (10, 9):
            samples.picture(tmp_path / name / f"f_{i}.png")
    data = open_dataset(tmp_path)
    assert data.kind == "frames"
    assert [stream.name for stream in data.streams] == ["one", "two"]
    assert [screen.image.name for screen in data.streams[0].screens] == ["f_9.png", "f_10.png"]
    assert data.records[0].target is None
    (alone,) = open_dataset(tmp_path / "one").streams
    assert len(alone.screens) == 2


def test_recorded_session(tmp_path):
    samples.recorded(tmp_path / "click")
    samples.recorded(tmp_path / "public" / "drag", 2)
    data = open_dataset(tmp_path)
    assert data.kind == "trajectory"
    assert [stream.name for stream in data.streams] == ["click", "public/drag"]
    first, *_, last = data.streams[0].screens
    # What was aimed at in step 1 was seen on frame 0.
    assert boxes(first.records[0]) == [[10, 20, 40, 40]]
    assert first.records[0].instruction == "the box"
    assert first.records[0].action == "click"
    assert first.records[0].groups["action before"] == "start"
    assert last.records[0].target is None


def test_rendered_session(tmp_path):
    samples.picture(tmp_path / "f0.png")
    samples.picture(tmp_path / "f1.png")
    element = {"box": [10, 20, 40, 60], "kind": "button"}
    frames = [
        {"file": "f0.png", "action": "start", "elements": [element]},
        {"file": "f1.png", "action": "hover", "elements": []},
    ]
    content = {"width": 200, "height": 100, "frames": frames}
    samples.write(tmp_path / "trajectory.json", content)
    first, second = (s.records[0] for s in open_dataset(tmp_path).streams[0].screens)
    assert first.elements.xy.tolist() == [[[10, 20], [40, 60]]]
    assert second.elements.xy.shape == (0, 2, 2)


def test_chained_and_merged(tmp_path):
    data = open_dataset(samples.screenspot(tmp_path / "a"))
    by_type = chained(data, "type")
    assert {stream.name: len(stream.screens) for stream in by_type.streams} == {
        "type text": 2,
        "type icon": 1,
    }
    with pytest.raises(DatasetError, match=r"record 0: no group 'colour'; it has .'platform'"):
        chained(data, "colour")
    with pytest.raises(DatasetError, match="duplicate id 'screenspot_desktop/0'"):
        merged([data, data])
    other = open_dataset(samples.osworld_g(tmp_path / "b"))
    with pytest.raises(DatasetError, match="several kinds: osworld-g, screenspot"):
        merged([data, other])


# ---- what is wrong ----------------------------------------------------------------------------


def changed(path, change):
    """Rewrites a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def case(make, file, change, said):
    return pytest.param(make, file, change, said, id=said[:40])


@pytest.mark.parametrize(
    ("make", "file", "change", "said"),
    [
        case(
            samples.screenspot,
            "screenspot_desktop.json",
            lambda c: c[1].update(bbox=[150, 60, 500, 40]),
            "screenspot_desktop.json' record 1: box .* reaches outside",
        ),
        case(
            samples.screenspot,
            "screenspot_desktop.json",
            lambda c: c[1].update(bbox=[150, 60, -50, 40]),
            "screenspot_desktop.json' record 1: inverted box",
        ),
        case(
            samples.screenspot,
            "screenspot_desktop.json",
            lambda c: c[0].update(bbox=[0.1, 0.2, 0.3, 0.4]),
            "record 0: box .* looks like 0-1, not pixels 200 x 100",
        ),
        case(
            samples.screenspot,
            "screenspot_desktop.json",
            lambda c: c[0].pop("instruction"),
            "record 0: no field 'instruction'; there are",
        ),
        case(
            samples.screenspot,
            "screenspot_desktop.json",
            lambda c: c[0].update(bbox="1,2,3,4"),
            "record 0: field 'bbox' is str",
        ),
        case(
            samples.screenspot,
            "screenspot_web.json",
            lambda c: c[0].update(img_filename="no.png"),
            "screenspot_web.json' record 0: missing image 'no.png' .looked in .*screenspot_imgs",
        ),
        case(
            samples.screenspot_pro,
            "annotations/vscode.json",
            lambda c: c[1].update(id="vscode_0"),
            "duplicate id 'vscode_0': .*record 0.*record 1",
        ),
        case(
            samples.screenspot_pro,
            "annotations/vscode.json",
            lambda c: c[0].update(img_size=[3000, 2000]),
            r"record 0 \(id vscode_0\): .*a.png' has 300 x 200 px, the annotation says",
        ),
        case(
            samples.screenspot_pro,
            "annotations/vscode.json",
            lambda c: c[0].update(bbox=[100, 120, 40, 60]),
            r"\(id vscode_0\): inverted box .*is it left, top, width, height",
        ),
        case(
            samples.osworld_g,
            "OSWorld-G.json",
            lambda c: c[1].update(box_coordinates=[0, 0, 40]),
            r"record 1 \(id A-1\): a polygon needs 3 points",
        ),
        case(
            samples.osworld_g,
            "OSWorld-G.json",
            lambda c: c[0].update(box_type="circle"),
            r"\(id A-0\): box_type must be bbox, polygon or refusal, got 'circle'",
        ),
        case(
            samples.osworld_g,
            "OSWorld-G.json",
            lambda c: c.append(3),
            "record 3: an object is needed, got int",
        ),
        case(
            samples.agentnet,
            "task.json",
            lambda c: c["steps"][0]["ground_truth_actions"][0]["params"].update(
                position={"x": 250, "y": 500}
            ),
            "task.json' step 0 action 0: box .* reaches outside the image .0-1",
        ),
        case(
            samples.agentnet,
            "task.json",
            lambda c: c["steps"][1].update(ground_truth_actions=[]),
            "task.json' step 1: no ground_truth_actions",
        ),
        case(
            samples.agentnet,
            "task.json",
            lambda c: c["steps"][1].update(image="9.png"),
            "task.json' step 1: missing image '9.png'",
        ),
        case(
            samples.recorded,
            "trajectory.json",
            lambda c: c.pop("resolution"),
            "trajectory.json': no resolution",
        ),
        case(
            samples.recorded,
            "trajectory.json",
            lambda c: c["steps"][2].update(target_box=[10, 20, 5, 30]),
            "trajectory.json' step 2: inverted box",
        ),
        case(
            samples.recorded,
            "trajectory.json",
            lambda c: c["steps"][2].update(frame="gone.png"),
            "trajectory.json' step 2: missing image 'gone.png'",
        ),
    ],
)
def test_faults_name_file_and_record(tmp_path, make, file, change, said):
    make(tmp_path)
    changed(tmp_path / file, change)
    with pytest.raises(DatasetError, match=said):
        open_dataset(tmp_path)


def test_faulty_records_may_be_left_out(tmp_path):
    samples.screenspot(tmp_path)
    changed(tmp_path / "screenspot_desktop.json", lambda c: c[1].update(bbox=[150, 60, 500, 40]))
    data = open_dataset(tmp_path, skip=True)
    assert [record.id for record in data.records] == ["screenspot_desktop/0", "screenspot_web/0"]
    assert len(data.faults) == 1
    assert "record 1" in data.faults[0]


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(DatasetError, match="no such directory or file"):
        open_dataset(tmp_path / "no")
    with pytest.raises(DatasetError, match="no format 'coco': there are screenspot"):
        open_dataset(tmp_path, "coco")
    (tmp_path / "screenspot_web.json").write_text("[")
    with pytest.raises(DatasetError, match=r"screenspot_web.json' cannot be read as JSON"):
        open_dataset(tmp_path)
    (tmp_path / "screenspot_web.json").write_text("{}")
    with pytest.raises(DatasetError, match="must hold a JSON list, got dict"):
        open_dataset(tmp_path)
    (tmp_path / "screenspot_web.json").write_text("[]")
    with pytest.raises(DatasetError, match="no records"):
        open_dataset(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no images in"):
        open_dataset(tmp_path / "empty")


def test_an_unreadable_image_is_named(tmp_path):
    samples.screenspot(tmp_path)
    (tmp_path / "screenspot_imgs" / "web_1.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"screenspot_web.json' record 0: .*web_1.png'"):
        open_dataset(tmp_path)


def test_images_elsewhere(tmp_path):
    samples.osworld_g(tmp_path / "data")
    shutil.move(tmp_path / "data" / "images", tmp_path / "pictures")
    with pytest.raises(DatasetError, match=r"missing image 'A.png'"):
        open_dataset(tmp_path / "data")
    data = open_dataset(tmp_path / "data", images=tmp_path / "pictures")
    assert len(data.records) == 3
    with pytest.raises(DatasetError, match="no such directory of images"):
        open_dataset(tmp_path / "data", images=tmp_path / "nowhere")


def test_mind2web_faults(tmp_path):
    pytest.importorskip("pyarrow")
    for number, (row, said) in enumerate(
        [
            (samples.mind2web_row("a", 0, ["1,2,3"], samples.png((9, 9))), "4 finite numbers"),
            (samples.mind2web_row("a", 0, ["1,2,x,4"], samples.png((9, 9))), "bounding_box_rect"),
            (samples.mind2web_row("a", 0, ["0,0,50,5"], samples.png((9, 9))), "reaches outside"),
            (
                samples.mind2web_row("a", 0, ["0,0,5,5"], {"bytes": b"", "path": "x"}),
                "missing image",
            ),
        ]
    ):
        root = samples.mind2web(tmp_path / str(number), [row])
        with pytest.raises(DatasetError, match=rf"parquet, row group 0, row 0' \(.*{said}"):
            open_dataset(root)


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DatasetError, match=r"pip install 'diffvis_jax\[datasets\]'"):
        open_dataset(tmp_path)


def test_a_broken_screen_is_an_image_error(tmp_path):
    path = samples.picture(tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageError, match=r"a\.png"):
        load_screen(path, PreprocessConfig(size=20))


def test_photos_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (30, 20), (9, 9, 9)).save(tmp_path / "a.jpg", exif=exif)
    assert image_size(tmp_path / "a.jpg", "here") == (20, 30)
    assert load_screen(tmp_path / "a.jpg", PreprocessConfig(size=20))[1] == (20, 30)


def test_box_target_type(tmp_path):
    record = open_dataset(samples.screenspot_pro(tmp_path)).records[0]
    assert isinstance(record.target, Boxes)
    assert record.source.endswith("record 0 (id vscode_0)")


# ---- data of real life ------------------------------------------------------------------------


def test_companions_and_hidden_files_are_no_data(tmp_path):
    samples.screenspot_pro(tmp_path)
    for name in ("annotations/._vscode.json", ".trash/OSWorld-G.json", "__MACOSX/a.parquet"):
        samples.write(tmp_path / name, 1)
    assert [record.id for record in open_dataset(tmp_path).records] == ["vscode_0", "vscode_1"]
    samples.write(tmp_path / "plain" / "._task.json", 1)
    samples.picture(tmp_path / "plain" / "a.png")
    assert open_dataset(tmp_path / "plain").kind == "frames"


def test_frames_beside_folders_of_frames_are_refused(tmp_path):
    samples.picture(tmp_path / "a.png")
    (tmp_path / "notes").mkdir()
    assert len(open_dataset(tmp_path).records) == 1
    samples.picture(tmp_path / "thumbnails" / "a.png")
    said = r"holds both images \('a.png', .. : 1\) and folders with images \('thumbnails', .. : 1\)"
    with pytest.raises(DatasetError, match=said):
        open_dataset(tmp_path)
    samples.write(tmp_path / "session.json", {"steps": [{"frame": "thumbnails/a.png"}]})
    assert open_dataset(tmp_path).records[0].image == tmp_path / "thumbnails" / "a.png"


def test_sessions_in_sessions_are_refused_and_frames_without_one_are_told(tmp_path):
    samples.recorded(tmp_path / "a", 2)
    samples.picture(tmp_path / "b" / "0.png")
    samples.picture(tmp_path / "a" / "heat" / "0.png")
    samples.recorded(tmp_path / ".old", 2)
    with pytest.warns(UserWarning, match=r"1 folder with images and without a trajectory.json ..b"):
        assert len(open_dataset(tmp_path).streams) == 1
    samples.recorded(tmp_path / "a" / "again", 2)
    with pytest.raises(DatasetError, match="is a session, and holds others"):
        open_dataset(tmp_path / "a")


def scaled(root, size, frame):
    """A session whose frames have another size than its recorder says."""
    samples.recorded(root, 3, size)
    changed(root / "trajectory.json", lambda c: c.update(resolution=list(frame)))
    return root


@pytest.mark.parametrize(
    ("size", "resolution"),
    [((288, 180), (144, 90)), ((400, 225), (266, 150)), ((72, 45), (144, 90))],
)
def test_boxes_of_a_scaled_screen_are_scaled(tmp_path, size, resolution):
    record = open_dataset(scaled(tmp_path, size, resolution)).records[0]
    assert record.size == size
    factor = np.array([size[0] / resolution[0], size[1] / resolution[1]] * 2)
    assert boxes(record) == [pytest.approx(np.array([10, 20, 40, 40]) * factor)]


def test_elements_of_a_scaled_screen_are_scaled(tmp_path):
    samples.picture(tmp_path / "f0.png", (400, 200))
    element = {"box": [10, 20, 40, 60], "kind": "button"}
    content = {"width": 200, "height": 100, "frames": [{"file": "f0.png", "elements": [element]}]}
    samples.write(tmp_path / "trajectory.json", content)
    (record,) = open_dataset(tmp_path).records
    assert boxes_in_pixels(record.elements, *record.size).tolist() == [[20, 40, 80, 120]]


def test_sizes_that_contradict_the_recorder_are_refused(tmp_path):
    scaled(tmp_path / "a", (200, 100), (144, 90))
    with pytest.raises(DatasetError, match=r"step 0: .*has 200 x 100 px, the recording says 144 x"):
        open_dataset(tmp_path / "a")
    samples.recorded(tmp_path / "b", 3)
    samples.picture(tmp_path / "b" / "frame_001.png", (400, 200))
    with pytest.raises(DatasetError, match=r"step 1: .*the frames of this session have several si"):
        open_dataset(tmp_path / "b")
    data = open_dataset(tmp_path / "b", skip=True)
    assert [record.step for record in data.records] == [0, 2]


def test_a_broken_frame_of_a_session_is_left_to_the_decoder(tmp_path):
    samples.recorded(tmp_path)
    (tmp_path / "frame_001.png").write_bytes(b"no picture")
    assert {record.size for record in open_dataset(tmp_path).records} == {(200, 100)}


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([0.6, 0.5, 0.8, 0.7], "looks like 0-1, not pixels"),  # left + width is above 1
        ([0.55, 0.7, 0.9, 0.8], "looks like 0-1"),
        ([0.6, 0.5, 1.02, 0.7], "looks like 0-1"),
        ([0, 0, 1, 1], "looks like 0-1"),
    ],
)
def test_boxes_in_shares_are_no_pixels(tmp_path, box, said):
    samples.screenspot(tmp_path)
    changed(tmp_path / "screenspot_desktop.json", lambda c: [x.update(bbox=box) for x in c])
    changed(tmp_path / "screenspot_web.json", lambda c: [x.update(bbox=box) for x in c])
    with pytest.raises(DatasetError, match=said):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match=r"no records .* without a fault; the first of 3: .*0-1"):
        open_dataset(tmp_path, skip=True)


def test_a_small_box_in_pixels_is_one(tmp_path):
    samples.screenspot(tmp_path)
    changed(tmp_path / "screenspot_desktop.json", lambda c: c[0].update(bbox=[1, 1, 1, 1]))
    changed(tmp_path / "screenspot_desktop.json", lambda c: c[1].update(bbox=[0.5, 0.5, 9, 9]))
    assert boxes(open_dataset(tmp_path).records[0]) == [[1, 1, 2, 2]]


@pytest.mark.parametrize(
    "action",
    [
        {"type": "click", "params": {"position": {"x": 0.5, "y": 0.5}}, "metadata": [1]},
        {"type": "click", "params": 5},
        {"type": "click", "params": {"position": 5}},
        {"type": "click", "params": {}, "metadata": {"bboxes": [{"rel_bbox": [10**400, 0, 0, 0]}]}},
        {"type": "click", "params": {}, "metadata": {"bboxes": [{"rel_bbox": [True, 0, 0, 0]}]}},
        {"type": "click", "params": {}, "metadata": {"bboxes": 5}},
        {"type": ["click"], "params": {}},
        "click",
    ],
)
def test_values_of_other_types_are_faults_of_their_record(tmp_path, action):
    samples.agentnet(tmp_path)
    changed(tmp_path / "task.json", lambda c: c["steps"][0]["ground_truth_actions"].append(action))
    with pytest.raises(DatasetError, match=r"task.json' step 0 action 1: "):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, skip=True)
    assert [record.id for record in data.records] == ["t1/1/0", "t1/1/1", "t1/1/2"]
    assert len(data.faults) == 1


def test_empty_values_are_no_faults(tmp_path):
    samples.agentnet(tmp_path)
    change = {"params": None, "metadata": []}
    changed(
        tmp_path / "task.json", lambda c: c["steps"][0]["ground_truth_actions"][0].update(change)
    )
    assert open_dataset(tmp_path).records[0].target is None


def test_faulty_files_may_be_left_out_too(tmp_path):
    samples.agentnet(tmp_path)
    (tmp_path / "broken.json").write_text("{")
    samples.write(tmp_path / "other.json", {"steps": 5})
    (tmp_path / "twice.json").write_text('{"steps": [], "steps": [1]}')
    with pytest.raises(DatasetError, match=r"broken.json' cannot be read as JSON"):
        open_dataset(tmp_path)
    data = open_dataset(tmp_path, skip=True)
    assert len(data.records) == 4
    assert len(data.faults) == 3


def test_ids_that_occur_twice_may_be_left_out(tmp_path):
    samples.screenspot_pro(tmp_path)
    changed(tmp_path / "annotations" / "vscode.json", lambda c: c[1].update(id="vscode_0"))
    data = open_dataset(tmp_path, skip=True)
    assert [record.id for record in data.records] == ["vscode_0"]
    assert "duplicate id" in data.faults[0]


def test_two_screenshots_of_one_step_may_be_left_out(tmp_path):
    pytest.importorskip("pyarrow")
    rows = [samples.mind2web_row(name, 0, [], samples.png((9, 9))) for name in "ab"]
    root = samples.mind2web(tmp_path, rows)
    with pytest.raises(DatasetError, match="step 0 of 'task' has two screenshots"):
        open_dataset(root)
    assert [record.id for record in open_dataset(root, skip=True).records] == ["a"]


def test_marks_and_signs_in_annotations(tmp_path):
    samples.screenspot(tmp_path)
    path = tmp_path / "screenspot_web.json"
    changed(path, lambda c: c[0].update(instruction="a\u2028b\x85"))
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert open_dataset(tmp_path).records[-1].instruction == "a\u2028b\x85"


def test_one_row_group_is_decoded_once_for_all_threads(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    data = open_dataset(samples.mind2web(tmp_path))
    images = [record.image for record in data.records if record.image.group == 0]
    reading = records._screenshots.__wrapped__
    read = []

    def slow(path, group):
        read.append(group)
        time.sleep(0.05)
        return reading(path, group)

    monkeypatch.setattr(records, "_screenshots", functools.lru_cache(maxsize=2)(slow))
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda image: image.read(), images * 4))
    assert read == [0]


def test_a_parquet_file_that_is_damaged_later_is_a_broken_image(tmp_path):
    pytest.importorskip("pyarrow")
    root = samples.mind2web(tmp_path)
    image = open_dataset(root).records[0].image
    file = next(root.glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:200])
    records._screenshots.cache_clear()
    with pytest.raises(ImageError, match="cannot be read as Parquet"):
        image.read()


# ---- whatever a file holds --------------------------------------------------------------------

MADE = {
    "screenspot": (samples.screenspot, "screenspot_desktop.json"),
    "screenspot-pro": (samples.screenspot_pro, "annotations/vscode.json"),
    "osworld-g": (samples.osworld_g, "OSWorld-G.json"),
    "agentnetbench": (samples.agentnet, "task.json"),
    "trajectory": (samples.recorded, "trajectory.json"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A right sample of every format, and what its file of annotations holds."""
    found = {}
    for kind, (make, file) in MADE.items():
        root = make(tmp_path_factory.mktemp(kind))
        found[kind] = root, root / file, json.loads((root / file).read_text())
    return found


@fuzz(share=0.2)
@pytest.mark.parametrize("kind", MADE)
@given(data=st.data(), skip=st.booleans())
def test_any_annotations_are_read_or_refused(made, kind, data, skip):
    root, file, content = made[kind]
    file.write_bytes(data.draw(json_texts(content)))
    try:
        found = open_dataset(root, kind, skip=skip)
    except DatasetError:
        return
    assert found.records
    assert bool(found.faults) <= skip
    for record in found.records:
        if record.target is not None and not isinstance(record.target, Refusal):
            assert np.isfinite(bounds(in_pixels(record.target, *record.size))).all()


@fuzz(share=0.2)
@given(data=st.data(), skip=st.booleans())
def test_any_row_is_read_or_refused(tmp_path_factory, data, skip):
    arrow = pytest.importorskip("pyarrow")
    row = samples.mind2web_row("a", 0, ["0,0,5,5"], None)
    for name in ("operation", "target_action_index"):
        row[name] = data.draw(st.just(row[name]) | st.text(max_size=9))
    candidate = json.loads(row["pos_candidates"][0])
    attributes = data.draw(json_texts(json.loads(candidate["attributes"])))
    candidate["attributes"] = attributes.decode("utf-8", "replace")
    text = data.draw(json_texts(candidate)).decode("utf-8", "replace")
    row["pos_candidates"] = [text]
    png = samples.png((9, 9))["bytes"]
    row["screenshot"] = {"bytes": png[: data.draw(st.just(len(png)) | st.integers(0, len(png)))]}
    root = tmp_path_factory.getbasetemp() / "rows"
    root.mkdir(exist_ok=True)
    try:
        samples.mind2web(root, [row])
    except arrow.ArrowException:  # no text that Parquet could hold
        return
    with contextlib.suppress(DatasetError):
        assert len(open_dataset(root, skip=skip).records) == 1
