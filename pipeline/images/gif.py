"""GIF: block walk, one frame, colours from its own palette.

Source: CompuServe GIF89a specification.
"""

import io
import struct

import numpy as np
from PIL import GifImagePlugin

from pipeline.images.base import MAX_PARTS, EncodedImage, over_black, third_party_decoder
from pipeline.records import Reject

MAGIC = (b"GIF87a", b"GIF89a")

_EXTENSION, _IMAGE, _TRAILER = b"!", b",", b";"
_GRAPHIC_CONTROL = 0xF9


class GifImage(EncodedImage):
    """A GIF of one frame."""

    format = "gif"
    lossless = True

    def __init__(self, data: bytes):
        super().__init__()
        self._data = data
        self._transparent = -1
        end = self._walk(_Reader(data))
        left, top, width, height = self._frame
        if not width or not height or left + width > self.width or top + height > self.height:
            raise Reject("corrupt", f"GIF: frame {self._frame} on a screen of {self.width}×{self.height}")
        self.notes.append("palette")
        if self._transparent >= 0 or (width, height) != (self.width, self.height):
            self.notes.append("alpha")
        if end < len(data):
            self.notes.append("trailing bytes trimmed")

    def _walk(self, reader: "_Reader") -> int:
        """Reads every block; returns where the image ends."""
        reader.take(6)
        self.width, self.height, flags, _, _ = struct.unpack("<HHBBB", reader.take(7))
        self._palette = reader.palette(flags)
        frames, transparent = 0, -1
        while (kind := reader.take(1)) != _TRAILER:
            if kind == _EXTENSION:
                label = reader.take(1)[0]
                first = reader.sub_blocks()
                if label == _GRAPHIC_CONTROL and len(first) >= 4:
                    transparent = first[3] if first[0] & 1 else -1
            elif kind == _IMAGE:
                frames += 1
                if frames > 1:
                    raise Reject("animated", "GIF: a second frame")
                *frame, flags = struct.unpack("<HHHHB", reader.take(9))
                self._frame = tuple(frame)
                self._palette = reader.palette(flags) or self._palette
                self._transparent = transparent
                reader.take(1)
                reader.sub_blocks()
            else:
                raise Reject("corrupt", f"GIF: block type {kind.hex()} at byte {reader.position - 1}")
        if not frames or not self._palette:
            raise Reject("corrupt", "GIF: no frame or no palette")
        return reader.position

    def verify(self) -> None:
        self._indices()

    def pixels(self) -> np.ndarray:
        colours = np.frombuffer(self._palette, np.uint8).reshape(-1, 3)
        alpha = np.full((len(colours), 1), 255, np.uint8)
        alpha[self._transparent : self._transparent + 1] = 0
        colours = over_black(np.hstack([colours, alpha])[None])[0]
        left, top, width, height = self._frame
        screen = np.zeros((self.height, self.width, 3), np.uint8)
        screen[top : top + height, left : left + width] = colours[self._indices()]
        return screen

    def _indices(self) -> np.ndarray:
        """The frame's palette indices, (height, width)."""
        with third_party_decoder("GIF"):
            indices = np.asarray(GifImagePlugin.GifImageFile(io.BytesIO(self._data)))
        left, top, width, height = self._frame
        indices = indices[top : top + height, left : left + width]
        if indices.max() >= len(self._palette) // 3:
            raise Reject("corrupt", f"GIF: colour {indices.max()} of a palette of {len(self._palette) // 3}")
        return indices


class _Reader:
    """Takes bytes in order; running out of them is `truncated`."""

    def __init__(self, data: bytes):
        self._data = data
        self.position = self._parts = 0

    def take(self, count: int) -> bytes:
        self._parts += 1
        if self._parts > 2 * MAX_PARTS:  # Each block is two: its length and its bytes.
            raise Reject("corrupt", f"GIF: more than {MAX_PARTS} blocks")
        part = self._data[self.position : self.position + count]
        if len(part) < count:
            raise Reject("truncated", f"GIF: the data ends at byte {len(self._data)}, before the trailer")
        self.position += count
        return part

    def palette(self, flags: int) -> bytes:
        return self.take(3 << (flags & 7) + 1) if flags & 0x80 else b""

    def sub_blocks(self) -> bytes:
        """Skips a chain of blocks and returns the first one."""
        first = b""
        while length := self.take(1)[0]:
            block = self.take(length)
            first = first or block
        return first
