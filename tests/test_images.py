"""One image: what is accepted, what it becomes, and why others are rejected."""

import contextlib
import io
import struct
import subprocess
import sys
import tracemalloc
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from pipeline import images
from pipeline.errors import UsageError
from pipeline.records import Reject
from pipeline.sources.base import Box
from scripts import fuzz_images
from scripts.sample_images import (
    PNG_CHANNELS,
    PNG_KINDS,
    all_kinds,
    chunk,
    encode,
    exif,
    gradient,
    jpeg_with,
    jpeg_without_adobe,
    png,
    png_of_kind,
)

SETTINGS = images.ImageSettings()
KINDS = all_kinds()


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def stored_pixels(data, settings=SETTINGS, **options):
    return decoded(images.store(data, settings, **options))


def rejection(data, settings=SETTINGS, **options):
    """Why an image is rejected."""
    with pytest.raises(Reject) as rejected:
        images.inspect(data, settings, **options)
    return rejected.value.reason


def over_black(colour, alpha, top):
    """The definition, in floating point."""
    return np.round(255 * (colour / top) * (alpha / top)).astype(int)


# What is kept


@pytest.mark.parametrize("kind", [name for name in KINDS if images.inspect(KINDS[name], SETTINGS).verbatim])
def test_upright_8_bit_pixels_are_kept_bit_for_bit(kind):
    data = KINDS[kind]
    stored = images.store(data, SETTINGS)
    picture = images.inspect(data, SETTINGS)
    assert (picture.width, picture.height, picture.scale_x, picture.scale_y) == (60, 40, 1.0, 1.0)
    np.testing.assert_array_equal(decoded(stored), decoded(data))
    assert images.store(stored, SETTINGS) == stored


def test_which_kinds_are_kept():
    kept = {name for name, data in KINDS.items() if images.inspect(data, SETTINGS).verbatim}
    inks = {"jpeg cmyk", "jpeg cmyk adobe", "jpeg ycck", "jpeg exif"}
    assert kept == {name for name in KINDS if name.startswith("jpeg")} - inks | {
        f"png colour {colour} depth 8{interlaced}" for colour in (0, 2) for interlaced in ("", " interlaced")
    }


@pytest.mark.parametrize("settings", [SETTINGS, images.ImageSettings(image_size=20)], ids=["whole", "reduced"])
def test_unchanged_says_that_the_image_is_stored_as_it_is(settings):
    unchanged = {name: images.inspect(data, settings).unchanged for name, data in KINDS.items()}
    assert unchanged == {name: images.store(data, settings) == data for name, data in KINDS.items()}
    assert any(unchanged.values()) == (settings is SETTINGS)
    assert not all(unchanged.values())


def test_jpeg_metadata_is_cut():
    secret = b"where and when"
    data = encode(gradient(), "JPEG", comment=secret, icc_profile=secret)
    data = jpeg_with(data, 0xE1, b"Exif\0\0" + exif(1) + secret)
    data = jpeg_with(data, 0xE0, b"JFIF\0\1\1\0\0\1\0\1\x05\1" + secret + b"!")  # A thumbnail of 5×1 pixels.
    data = jpeg_with(data, 0xE0, b"JFXX\0\x10" + secret)
    stored = images.store(data + secret, SETTINGS)
    assert secret not in stored
    np.testing.assert_array_equal(decoded(stored), decoded(data))
    assert images.inspect(data + secret, SETTINGS).notes == ("trailing bytes trimmed",)


def test_metadata_between_the_scans_of_a_jpeg_is_cut():
    data = KINDS["jpeg progressive"]
    last = data.rindex(b"\xff\xda")
    stored = images.store(data[:last] + b"\xff\xfe\x00\x08secret" + data[last:], SETTINGS)
    assert stored == images.store(data, SETTINGS)


def test_png_metadata_is_cut():
    text, pixels = chunk(b"tEXt", b"Comment\0secret"), gradient()
    data = png(pixels, before=text + chunk(b"eXIf", exif(1) + b"secret"), after=text + chunk(b"prVt", b"secret"))
    stored = images.store(data + b"secret", SETTINGS)
    assert stored == images.store(png(pixels), SETTINGS)
    np.testing.assert_array_equal(decoded(stored), pixels)


def test_store_does_not_decode_what_it_keeps():
    data = bytearray(KINDS["jpeg 4:4:4"])
    data[-40:-10] = bytes(30)
    assert rejection(bytes(data)) == "corrupt"
    assert images.store(bytes(data), SETTINGS) == bytes(data)


def test_lossy_sources_become_jpeg_and_lossless_ones_png():
    for kind, data in KINDS.items():
        lossy = kind.startswith(("jpeg", "webp")) and "lossless" not in kind
        assert images.store(data, SETTINGS).startswith(b"\xff\xd8\xff" if lossy else b"\x89PNG"), kind


def test_written_jpegs_have_quality_95_and_full_colour_resolution():
    stored = images.store(KINDS["webp"], SETTINGS)
    pixels = decoded(KINDS["webp"])
    assert stored == simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=95, colorsubsampling="444")


# Colours


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize(("colour", "depth"), PNG_KINDS)
def test_png_samples_are_scaled_and_never_clipped(colour, depth, interlace):
    data = png_of_kind(colour, depth, interlace=interlace)
    top = 2**depth - 1
    samples = gradient(channels=PNG_CHANNELS[colour], top=top).astype(float)
    if colour == 3:
        palette = np.random.default_rng(depth).integers(0, 256, (2**depth, 3), np.uint8)
        expected = palette[samples[..., 0].astype(int)]
    elif colour in (4, 6):
        expected = over_black(samples[..., :-1], samples[..., -1:], top)
    else:
        expected = np.round(samples * 255 / top)
    # Alpha of 16 bits is rounded before and after the product.
    tolerance = 1 if depth == 16 and colour in (4, 6) else 0
    pixels = stored_pixels(data).astype(int)
    np.testing.assert_allclose(pixels, np.squeeze(expected), atol=tolerance)
    assert pixels.ndim == (2 if colour in (0, 4) else 3)


def test_every_16_bit_value_becomes_the_nearest_8_bit_value():
    samples = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    np.testing.assert_array_equal(stored_pixels(png(samples, 0, 16)), np.round(samples[..., 0] / 257))


@pytest.mark.parametrize(("colour", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_the_transparent_colour_of_a_png_is_black(colour, depth):
    samples = gradient(channels=PNG_CHANNELS[colour], top=2**depth - 1).astype(int)
    samples[0, 0] = samples[5, 7] = 2**depth - 1
    samples[0, 1] = samples[0, 0] - ([1] if colour == 0 else [1, 0, 0])  # One step away is another colour.
    key = struct.pack(f">{samples.shape[2]}H", *samples[5, 7])
    pixels = stored_pixels(png(samples, colour, depth, before=chunk(b"tRNS", key)))
    assert not pixels[0, 0].any() and not pixels[5, 7].any()
    assert pixels[0, 1].any() or depth == 1
    opaque = (samples != samples[5, 7]).any(axis=2)
    np.testing.assert_array_equal(pixels[opaque], stored_pixels(png(samples, colour, depth))[opaque])


def test_palette_entries_with_alpha_are_over_black():
    indices = np.arange(1024).reshape(32, 32, 1) % 3
    palette = bytes([200, 100, 50, 10, 20, 30, 255, 255, 255])
    data = png(indices, 3, 8, before=chunk(b"PLTE", palette) + chunk(b"tRNS", bytes([128, 0])))
    colours = np.array([[100, 50, 25], [0, 0, 0], [255, 255, 255]])
    np.testing.assert_array_equal(stored_pixels(data), colours[indices[..., 0]])
    assert images.inspect(data, SETTINGS).notes == ("palette", "alpha")


@pytest.mark.parametrize("kind", ["adobe", "plain", "ycck"])
def test_cmyk_has_the_colours_of_its_inks(kind):
    inks = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 255, 0, 0): (255, 0, 255),
            (0, 0, 255, 0): (255, 255, 0), (0, 0, 0, 255): (0, 0, 0), (0, 0, 0, 100): (155, 155, 155),
            (100, 0, 0, 100): (94, 155, 155)}  # fmt: skip
    for ink, rgb in inks.items():
        cmyk = np.full((32, 32, 4), ink, np.uint8)
        if kind == "adobe":
            data = encode(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100)
        elif kind == "plain":  # Pillow writes inverted ink and says so; here nothing says so.
            data = jpeg_without_adobe(encode(Image.fromarray(255 - cmyk, "CMYK"), "JPEG", quality=100))
        else:
            data = simplejpeg.encode_jpeg(255 - cmyk, quality=100, colorspace="CMYK", colorsubsampling="444")
        assert images.inspect(data, SETTINGS).notes == ("cmyk",)
        np.testing.assert_allclose(stored_pixels(data).astype(int), np.broadcast_to(rgb, (32, 32, 3)), atol=3)


def test_gif_colours_transparency_and_a_frame_smaller_than_the_screen():
    pixels = gradient()
    quantized = Image.fromarray(pixels).quantize(64)
    np.testing.assert_array_equal(stored_pixels(encode(quantized, "GIF")), np.asarray(quantized.convert("RGB")))
    data = encode(quantized, "GIF", transparency=int(np.asarray(quantized)[20, 20]))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    assert (expected[..., 3] == 0).any()
    np.testing.assert_array_equal(stored_pixels(data), expected[..., :3] * (expected[..., 3:] // 255))
    data = encode(quantized, "GIF")
    wider = data[:6] + struct.pack("<HH", 70, 50) + data[10:]
    np.testing.assert_array_equal(stored_pixels(wider)[:40, :60], np.asarray(quantized.convert("RGB")))
    assert not stored_pixels(wider)[40:].any() and not stored_pixels(wider)[:, 60:].any()
    assert images.inspect(wider, SETTINGS).notes == ("palette", "alpha")


def test_webp_alpha_is_over_black():
    samples = gradient(channels=4)
    expected = over_black(samples[..., :3].astype(float), samples[..., 3:], 255)
    np.testing.assert_array_equal(stored_pixels(encode(samples, "WEBP", lossless=True, exact=True)), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_bmp_colours(mode):
    image = Image.fromarray(gradient()).convert(mode)
    expected = np.asarray(image.convert("RGB" if mode == "P" else "L" if mode == "1" else mode))
    np.testing.assert_array_equal(stored_pixels(encode(image, "BMP")), expected)


# Geometry


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_removed(orientation):
    pixels, tiff = gradient(), exif(orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(png(pixels, before=chunk(b"eXIf", tiff))))))
    for data, tolerance in [
        (png(pixels, before=chunk(b"eXIf", tiff)), 0),
        (png(pixels, after=chunk(b"eXIf", b"II*\0" + struct.pack("<IHHHIHH", 8, 1, 0x0112, 3, 1, orientation, 0))), 0),
        (encode(pixels, "WEBP", lossless=True, exif=b"Exif\0\0" + tiff), 0),
        (encode(pixels, "JPEG", quality=98, subsampling=0, exif=b"Exif\0\0" + tiff), 6),
    ]:
        picture = images.inspect(data, SETTINGS)
        stored = stored_pixels(data)
        assert stored.shape[:2] == (picture.height, picture.width) == (picture.upright_height, picture.upright_width)
        np.testing.assert_allclose(stored.astype(int), expected.astype(int), atol=tolerance)
        assert picture.notes == ((f"exif orientation {orientation}",) if orientation > 1 else ())
        assert not Image.open(io.BytesIO(images.store(data, SETTINGS))).getexif()


def test_webp_exif_may_be_named_like_that_of_jpeg():
    tiff = exif(6)
    data = encode(gradient(), "WEBP", exif=tiff)
    named = b"Exif\0\0" + tiff
    data = data.replace(b"EXIF" + struct.pack("<I", len(tiff)) + tiff, b"EXIF" + struct.pack("<I", len(named)) + named)
    data = data[:4] + struct.pack("<I", len(data) - 8) + data[8:]
    assert images.inspect(data, SETTINGS).notes == ("exif orientation 6",)


def test_the_first_of_two_exif_blocks_counts():
    data = KINDS["jpeg grey"]
    for orientation in (3, 6):
        data = jpeg_with(data, 0xE1, b"Exif\0\0" + exif(orientation))
    assert images.inspect(data, SETTINGS).notes == ("exif orientation 6",)


@pytest.mark.parametrize("tiff", [b"", b"MM\0*", b"II*\0\xff\xff\xff\xff", exif(0), exif(9), exif(6)[:-8], b"text" * 9])
def test_damaged_exif_turns_nothing(tiff):
    assert images.inspect(jpeg_with(KINDS["jpeg grey"], 0xE1, b"Exif\0\0" + tiff), SETTINGS).verbatim


def test_a_crop_is_clipped_to_the_upright_image():
    pixels = gradient()
    data = png(pixels, before=chunk(b"eXIf", exif(6)))
    upright = np.rot90(pixels, -1)
    picture = images.inspect(data, SETTINGS, box=Box(-3.0, 9.6, 30.4, 99.0))
    assert (picture.left, picture.top, picture.width, picture.height) == (0, 10, 30, 50)
    assert (picture.upright_width, picture.upright_height) == (40, 60)
    np.testing.assert_array_equal(stored_pixels(data, box=Box(-3.0, 9.6, 30.4, 99.0)), upright[10:, :30])


def test_a_crop_that_holds_the_whole_image_keeps_its_bytes():
    data = KINDS["jpeg 4:4:4"]
    assert images.store(data, SETTINGS, box=Box(-5, -5, 65, 45)) == images.store(data, SETTINGS)


@pytest.mark.parametrize(
    "box",
    [Box(60, 0, 90, 40), Box(30, 30, 10, 35), Box(-9, -9, -1, -1), Box(float("nan"), 0, 9, 9), Box(0, 0, 1e400, 9)],
)
def test_a_crop_beside_the_image_is_rejected(box):
    assert rejection(KINDS["jpeg 4:4:4"], box=box) == "bad_box"


def test_larger_images_are_reduced_and_smaller_ones_kept():
    settings = images.ImageSettings(image_size=20)
    wide, small = encode(gradient(40, 60), "JPEG"), encode(gradient(18, 60), "JPEG")
    picture = images.inspect(wide, settings)
    assert (picture.width, picture.height, picture.scale_x, picture.scale_y) == (30, 20, 0.5, 0.5)
    assert (picture.upright_width, picture.upright_height, picture.verbatim) == (60, 40, False)
    assert stored_pixels(wide, settings).shape == (20, 30, 3)
    assert images.store(small, settings) == images.store(small, SETTINGS)


def test_reduction_is_antialiased():
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    np.testing.assert_allclose(stored_pixels(png(stripes, 0), images.ImageSettings(image_size=16)), 127, atol=12)


def test_landmarks_follow_a_point_through_rotation_crop_and_reduction():
    upright = np.zeros((120, 90, 1), np.uint8)
    upright[70:73, 40:43] = 255  # Its centre is at x 41, y 71.
    data = png(np.rot90(upright), 0, before=chunk(b"eXIf", exif(6)))
    settings, box = images.ImageSettings(image_size=27), Box(9, 11, 90, 120)
    picture = images.inspect(data, settings, box=box)
    mapped = images.map_landmarks([41.0, 71.0] * 68, picture)
    assert mapped.shape == (68, 2) and mapped.dtype == np.float32
    weights = stored_pixels(data, settings, box=box).astype(float)
    y, x = np.mgrid[: picture.height, : picture.width]
    centre = (x * weights).sum() / weights.sum(), (y * weights).sum() / weights.sum()
    np.testing.assert_allclose(mapped[0], centre, atol=0.1)


def test_landmarks_are_judged_by_the_upright_source():
    picture = images.Picture("png", 10, 20, 100, 200, left=50, scale_x=0.2, scale_y=0.2, verbatim=False)
    images.map_landmarks([-49.0, 299.0] * 68, picture)
    for points in ([-51.0, 10.0], [10.0, 301.0], [float("nan"), 0.0], [float("inf"), 0.0]):
        with pytest.raises(Reject, match="point 67") as rejected:
            images.map_landmarks([1.0, 2.0] * 67 + points, picture)
        assert rejected.value.reason == "bad_landmarks"
    with pytest.raises(Reject, match="134 numbers where 136 are due"):
        images.map_landmarks([1.0, 2.0] * 67, picture)


def test_absent_landmarks_are_nan_and_those_of_a_kept_image_do_not_move():
    picture = images.Picture("jpeg", 60, 40, 60, 40)
    assert np.isnan(images.map_landmarks((), picture)).all()
    points = np.random.default_rng(0).uniform(0, 40, 136).astype(np.float32)
    np.testing.assert_array_equal(images.map_landmarks(points, picture), points.reshape(68, 2))


# What is rejected


def animation(kind):
    frames = [Image.fromarray(gradient()), Image.fromarray(255 - gradient())]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def jpeg_edit(offset, value):
    """A JPEG with a byte of its frame header changed; 0 is the marker's first byte."""
    data = bytearray(KINDS["jpeg 4:4:4"])
    data[data.index(b"\xff\xc0") + offset] = value
    return bytes(data)


def png_edit(raw, height=40, width=60, compress=zlib.compress, after=b""):
    """A grey PNG of given inflated bytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", compress(raw)), after, chunk(b"IEND", b"")]
    )


JPEG, PNG, GREY = KINDS["jpeg 4:4:4"], KINDS["png colour 2 depth 8"], bytes(40 * 61)
FRAME = JPEG[JPEG.index(b"\xff\xc0") :][:19]
REJECTED = {
    "zero bytes": (b"", "empty"),
    "text": (b"BM is how this text begins, and it goes on for a while", "not_an_image"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image"),
    "zip": (b"PK\3\4" + bytes(60), "not_an_image"),
    "two bytes of a jpeg": (JPEG[:2], "not_an_image"),
    "jpeg without its end": (JPEG[:-2], "truncated"),
    "jpeg cut in its pixels": (JPEG[:700], "truncated"),
    "jpeg cut in its header": (JPEG[:100], "truncated"),
    "jpeg cut and padded": (JPEG[:700] + bytes(300), "truncated"),
    "jpeg cut and ended": (JPEG[:700] + b"\xff\xd9", "corrupt"),
    "jpeg damaged in the middle": (JPEG[:700] + bytes(20) + JPEG[720:], "corrupt"),
    "jpeg without pixels": (JPEG[: JPEG.index(b"\xff\xda")] + b"\xff\xd9", "corrupt"),
    "jpeg of no height": (jpeg_edit(6, 0), "corrupt"),
    "jpeg of 12 bits": (jpeg_edit(4, 12), "unsupported_format"),
    "jpeg of two components": (
        JPEG.replace(FRAME, b"\xff\xc0\x00\x0e" + FRAME[4:9] + b"\2" + FRAME[10:16]),
        "unsupported_format",
    ),
    "jpeg of another count of components": (jpeg_edit(9, 2), "corrupt"),
    "jpeg of three-to-one subsampling": (jpeg_edit(11, 0x31), "unsupported_format"),
    "lossless jpeg": (jpeg_edit(1, 0xC3), "unsupported_format"),
    "arithmetic jpeg": (jpeg_edit(1, 0xC9), "unsupported_format"),
    "png without its end": (PNG[:-12], "truncated"),
    "png cut in its pixels": (PNG[:700], "truncated"),
    "png of a wrong checksum": (PNG[:700] + b"\0\1" + PNG[702:], "corrupt"),
    "png of a wrong checksum in a comment": (
        PNG[:33] + chunk(b"tEXt", b"Comment\0abc").replace(b"abc", b"abd") + PNG[33:],
        "corrupt",
    ),
    "png of pixels in two places": (png_edit(GREY, after=chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"")), "corrupt"),
    "png of too few pixels": (png_edit(GREY[:-1]), "truncated"),
    "png of too many pixels": (png_edit(GREY + b"\0"), "corrupt"),
    "png of a wrong row filter": (png_edit(GREY[:-61] + b"\5" + GREY[-60:]), "corrupt"),
    "png with more than its pixels": (png_edit(GREY, compress=lambda raw: zlib.compress(raw) + b"more"), "corrupt"),
    "png of a wrong adler checksum": (png_edit(GREY, compress=lambda raw: zlib.compress(raw)[:-1] + b"?"), "corrupt"),
    "png with an unknown critical chunk": (png_edit(GREY, after=chunk(b"ABCD", b"")), "corrupt"),
    "png with a colour beyond its palette": (
        png(np.full((20, 20, 1), 2), 3, 8, before=chunk(b"PLTE", bytes(6))),
        "corrupt",
    ),
    "animated gif": (animation("GIF"), "animated"),
    "animated webp": (animation("WEBP"), "animated"),
    "animated png": (animation("PNG"), "animated"),
    "gif without its end": (KINDS["gif"][:-1], "truncated"),
    "webp cut": (KINDS["webp"][:-9], "truncated"),
    "webp of a wrong size": (KINDS["webp"][:4] + b"\xff" + KINDS["webp"][5:], "truncated"),
    "webp damaged": (KINDS["webp lossless"][:40] + bytes(200) + KINDS["webp lossless"][240:], "corrupt"),
    "bmp cut": (KINDS["bmp"][:-9], "truncated"),
    "tiff": (encode(gradient(), "TIFF"), "unsupported_format"),
    "avif": (b"\0\0\0\x20ftypavif" + bytes(40), "unsupported_format"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(40), "unsupported_format"),
    "jpeg xl": (b"\xff\x0a" + bytes(40), "unsupported_format"),
    "jpeg xl in a container": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40), "unsupported_format"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40), "unsupported_format"),
    "15 pixels high": (encode(gradient(15, 60), "PNG"), "too_small"),
    "15 pixels wide": (encode(gradient(60, 15), "JPEG"), "too_small"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_rejected(case):
    data, reason = REJECTED[case]
    assert rejection(data) == reason


def test_the_number_of_scans_is_limited():
    data = JPEG[:-2] + JPEG[JPEG.index(b"\xff\xda") : -2] * 100 + b"\xff\xd9"
    with pytest.raises(Reject, match="101 scans, above the limit of 100"):
        images.inspect(data, SETTINGS)


def test_a_crop_may_be_too_small():
    assert rejection(KINDS["gif"], box=Box(0, 0, 60, 15)) == "too_small"
    assert images.inspect(KINDS["gif"], images.ImageSettings(min_side=15), box=Box(0, 0, 60, 15)).height == 15


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_rejected(kind):
    data = KINDS[kind].removesuffix(b"more bytes")
    for size in {*range(0, len(data), 1 + len(data) // 50), len(data) - 1}:
        assert rejection(data[:size]) in ("truncated", "not_an_image", "empty", "corrupt")


@pytest.mark.parametrize("kind", ["bmp", "gif", "png colour 2 depth 8", "webp"])
def test_no_cut_is_accepted_because_another_library_allows_it(kind, monkeypatch):
    """TFDS sets Pillow's switch for the whole process when it shows a picture."""
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    assert rejection(KINDS[kind][: len(KINDS[kind]) * 2 // 3]) in ("truncated", "corrupt")


@contextlib.contextmanager
def memory_below(mebibytes):
    """What Python and NumPy allocate inside stays below a limit."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * 2**20
    finally:
        tracemalloc.stop()


def flat_png(height, width, *, pretended=None):
    """A PNG of zeros, compressed about a thousand times, whose header may pretend another (height, width)."""
    compressor = zlib.compressobj(9)
    rows = b"".join(compressor.compress(bytes(1 + 3 * width)) for _ in range(height)) + compressor.flush()
    height, width = pretended or (height, width)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def large_headers():
    """Small files of the five formats whose headers declare 40,006,400 pixels."""
    jpeg, gif, bmp = (bytearray(KINDS[kind]) for kind in ("jpeg 4:4:4", "gif", "bmp"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 6251, 6400)
    gif[6:10] = struct.pack("<HH", 6400, 6251)
    bmp[18:26] = struct.pack("<II", 6400, 6251)
    webp = bytearray(KINDS["webp lossless"])
    webp[21:25] = struct.pack("<I", 6399 | 6250 << 14)
    return {"jpeg": jpeg, "gif": gif, "bmp": bmp, "webp": webp, "png": png_edit(GREY, 6251, 6400)}


@pytest.mark.parametrize("kind", ["jpeg", "gif", "bmp", "webp", "png"])
def test_a_large_header_is_rejected_before_decoding(kind):
    with memory_below(1):
        assert rejection(bytes(large_headers()[kind])) == "too_large"


def test_a_side_beyond_the_limit_of_jpeg_is_rejected():
    assert rejection(png(np.zeros((16, 65_501, 1), np.uint8), 0)) == "too_large"


def test_a_bomb_is_inflated_no_further_than_its_header_says():
    data = flat_png(6000, 8000, pretended=(32, 32))
    assert len(data) < 200_000
    with memory_below(20):
        assert rejection(data) == "corrupt"


def test_a_large_png_is_verified_in_pieces():
    data = flat_png(3000, 4000)
    with memory_below(20):
        assert images.inspect(data, SETTINGS).verbatim


def test_settings_say_what_is_accepted():
    with pytest.raises(UsageError, match="--image_size=8 is not accepted; give 0 or at least --min_side=16"):
        images.ImageSettings(image_size=8)
    with pytest.raises(UsageError, match="--min_side=0 is not accepted; give at least 1"):
        images.ImageSettings(min_side=0)


# All of it


def test_the_same_bytes_in_another_process():
    code = (
        "import hashlib, sys; from pipeline import images; from scripts.sample_images import all_kinds\n"
        "for settings in (images.ImageSettings(), images.ImageSettings(image_size=20)):\n"
        "    for data in all_kinds().values(): print(hashlib.sha256(images.store(data, settings)).hexdigest())\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1] and len(set(runs[0].split())) > len(KINDS)


def test_a_thousand_mutants_are_accepted_or_rejected():
    findings = fuzz_images.run(1000, seed=0)
    assert not findings.problems
    assert sum(findings.outcomes.values()) == 1000
    assert sum(count for outcome, count in findings.outcomes.items() if "accepted" in outcome) > 100


def test_tensorflow_decodes_what_is_accepted():
    import tensorflow

    # Repeats at a distance that the declared window of 256 bytes does not reach: libpng refuses, zlib does not.
    row = b"\0" + np.random.default_rng(0).bytes(300)
    narrow = png_edit(row * 40, width=300, compress=lambda raw: b"\x08\x1d" + zlib.compress(raw)[2:])
    with pytest.raises(tensorflow.errors.InvalidArgumentError):
        tensorflow.io.decode_image(narrow)
    assert fuzz_images.judge_image(narrow, tensorflow) == "accepted"
    for kind, data in KINDS.items():
        assert fuzz_images.judge_image(data, tensorflow).startswith("accepted"), kind
    assert not fuzz_images.run(1000, seed=1, tensorflow=tensorflow).problems
