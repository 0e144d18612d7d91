"""BMP, in the forms that Pillow reads."""

import io

import numpy as np
from PIL import BmpImagePlugin

from pipeline.images.base import EncodedImage, over_black, third_party_decoder
from pipeline.records import Reject

#: Sizes of the header that follows the 14 bytes of the file header; text that starts with "BM" has others.
_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
_MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "RGBA": "RGBA"}


class BmpImage(EncodedImage):
    """A Windows or OS/2 bitmap."""

    format = "bmp"
    lossless = True

    def __init__(self, data: bytes):
        super().__init__()
        self._data = data
        image = self._open()
        self.width, self.height = image.size
        if self.width < 1 or self.height < 1 or image.mode not in _MODES:
            raise Reject("corrupt", f"BMP: {self.width}×{self.height} pixels of mode {image.mode}")
        if image.mode == "P":
            self.notes.append("palette")
        if image.mode == "RGBA":
            self.notes.append("alpha")

    def _open(self) -> BmpImagePlugin.BmpImageFile:
        with third_party_decoder("BMP"):
            return BmpImagePlugin.BmpImageFile(io.BytesIO(self._data))

    def verify(self) -> None:
        with third_party_decoder("BMP"):
            self._open().load()

    def pixels(self) -> np.ndarray:
        image = self._open()
        with third_party_decoder("BMP"):
            pixels = np.asarray(image.convert(_MODES[image.mode]))
        return over_black(pixels) if image.mode == "RGBA" else pixels


def is_bmp(data: bytes) -> bool:
    """Whether the bytes start like a BMP file."""
    return data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _HEADER_SIZES
