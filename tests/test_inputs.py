"""One run over every kind of bad and odd input: what becomes of each, the exit code, and what is said."""

import json
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from faces import dataset_of, error_of, picture, records_of, rows_of, run, write_face, write_faces
from PIL import Image

SIDE = 48
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def encoded(tmp_path, form, pixels=PIXELS, **options) -> bytes:
    path = tmp_path / f"image.{form.lower()}"
    Image.fromarray(pixels).save(path, form, **options)
    return path.read_bytes()


def animated(tmp_path, form) -> bytes:
    frames = [Image.fromarray(255 - PIXELS)]
    return encoded(tmp_path, form, save_all=True, append_images=frames, duration=100)


def zipped(tmp_path) -> bytes:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "no face")
    return (tmp_path / "a.zip").read_bytes()


def bomb() -> bytes:
    """A PNG of a few bytes whose header says 400 megapixels."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(data)) + k + data + struct.pack(">I", zlib.crc32(k + data)) for k, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write_bad_images(raw, tmp_path) -> dict[str, str]:
    """A face with a good annotation for each bad image; id -> reason."""
    jpeg, png = picture(1000, 224), encoded(tmp_path, "PNG")
    cases = {
        "no_bytes": (b"", "empty"),
        "text": (b"this is no image", "not_an_image"),
        "html": (b"<!DOCTYPE html><title>404</title>", "not_an_image"),
        "zip": (zipped(tmp_path), "not_an_image"),
        "cut_jpeg": (jpeg[:-200], "truncated"),
        "cut_png": (png[:-40], "truncated"),
        "damaged_jpeg": (jpeg[:2000] + bytes(30) + jpeg[2030:], "corrupt"),
        "damaged_png": (png[:100] + b"\0\1\2" + png[103:], "corrupt"),
        "animated_gif": (animated(tmp_path, "GIF"), "animated"),
        "animated_webp": (animated(tmp_path, "WEBP"), "animated"),
        "animated_png": (animated(tmp_path, "PNG"), "animated"),
        "tiff": (encoded(tmp_path, "TIFF"), "unsupported_format"),
        "avif": (b"\0\0\0\x20ftypavif" + bytes(40), "unsupported_format"),
        "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "unsupported_format"),
        "jpeg_xl": (b"\xff\x0a" + bytes(40), "unsupported_format"),
        "bomb": (bomb(), "too_large"),
        "small": (encoded(tmp_path, "PNG", PIXELS[:15]), "too_small"),
    }
    for id, (data, _) in cases.items():
        write_face(raw, id, data, exp=1, val=0.6, aro=0.1)
    return {id: reason for id, (_, reason) in cases.items()}


def write_bad_annotations(raw, tmp_path) -> dict[str, str]:
    """A good image for each bad annotation; id -> reason."""
    good = {"exp": 1, "val": 0.6, "aro": 0.1}
    points = np.linspace(0, SIDE, 136)
    numbers = {
        "fraction": ({"exp": 2.5}, "bad_label"),
        "minus_one": ({"exp": -1}, "bad_label"),
        "eleven": ({"exp": 11}, "bad_label"),
        "name": ({"exp": "happy"}, "bad_dtype"),
        "pair": ({"exp": [1, 1]}, "bad_shape"),
        "nan": ({"val": np.nan}, "non_finite"),
        "infinite": ({"aro": np.inf}, "non_finite"),
        "too_much": ({"val": 1.5}, "out_of_range"),
        "half_unknown": ({"val": -2.0}, "inconsistent_va"),
        "other_half": ({"aro": -2}, "inconsistent_va"),
        "few_points": ({"lnd": points[:134]}, "bad_landmarks"),
        "far_points": ({"lnd": points + 10 * SIDE}, "bad_landmarks"),
    }
    for seed, (id, (changes, _)) in enumerate(numbers.items()):
        write_face(raw, id, picture(2000 + seed), **good | changes)
    whole = (raw / "annotations" / "0_val.npy").read_bytes()
    data = {
        "pickle": (pickle.dumps(Canary(tmp_path / "unpickled")), "unsafe_pickle"),
        "plain_text": (b"0.5", "bad_npy"),
        "no_data": (b"", "bad_npy"),
        "cut": (whole[:-3], "bad_npy"),
        "liar": (whole.replace(b"'shape': (), ", b"'shape': (9,),"), "bad_npy"),
    }
    for seed, (id, (content, _)) in enumerate(data.items()):
        write_face(raw, id, picture(3000 + seed), **good)
        (raw / "annotations" / f"{id}_val.npy").write_bytes(content)
    write_face(raw, "objects", picture(3100), **good)
    np.save(raw / "annotations" / "objects_val.npy", np.array(Canary(tmp_path / "unpickled"), object))
    write_face(raw, "no_image", None, **good)
    (raw / "images" / "no_annotation.jpg").write_bytes(picture(3200))
    (raw / "images" / "notes.txt").write_text("not a face")
    named = {"objects": "unsafe_pickle", "no_image": "missing_image", "no_annotation": "missing_annotation"}
    found = {id: reason for id, (_, reason) in (numbers | data).items()}
    return found | named | {"images/notes.txt": "unknown_file"}


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """(raw, id -> reason of what is bad, folder where a canary would be)."""
    folder = tmp_path_factory.mktemp("inputs")
    raw = write_faces(folder / "raw", 24)
    bad = write_bad_images(raw, folder) | write_bad_annotations(raw, folder)
    write_face(raw, "png_named_jpg", encoded(folder, "PNG"), exp=np.array(2, ">i2"), val=b"-0.5", aro="0.25")
    write_face(raw, "trailing", picture(4000) + b"more bytes", exp=[3.0])
    write_face(raw, "turned", turned(folder), exp=4, lnd=np.tile([30.0, 5.0], 68))
    write_face(raw, "none", picture(4001), exp=8, val=0.5, aro=0.5)
    write_face(raw, "uncertain", picture(4002), exp=9, val=-2, aro=-2)
    write_face(raw, "no_face", picture(4003), exp=10, val=-2, aro="-2.0")
    write_face(raw, "only_expression", picture(4004), exp=5, val=-2.0, aro=-2.0)
    return raw, bad, folder / "unpickled"


def turned(folder) -> bytes:
    """A JPEG of 48 × 32 pixels, white at (30, 5), that is stored lying on its side."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[4:7, 29:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(folder, "JPEG", np.rot90(pixels), exif=exif, quality=95)


def test_too_many_bad_inputs_stop_and_the_commonest_reasons_are_named(everything, tmp_path):
    raw, bad, unpickled = everything
    done = run(raw, tmp_path, max_bad_fraction=0.5)
    assert done.returncode == 3
    total = 24 + len(bad) + 7
    assert error_of(done) == (
        f"{len(bad)} of {total} inputs are rejected, above --max_bad_fraction=0.5; nothing is published. "
        "Mend the input, or raise the flag if this is known"
    )
    assert "  4 × unsupported_format (an image format that is not accepted" in done.stderr
    assert "  3 × bad_label (not an expression code or name of this source), as 'eleven': expression code 11" in (
        done.stderr
    )
    assert not dataset_of(tmp_path).exists() and not unpickled.exists()


def test_every_bad_input_is_rejected_for_its_reason_and_every_odd_one_is_read(everything, tmp_path):
    raw, bad, unpickled = everything
    done = run(raw, tmp_path, max_bad_fraction=0.9, splits="train:1")
    assert done.returncode == 0, done.stderr
    assert not unpickled.exists()
    rows = rows_of(tmp_path)
    assert {id: row["reason"] for id, row in rows.items() if row["status"] == "rejected"} == bad
    assert {id: row["reason"] for id, row in rows.items() if row["status"] == "filtered"} == {
        "uncertain": "no_label", "no_face": "no_label",
    }  # fmt: skip
    with open(dataset_of(tmp_path) / "rejected.jsonl", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [line["id"] for line in lines] == sorted(bad)
    assert all(line["reason"] == bad[line["id"]] and line["detail"] for line in lines)

    records = {record.id: record for record in records_of(tmp_path, "train")}
    assert len(records) == 24 + 5
    census = json.loads((dataset_of(tmp_path) / "statistics.json").read_text())["census"]
    notes = ("png named .jpg", "trailing bytes trimmed", "exif orientation 6", "valence_arousal:-2")
    notes = (*notes, "expression:8 none", "expression:9 uncertain", "expression:10 no_face")
    assert [census[note] for note in notes] == [1, 1, 1, 3, 1, 1, 1]

    odd = records["png_named_jpg"]
    assert (odd.expression, odd.valence, odd.arousal, odd.image[:4]) == (2, -0.5, 0.25, b"\x89PNG")
    assert records["trailing"].expression == 3 and records["trailing"].image.endswith(b"\xff\xd9")
    assert (records["none"].expression, records["none"].valence, records["none"].shares.sum()) == (-1, 0.5, 0)
    assert records["only_expression"].expression == 5 and np.isnan(records["only_expression"].valence)
    upright = records["turned"]
    (tmp_path / "turned.jpg").write_bytes(upright.image)
    with Image.open(tmp_path / "turned.jpg") as image:
        assert (image.size, len(image.getexif())) == ((48, 32), 0)
        bright = np.argwhere(np.asarray(image.convert("L")) > 200).mean(axis=0)
    assert np.abs(bright[::-1] - upright.landmarks[0]).max() < 0.5
