"""Small images of every kind that is accepted, drawn by code: what the tests and the fuzzer start from."""

import io
import struct
import zlib

import numpy as np
import simplejpeg
from PIL import Image

PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
PNG_KINDS = [
    (0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16), (3, 1), (3, 2), (3, 4), (3, 8),
    (4, 8), (4, 16), (6, 8), (6, 16),
]  # fmt: skip
#: Adam7: (first column, first row, column step, row step) of each pass.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def gradient(height: int = 40, width: int = 60, channels: int = 3, top: int = 255) -> np.ndarray:
    """A smooth picture without symmetry, (height, width, channels), 0 to `top`; uint8, above 255 uint16."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [top * (x + (c + 1) * y) / (c + 2) for c in range(channels)]
    return np.stack(planes, -1).round().clip(0, top).astype(np.uint8 if top < 256 else np.uint16)


def encode(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    """An image file as Pillow writes it."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.squeeze(pixels))
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block, without the name that JPEG puts in front."""
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, orientation, 0, 0)


def jpeg_with(data: bytes, marker: int, payload: bytes) -> bytes:
    """A JPEG with one more segment right after its beginning."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + data[2:]


def jpeg_without_adobe(data: bytes) -> bytes:
    """A JPEG without the segment that names its colour space."""
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    return data[:start] + data[start + 16 :]


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    samples: np.ndarray, colour: int = 2, depth: int = 8, *, interlace=False, level=6, before=b"", after=b""
) -> bytes:
    """A PNG of any kind of pixels, with all five row filters in turn.

    Args:
      samples: (height, width, channels of the colour type), as they are in the file.
      colour, depth: of the header.
      interlace: whether in the seven passes of Adam7.
      level: of compression.
      before, after: chunks before and after the pixel data.
    """
    height, width = samples.shape[:2]
    parts = [samples[row::down, column::across] for column, row, across, down in _PASSES] if interlace else [samples]
    raw = b"".join(_filtered(part, depth) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            before,
            chunk(b"IDAT", zlib.compress(raw, level)),
            after,
            chunk(b"IEND", b""),
        ]
    )


def _filtered(samples: np.ndarray, depth: int) -> bytes:
    height, channels = len(samples), samples.shape[2]
    if depth == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    elif depth == 8:
        rows = samples.astype(np.uint8).reshape(height, -1)
    else:
        bits = np.unpackbits(samples.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    step = max(1, channels * depth // 8)
    above, out = np.zeros(rows.shape[1], int), []
    for index, row in enumerate(rows.astype(int)):
        left, corner = (np.concatenate([np.zeros(step, int), line])[: len(row)] for line in (row, above))
        estimate = left + above - corner
        distances = np.abs(np.stack([left, above, corner]) - estimate)
        paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
        predicted = (0, left, above, (left + above) // 2, paeth)[index % 5]
        out.append(bytes([index % 5]) + ((row - predicted) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(out)


def png_of_kind(colour: int, depth: int, **options) -> bytes:
    """A PNG of one of PNG_KINDS; palettes are random but fixed."""
    samples = gradient(channels=PNG_CHANNELS[colour], top=2**depth - 1)
    if colour == 3:
        palette = np.random.default_rng(depth).integers(0, 256, (2**depth, 3), np.uint8)
        options["before"] = chunk(b"PLTE", palette.tobytes()) + options.get("before", b"")
    return png(samples, colour, depth, **options)


def all_kinds() -> dict[str, bytes]:
    """One accepted image of every kind, by name."""
    rgb, grey = gradient(), gradient(channels=1)
    ink = Image.fromarray(rgb).convert("CMYK")
    kinds = {
        "jpeg 4:4:4": encode(rgb, "JPEG", subsampling=0),
        "jpeg 4:2:2": encode(rgb, "JPEG", subsampling=1),
        "jpeg 4:2:0": encode(rgb, "JPEG", subsampling=2),
        "jpeg grey": encode(grey, "JPEG"),
        "jpeg rgb": encode(rgb, "JPEG", keep_rgb=True),
        "jpeg progressive": encode(rgb, "JPEG", progressive=True),
        "jpeg progressive grey": encode(grey, "JPEG", progressive=True),
        "jpeg restart": encode(rgb, "JPEG", restart_marker_blocks=3),
        "jpeg optimized": encode(rgb, "JPEG", optimize=True, quality=40),
        "jpeg cmyk": jpeg_without_adobe(encode(ink, "JPEG")),
        "jpeg cmyk adobe": encode(ink, "JPEG"),
        "jpeg ycck": simplejpeg.encode_jpeg(np.ascontiguousarray(255 - np.asarray(ink)), colorspace="CMYK"),
        "jpeg exif": encode(rgb, "JPEG", exif=b"Exif\0\0" + exif(6), comment=b"a comment"),
        "jpeg trailing": encode(rgb, "JPEG") + b"more bytes",
        "gif": encode(rgb, "GIF"),
        "gif interlaced": encode(rgb, "GIF", interlace=1),
        "gif transparent": encode(Image.fromarray(rgb).quantize(16), "GIF", transparency=3),
        "webp": encode(rgb, "WEBP"),
        "webp lossless": encode(rgb, "WEBP", lossless=True),
        "webp alpha": encode(gradient(channels=4), "WEBP"),
        "webp exif": encode(rgb, "WEBP", exif=exif(8)),
        "bmp": encode(rgb, "BMP"),
        "bmp grey": encode(grey, "BMP"),
        "bmp palette": encode(Image.fromarray(rgb).convert("P"), "BMP"),
        "bmp 1-bit": encode(Image.fromarray(rgb).convert("1"), "BMP"),
        "bmp alpha": encode(gradient(channels=4), "BMP"),
        "png exif": png(rgb, before=chunk(b"tEXt", b"a\0b") + chunk(b"eXIf", exif(3))),
        "png key": png(rgb, before=chunk(b"tRNS", struct.pack(">3H", *map(int, rgb[5, 5])))),
    }
    for colour, depth in PNG_KINDS:
        for interlace in (False, True):
            name = f"png colour {colour} depth {depth}" + " interlaced" * interlace
            kinds[name] = png_of_kind(colour, depth, interlace=interlace)
    return kinds
