"""Verifies and transcodes one image: what is accepted here decodes everywhere.

`inspect` decides and `store` writes; both take the same decisions from the same bytes. A format is one
module; it reads the structure itself, and leaves only the pixels to a decoder.
"""

import dataclasses
import io
import math
from collections.abc import Sequence

import numpy as np
import simplejpeg
from PIL import Image

from pipeline.errors import UsageError
from pipeline.images import exif, gif, jpeg, png
from pipeline.images.base import EncodedImage
from pipeline.images.bmp import BmpImage, is_bmp
from pipeline.images.gif import GifImage
from pipeline.images.jpeg import JpegImage
from pipeline.images.png import PngImage
from pipeline.images.webp import WebpImage, is_webp
from pipeline.records import LANDMARKS, Reject
from pipeline.sources.base import Box

#: libjpeg's own limit; no format and no decoder is asked for more.
MAX_SIDE = 65_500
JPEG_QUALITY = 95
PNG_LEVEL = 6
#: A landmark may lie outside the image by this fraction of its width or height: a face cut by the edge.
LANDMARK_MARGIN = 0.5

#: Formats that are known, so that the message can name them, and not accepted: (offset, magic, name).
_REFUSED = (
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"JXL \r\n\x87\n", "JPEG XL"),
    (4, b"jP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\0\0\1\0", "ICO"),
)


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """What is accepted and what is stored.

    Attributes:
      min_side: an image (after its crop) with a shorter side, in pixels, is rejected.
      max_pixels: an image with more pixels is rejected before it is decoded.
      image_size: the shorter side, in pixels, that larger images are reduced to; 0 keeps every size.
    """

    min_side: int = 16
    max_pixels: int = 40_000_000
    image_size: int = 0

    def __post_init__(self):
        if self.min_side < 1:
            raise UsageError(f"--min_side={self.min_side} is not accepted; give at least 1")
        if self.max_pixels < 1:
            raise UsageError(f"--max_pixels={self.max_pixels} is not accepted; give at least 1")
        if self.image_size and self.image_size < self.min_side:
            raise UsageError(
                f"--image_size={self.image_size} is not accepted; give 0 or at least --min_side={self.min_side}"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """What is known of an accepted image.

    Attributes:
      format: of the source, by content: "jpeg", "png", "gif", "webp" or "bmp".
      width, height: in pixels as stored: upright, after crop and reduction.
      upright_width, upright_height: in pixels of the source after its EXIF rotation, before the crop.
      left, top: of the crop in the upright source, in pixels.
      scale_x, scale_y: stored pixels per upright source pixel, at most 1.
      verbatim: whether the stored pixels are the source's, bit for bit.
      unchanged: whether the stored bytes are; there is then nothing for `store` to do.
      notes: what was unusual and is counted.
    """

    format: str
    width: int
    height: int
    upright_width: int
    upright_height: int
    left: int = 0
    top: int = 0
    scale_x: float = 1.0
    scale_y: float = 1.0
    verbatim: bool = True
    unchanged: bool = False
    notes: tuple[str, ...] = ()


def inspect(data: bytes, settings: ImageSettings, *, box: Box | None = None) -> Picture:
    """Decodes an image strictly and says what would be stored.

    Args:
      data: the encoded image.
      settings: what is accepted.
      box: crop in pixels of the upright image, clipped to it; None keeps the whole.

    Raises:
      Reject: `empty`, `not_an_image`, `unsupported_format`, `animated`, `truncated`, `corrupt`,
        `too_large` (before anything is decoded), `too_small` or `bad_box`.
    """
    image, picture = _plan(data, settings, box)
    image.verify()
    return picture


def store(data: bytes, settings: ImageSettings, *, box: Box | None = None) -> bytes:
    """The bytes that go into the record: JPEG or PNG, upright, 8-bit grey or RGB, without metadata.

    The same input gives the same bytes. Pixels that need no change are not decoded, so only what `inspect`
    accepted may be stored.

    Raises:
      Reject: as `inspect`.
    """
    image, picture = _plan(data, settings, box)
    if picture.verbatim:
        return image.stripped()
    pixels = exif.upright(image.pixels(), image.orientation)
    left, top, right, bottom = _crop(picture.upright_width, picture.upright_height, box)
    pixels = np.ascontiguousarray(pixels[top:bottom, left:right])
    if pixels.shape[:2] != (picture.height, picture.width):
        reduced = Image.fromarray(pixels).resize((picture.width, picture.height), Image.Resampling.LANCZOS)
        pixels = np.asarray(reduced)
    return _png(pixels) if image.lossless else _jpeg(pixels)


def map_landmarks(points: Sequence[float] | np.ndarray, picture: Picture) -> np.ndarray:
    """Landmarks of the upright source image as landmarks of the stored one.

    Whole numbers are centres of pixels, before and after.

    Args:
      points: 136 numbers x, y, x, y …, in pixels of the upright source; none when absent.
      picture: of the same image.

    Returns:
      float32 (68, 2), x and y in pixels of the stored image; NaN when absent.

    Raises:
      Reject: `bad_landmarks` for another count, or a point that is not finite or lies outside the upright image
        by more than LANDMARK_MARGIN of its width or height.
    """
    points = np.asarray(points, np.float64).reshape(-1)
    if not len(points):
        return np.full((LANDMARKS, 2), np.nan, np.float32)
    if len(points) != 2 * LANDMARKS:
        raise Reject("bad_landmarks", f"{len(points)} numbers where {2 * LANDMARKS} are due")
    points = points.reshape(LANDMARKS, 2)
    size = np.array([picture.upright_width, picture.upright_height])
    inside = (points >= -LANDMARK_MARGIN * size) & (points <= (1 + LANDMARK_MARGIN) * size)
    if not inside.all():
        index = int(np.argmin(inside.all(axis=1)))
        x, y = points[index]
        raise Reject(
            "bad_landmarks", f"point {index} at ({x:g}, {y:g}) is far outside the image of {size[0]}×{size[1]} pixels"
        )
    scale = np.array([picture.scale_x, picture.scale_y])
    return ((points - [picture.left, picture.top] + 0.5) * scale - 0.5).astype(np.float32)


def _plan(data: bytes, settings: ImageSettings, box: Box | None) -> tuple[EncodedImage, Picture]:
    """Everything that is decided from the structure alone."""
    image = _identify(data)
    if image.width * image.height > settings.max_pixels or max(image.width, image.height) > MAX_SIDE:
        raise Reject(
            "too_large",
            f"{image.width}×{image.height} pixels; the limits are {settings.max_pixels} pixels and {MAX_SIDE} a side",
        )
    upright = image.width, image.height
    if exif.swaps_sides(image.orientation):
        upright = image.height, image.width
    left, top, right, bottom = _crop(*upright, box)
    cropped = right - left, bottom - top
    if min(cropped) < settings.min_side:
        raise Reject("too_small", f"{cropped[0]}×{cropped[1]} pixels; a side has at least {settings.min_side}")
    width, height = _reduced(*cropped, settings.image_size)
    verbatim = image.plain and image.orientation == 1 and (width, height) == upright
    notes = image.notes + ([f"exif orientation {image.orientation}"] if image.orientation != 1 else [])
    return image, Picture(
        format=image.format,
        width=width,
        height=height,
        upright_width=upright[0],
        upright_height=upright[1],
        left=left,
        top=top,
        scale_x=width / cropped[0],
        scale_y=height / cropped[1],
        verbatim=verbatim,
        unchanged=verbatim and image.stripped() == data,
        notes=tuple(notes),
    )


def _identify(data: bytes) -> EncodedImage:
    """The image by its first bytes; names are never looked at."""
    if not data:
        raise Reject("empty", "no bytes")
    if data.startswith(jpeg.MAGIC):
        return JpegImage(data)
    if data.startswith(png.MAGIC):
        return PngImage(data)
    if data.startswith(gif.MAGIC):
        return GifImage(data)
    if is_webp(data):
        return WebpImage(data)
    if is_bmp(data):
        return BmpImage(data)
    for offset, magic, name in _REFUSED:
        if data.startswith(magic, offset):
            raise Reject("unsupported_format", f"{name}; accepted are JPEG, PNG, GIF, WebP and BMP")
    raise Reject("not_an_image", f"starts with {data[:16]!r}")


def _crop(width: int, height: int, box: Box | None) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the box in whole pixels, clipped to the image."""
    if box is None:
        return 0, 0, width, height
    edges = (box.left, box.top, box.right, box.bottom)
    if not all(map(math.isfinite, edges)):
        raise Reject("bad_box", f"{edges}")
    left, top, right, bottom = (math.floor(edge + 0.5) for edge in edges)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        raise Reject("bad_box", f"{edges} does not overlap the image of {width}×{height} pixels")
    return left, top, right, bottom


def _reduced(width: int, height: int, image_size: int) -> tuple[int, int]:
    shorter = min(width, height)
    if not image_size or shorter <= image_size:
        return width, height
    return round(width * image_size / shorter), round(height * image_size / shorter)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=PNG_LEVEL)
    return stream.getvalue()


def _jpeg(pixels: np.ndarray) -> bytes:
    if pixels.ndim == 2:
        return simplejpeg.encode_jpeg(pixels[..., None], JPEG_QUALITY, "GRAY", "Gray")
    return simplejpeg.encode_jpeg(pixels, JPEG_QUALITY, "RGB", "444")
