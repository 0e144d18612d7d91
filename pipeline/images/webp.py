"""WebP: chunk walk, one frame, lossy or lossless.

Source: RFC 9649.
"""

import io

import numpy as np
from PIL import WebPImagePlugin

from pipeline.images import exif
from pipeline.images.base import MAX_PARTS, EncodedImage, over_black, third_party_decoder
from pipeline.records import Reject


class WebpImage(EncodedImage):
    """A WebP of one frame."""

    format = "webp"

    def __init__(self, data: bytes):
        super().__init__()
        end = 8 + int.from_bytes(data[4:8], "little")
        if end > len(data):
            raise Reject("truncated", f"WebP: {len(data)} bytes where {end} are due")
        self._data = data[:end]
        chunks = _chunks(self._data)
        for kind in (b"ANIM", b"ANMF"):
            if kind in chunks:
                raise Reject("animated", f"WebP: animation chunk {kind.decode()}")
        self.lossless = b"VP8L" in chunks
        self.width, self.height, alpha = _frame_header(chunks)
        if b"VP8X" in chunks:
            canvas = chunks[b"VP8X"]
            size = tuple(1 + int.from_bytes(canvas[start : start + 3], "little") for start in (4, 7))
            if len(canvas) < 10 or size != (self.width, self.height):
                raise Reject("corrupt", f"WebP: a frame of {self.width}×{self.height} on a canvas of {size}")
        tiff = chunks.get(b"EXIF", b"")
        self.orientation = exif.orientation(tiff.removeprefix(b"Exif\0\0"))
        if alpha:
            self.notes.append("alpha")
        if end < len(data):
            self.notes.append("trailing bytes trimmed")

    def verify(self) -> None:
        self._decode()

    def pixels(self) -> np.ndarray:
        pixels = self._decode()
        return over_black(pixels) if pixels.shape[2] == 4 else pixels

    def _decode(self) -> np.ndarray:
        with third_party_decoder("WebP"):
            pixels = np.asarray(WebPImagePlugin.WebPImageFile(io.BytesIO(self._data)))
        if pixels.shape[:2] != (self.height, self.width):
            raise Reject("corrupt", f"WebP: decodes to {pixels.shape} where {self.width}×{self.height} is declared")
        return pixels


def is_webp(data: bytes) -> bool:
    """Whether the bytes start like a WebP file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The first chunk of each type."""
    chunks: dict[bytes, bytes] = {}
    position = 12
    for _ in range(MAX_PARTS):
        if position >= len(data):
            return chunks
        kind, length = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        start, position = position + 8, position + 8 + length + length % 2
        if start + length > len(data):
            raise Reject("truncated", f"WebP: the data ends within the chunk {kind!r}")
        chunks.setdefault(kind, data[start : start + length])
    raise Reject("corrupt", f"WebP: more than {MAX_PARTS} chunks")


def _frame_header(chunks: dict[bytes, bytes]) -> tuple[int, int, bool]:
    """(width, height, whether there is alpha) of the compressed frame."""
    if b"VP8L" in chunks:
        header = chunks[b"VP8L"][:5]
        bits = int.from_bytes(header[1:], "little")
        if len(header) == 5 and header[0] == 0x2F:
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), bool(bits >> 28 & 1)
    elif b"VP8 " in chunks:
        header = chunks[b"VP8 "][:10]
        width, height = (int.from_bytes(header[start : start + 2], "little") & 0x3FFF for start in (6, 8))
        if len(header) == 10 and header[3:6] == b"\x9d\x01\x2a" and width and height:
            return width, height, b"ALPH" in chunks
    raise Reject("corrupt", "WebP: no frame, or a damaged frame header")
