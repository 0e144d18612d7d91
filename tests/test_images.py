"""One image: what is accepted, what it becomes, and why others are rejected."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline import images
from pipeline.errors import UsageError
from pipeline.records import Reject

SETTINGS = images.ImageSettings()


def face(height=40, width=60, channels=3):
    """A smooth picture with no symmetry."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [255 * (x + (c + 1) * y) / (c + 2) for c in range(channels)]
    return np.stack(planes, -1).round().clip(0, 255).astype(np.uint8)


def encode(pixels, kind, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.squeeze(pixels))
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def reason(data, settings=SETTINGS, **options):
    with pytest.raises(Reject) as rejected:
        images.inspect(data, settings, **options)
    return rejected.value.reason


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_upright_8_bit_pixels_are_kept_bit_for_bit(kind, channels):
    data = encode(face(channels=channels), kind)
    picture = images.inspect(data, SETTINGS)
    stored = images.store(data, SETTINGS)
    assert picture == images.Picture(kind.lower(), 60, 40, 60, 40)
    np.testing.assert_array_equal(decode(stored), decode(data))
    assert images.store(stored, SETTINGS) == stored


def test_lossy_sources_become_jpeg_and_lossless_ones_png():
    for kind, options, magic in [
        ("GIF", {}, b"\x89PNG"),
        ("BMP", {}, b"\x89PNG"),
        ("WEBP", {"lossless": True}, b"\x89PNG"),
        ("WEBP", {"quality": 95}, b"\xff\xd8\xff"),
    ]:
        data = encode(face(), kind, **options)
        assert not images.inspect(data, SETTINGS).verbatim
        assert images.store(data, SETTINGS).startswith(magic)


def test_settings_say_what_is_accepted():
    with pytest.raises(UsageError, match="--image_size=8 is not accepted; give 0 or at least --min_side=16"):
        images.ImageSettings(image_size=8)
