"""Published formats, on hand-made samples, and what is wrong with bad ones."""

import json
import shutil
import sys

import dataset_samples as samples
import numpy as np
import pytest
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
)
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
