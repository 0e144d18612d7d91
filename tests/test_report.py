"""The report: what it says about a converted dataset, what hostile text does to it, and what damage it names."""

import base64
import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline import conversion
from pipeline.errors import DataError, EnvironmentFault, UsageError
from pipeline.records import EXPRESSIONS, FILTER_REASONS, REJECTION_REASONS
from pipeline.report_page import write_report
from pipeline.settings import Settings

HOSTILE = 'it\'s "<img src=x onerror=alert(1)>" {{ 7*7 }} \u202e\n😀 &amp;'
PALETTE = (
    (128, 128, 128),
    (250, 160, 10),
    (10, 110, 180),
    (80, 180, 230),
    (200, 120, 170),
    (10, 160, 110),
    (210, 90, 10),
    (240, 230, 60),
)
VALENCE = (0.0, 0.7, -0.6, 0.2, -0.2, -0.6, -0.5, -0.4)


def face(expression: int, index: int) -> bytes:
    """A JPEG in the colour of its class; `index` makes its bytes unique."""
    pixels = np.full((48, 64, 3), PALETTE[expression], np.uint8)
    pixels[:8, :8] = index * 5
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def add(folder: Path, name: str, image: bytes, **labels) -> None:
    """One face in AffectNet's layout; labels are exp, val, aro, lnd."""
    for part in ("images", "annotations"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "images" / f"{name}.jpg").write_bytes(image)
    for kind, value in labels.items():
        np.save(folder / "annotations" / f"{name}_{kind}.npy", np.array(value))


def convert(raw: Path, data: Path, **settings) -> Path:
    return Path(
        conversion.convert(Settings(input_dir=str(raw), data_dir=str(data), name="test", **settings)).dataset_dir
    )


@pytest.fixture(scope="module")
def rich(tmp_path_factory) -> Path:
    """Every class in two splits, a hostile name, an unknown class, rejected and filtered faces, duplicates, a leak."""
    raw = tmp_path_factory.mktemp("rich")
    train, test = raw / "train_set", raw / "val_set"
    for expression, valence in enumerate(VALENCE):
        for index in range(3):
            add(train, f"{expression}{index}", face(expression, index), exp=expression, val=valence, aro=0.1 * index)
        add(test, f"{expression}", face(expression, 9), exp=expression, val=valence, aro=0.5)
    add(train, HOSTILE, face(1, 20), exp=1, val=0.8, aro=0.3, lnd=[20.5, 30.25] * 68)
    add(train, "uncertain", face(0, 21), exp=9, val=0.0, aro=0.0)
    add(train, "nothing", face(0, 22), exp=8, val=-2.0, aro=-2.0)
    add(train, "copy", face(2, 0), exp=2, val=-0.6, aro=0.0)
    add(train, "leaked", face(3, 9), exp=3, val=0.2, aro=0.5)
    add(train, "<script>alert(2)<br>", b"<script>alert(3)</script>", exp=0, val=0.0, aro=0.0)
    add(train, "pickle", face(0, 23), exp=0)
    np.save(train / "annotations" / "pickle_val.npy", np.array([{}], object))
    return convert(raw, tmp_path_factory.mktemp("data"), source="affectnet", on_leak="drop", max_bad_fraction=0.5)


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """One split, arousal alone: no class, no valence, nothing rejected."""
    raw = tmp_path_factory.mktemp("bare")
    (raw / "labels.csv").write_text("image,arousal,split\n" + "".join(f"{i}.jpg,0.{i},train\n" for i in range(5)))
    for index in range(5):
        (raw / f"{index}.jpg").write_bytes(face(index, index))
    return convert(raw, tmp_path_factory.mktemp("data"), source="csv")


@pytest.fixture
def damaged(rich, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(rich, tmp_path / "damaged"))


class Page(html.parser.HTMLParser):
    """A page as a browser takes it apart: its elements, and the text of some of them."""

    VOID = {"meta", "img", "br", "wbr", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.source = text
        self.open: list[str] = []
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("p", "li"):
            self.handle_data(" ")

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes no <{tag}>"

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def cells(self, first: str) -> list[str]:
        """The cells of the row whose first cell says `first`."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return next(row for row in rows if row[0].split()[:1] == [first])

    def images(self, alt: str) -> list[Image.Image]:
        sources = [a["src"] for tag, a in self.elements if tag == "img" and a["alt"].startswith(alt)]
        return [Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))) for source in sources]


def report(dataset: Path, output: Path) -> Page:
    write_report(dataset, output)
    page = Page(output.read_text())
    assert page.open == [] and page.source.startswith("<!DOCTYPE html>")
    return page


@pytest.fixture(scope="module")
def page(rich, tmp_path_factory) -> Page:
    return report(rich, tmp_path_factory.mktemp("page") / "report.html")


def test_inputs_are_written_rejected_and_filtered(page):
    tiles = re.search(r"inputs(\d+)\s+written=(\d+)\s+rejected\+(\d+)\s+filtered\+(\d+)", page.text)
    # 8 × 4 faces, 7 special ones; the leaked copy and the face without a label are filtered.
    assert tiles and tuple(map(int, tiles.groups())) == (39, 35, 2, 2)


def test_page_asks_for_nothing_and_runs_nothing(page):
    names = {tag for tag, _ in page.elements}
    assert not names & {"script", "link", "iframe", "object", "base", "form"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
    assert "default-src 'none'" in page.source
    assert len(page.source) < 6_000_000


def test_hostile_text_is_shown_as_it_is(page):
    assert [
        attributes
        for tag, attributes in page.elements
        if tag == "figure" and attributes.get("title") == f"train_set/{HOSTILE}"
    ]
    assert HOSTILE in page.text
    assert "train_set/<script>alert(2)<br>" in page.text


def test_counts_of_classes_labels_and_weights(page):
    header = next(row for row in page.rows if row[0] == "class")
    assert header == ["class", "train", "test"]
    # 3 happy faces and the hostile one of 27 in train; 25 of them have a class.
    faces, share, weight = page.cells("happy")[1:4]
    assert (faces, share) == ("4", "14.8 %")
    assert weight == f"{26 / (8 * 4):.2f}"
    assert page.cells("unknown")[1:7] == ["1", "3.7 %", "–", "0", "0.0 %", "–"]
    assert page.cells("test")[4:] == ["8 100.0 %", "8 100.0 %", "8 100.0 %", "8 100.0 %", "0 0.0 %"]


def test_sample_faces_are_those_of_their_class(page):
    for expression, name in enumerate(EXPRESSIONS):
        images = page.images(f"{name}, ")
        assert len(images) == (5 if name in ("happy", "sad") else 4)
        for image in images:
            colour = np.asarray(image.convert("RGB"))[image.height // 2 :].mean(axis=(0, 1))
            assert np.abs(colour - PALETTE[expression]).max() < 4
    assert len(page.images("unknown, ")) == 1
    assert "M20.5 30.2h0" in page.source
    assert page.source.count("<svg") == 1


def test_figures_are_drawn_for_each_split_and_class(page):
    figures = [a["alt"] for tag, a in page.elements if tag == "img" and a["src"].startswith("data:image/svg")]
    assert len(figures) == 2 + 1 + 8 and all(figures)
    drawings = [
        base64.b64decode(a["src"].split(",")[1])
        for _, a in page.elements
        if a.get("src", "").startswith("data:image/svg")
    ]
    assert all(b"valence</text>" in drawing and b"arousal</text>" in drawing for drawing in drawings)


def test_rejected_and_filtered_inputs_say_why(page):
    for reason, meaning, example in (
        ("not_an_image", REJECTION_REASONS["not_an_image"], "<script>alert(2)<br>"),
        ("unsafe_pickle", REJECTION_REASONS["unsafe_pickle"], "train_set/pickle"),
        ("leak", FILTER_REASONS["leak"], "train_set/leaked"),
        ("no_label", FILTER_REASONS["no_label"], "train_set/nothing"),
    ):
        what, count, examples = page.cells(reason)
        assert meaning in what and count == "1" and example in examples


def test_duplicates_leaks_and_sentinels(page):
    assert "train_set/20 = train_set/copy" in page.text
    assert (
        "train train_set/leaked = test val_set/3" in page.text or "test val_set/3 = train train_set/leaked" in page.text
    )
    assert page.cells("expression:9")[1] == "1"
    assert page.cells("valence_arousal:-2")[1] == "1"


def test_settings_versions_and_how_to_load(rich, page):
    assert page.cells("on_leak") == ["on_leak", "drop"]
    assert page.cells("pyarrow")[1]
    assert f"tfds.builder_from_directory({str(rich)!r})" in page.text


def test_one_split_without_class_or_valence(bare, tmp_path):
    page = report(bare, tmp_path / "report.html")
    assert page.cells("unknown")[1:] == ["5", "100.0 %", "–"]
    assert len(page.images("unknown, ")) == 5
    assert "No input was rejected." in page.text and "No two ids have equal bytes." in page.text
    assert [a for tag, a in page.elements if tag == "img" and a["alt"].startswith("Density of the train faces")]
    assert "By class" not in page.text


def test_no_valence_and_no_arousal(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "labels.csv").write_text("image,expression\n0.jpg,happy\n")
    (tmp_path / "raw" / "0.jpg").write_bytes(face(1, 0))
    dataset = convert(tmp_path / "raw", tmp_path / "data", source="csv", splits="test:1")
    page = report(dataset, tmp_path / "report.html")
    assert "No written face has valence or arousal." in page.text
    assert page.cells("class") == ["class", "test"]


def test_command_gives_the_same_bytes_in_another_process(rich, page, tmp_path):
    command = [sys.executable, "-m", "pipeline.report", f"--dataset_dir={rich}", f"--output={tmp_path / 'report.html'}"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert (tmp_path / "report.html").read_text() == page.source
    assert os.listdir(tmp_path) == ["report.html"]


def edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def _without_sad(statistics: dict) -> None:
    del statistics["splits"]["train"]["classes"]["sad"]


def _without_leaked_id(statistics: dict) -> None:
    del statistics["leaks"]["examples"][0][0]["id"]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("statistics.json", _without_sad, "field splits.train.classes.sad: it is missing"),
        ("statistics.json", _without_leaked_id, "field leaks.examples[0][0].id: it is missing"),
        ("statistics.json", lambda d: d.update(inputs="many"), 'field inputs: "many" where int is due'),
        (
            "statistics.json",
            lambda d: d.update(rejected=3),
            "field inputs: 39 where written + rejected + filtered is 40",
        ),
        (
            "statistics.json",
            lambda d: d["splits"]["test"]["valence"].update(mean=None),
            "splits.test.valence.mean: null",
        ),
        ("statistics.json", lambda d: d["histogram_edges"].pop(), "field histogram_edges: ["),
        ("manifest.json", lambda d: d.update(format=2), "field format: 2 where this program reads 1"),
        ("manifest.json", lambda d: d["shards"].clear(), "field shards: 0 of split"),
    ],
)
def test_damaged_field_is_named(damaged, tmp_path, name, change, message):
    edit(damaged / name, change)
    with pytest.raises(DataError) as error:
        write_report(damaged, tmp_path / "report.html")
    assert name in str(error.value) and message in str(error.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("name", ["manifest.json", "statistics.json", "records.parquet", "rejected.jsonl"])
def test_missing_or_cut_file_is_named(damaged, tmp_path, name):
    (damaged / name).write_bytes((damaged / name).read_bytes()[:-40])
    with pytest.raises(DataError, match=name):
        write_report(damaged, tmp_path / "report.html")
    (damaged / name).unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        write_report(damaged, tmp_path / "report.html")


def test_missing_column_is_named(damaged, tmp_path):
    pq.write_table(pq.read_table(damaged / "records.parquet").drop_columns("offset"), damaged / "records.parquet")
    with pytest.raises(DataError, match=r"records.parquet, field offset: the column is missing"):
        write_report(damaged, tmp_path / "report.html")


def test_damaged_record_is_named(damaged, tmp_path):
    shard = next(damaged.glob("*-test.tfrecord-*"))
    shard.write_bytes(shard.read_bytes().replace(b"valence", b"valencE", 1))
    with pytest.raises(DataError, match=rf"{shard.name}: record 0 at byte 0 .* fails its checksum"):
        write_report(damaged, tmp_path / "report.html")
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard.name} is missing"):
        write_report(damaged, tmp_path / "report.html")


def test_wrong_directory_exits_3(bare, tmp_path):
    command = [
        sys.executable,
        "-m",
        "pipeline.report",
        f"--dataset_dir={bare.parent}",
        f"--output={tmp_path / 'r.html'}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith(f"error: {bare.parent}/manifest.json is missing; ") and "Traceback" not in done.stderr


def test_output_that_cannot_be_written(bare, tmp_path):
    with pytest.raises(EnvironmentFault, match=r"absent/r.html cannot be written: No such file or directory"):
        write_report(bare, tmp_path / "absent" / "r.html")
    with pytest.raises(EnvironmentFault, match=r"cannot be written: Is a directory"):
        write_report(bare, tmp_path)
    assert os.listdir(tmp_path) == []


def test_old_page_stays_when_the_dataset_is_damaged(damaged, tmp_path):
    page = tmp_path / "report.html"
    page.write_text("old")
    (damaged / "rejected.jsonl").write_text("[]\n")
    with pytest.raises(DataError, match=r"rejected.jsonl, line 1: \[\] where an object is due"):
        write_report(damaged, page)
    assert page.read_text() == "old"


def test_output_in_the_dataset_is_refused(rich):
    with pytest.raises(UsageError, match="give another folder"):
        write_report(rich, rich / "report.html")


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_it_without_complaint(rich, tmp_path):
    write_report(rich, tmp_path / "report.html")
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-sync",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, (tmp_path / "report.html").as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr
    assert HOSTILE in Page(done.stdout).text
