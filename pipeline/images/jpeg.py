"""JPEG: segment walk, strict decode, lossless removal of metadata.

Source: ITU-T T.81 annex B (markers), ITU-T T.871 (JFIF), Adobe technical note 5116 (APP14).
"""

import re
import struct

import numpy as np
import simplejpeg

from pipeline.images import exif
from pipeline.images.base import MAX_PARTS, EncodedImage, multiplied, third_party_decoder
from pipeline.records import Reject

MAGIC = b"\xff\xd8\xff"

_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP14 = 0xE0, 0xE1, 0xEE
_APPS = range(0xE0, 0xF0)
#: Baseline, extended sequential and progressive Huffman; every other frame type is unknown to common decoders.
_SUPPORTED_FRAMES = (0xC0, 0xC1, 0xC2)
_FRAMES = {code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC)}
#: Sampling factors (horizontal, vertical: a digit each) of the three colours that the strict decoder knows:
#: 4:4:4, 4:4:0, 4:2:2, 4:2:0, 4:1:1, 4:4:1, and other ways to say the same.
_SAMPLINGS = {
    "111111", "121111", "211111", "221111", "411111", "141111",
    "121212", "131313", "212121", "313131", "221212", "222121",
}  # fmt: skip
#: Markers without a length; none has a place between segments.
_BARE = {0x00, 0x01, _SOI, *range(0xD0, 0xD8)}
#: What ends the entropy-coded data of a scan: a marker that is no stuffed byte, restart or fill.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
#: A progressive image needs about ten; each one makes the decoder pass over all pixels.
_MAX_SCANS = 100


class JpegImage(EncodedImage):
    """A JPEG of one grey, three colour, or four ink components."""

    format = "jpeg"
    lossless = False

    def __init__(self, data: bytes):
        super().__init__()
        self.components = 0
        self.adobe = False
        self._kept = [b"\xff\xd8"]
        end = self._walk(data)
        if end < len(data):
            self.notes.append("trailing bytes trimmed")
        if self.components == 4:
            self.notes.append("cmyk")
        self.plain = self.components != 4

    def _walk(self, data: bytes) -> int:
        """Reads every segment; returns where the image ends."""
        position, scans, exif_seen = 2, 0, False
        for _ in range(MAX_PARTS):
            code, position = _marker(data, position)
            if code == _EOI:
                break
            if code in _BARE:
                raise Reject("corrupt", f"JPEG: marker FF{code:02X} between segments, at byte {position - 2}")
            start, position = position, position + _segment_length(data, position)
            payload = data[start + 2 : position]
            if code in _FRAMES:
                self._read_frame(code, payload)
            if code == _SOS:
                scans += 1
                end = _END_OF_SCAN.search(data, position)
                if end is None:
                    raise Reject("truncated", "JPEG: the data ends within a scan")
                position = end.start()
                payload = data[start + 2 : position]
            elif code == _APP1 and payload.startswith(b"Exif\0\0") and not exif_seen:
                exif_seen, self.orientation = True, exif.orientation(payload[6:])
            self._keep(code, data[start : start + 2], payload)
        else:
            raise Reject("corrupt", f"JPEG: more than {MAX_PARTS} segments")
        if not scans or not self.components:
            raise Reject("corrupt", "JPEG: no frame or no scan before the end of the image")
        if scans > _MAX_SCANS:
            raise Reject("corrupt", f"JPEG: {scans} scans, above the limit of {_MAX_SCANS}")
        self._kept.append(b"\xff\xd9")
        return position

    def _read_frame(self, code: int, payload: bytes) -> None:
        if code not in _SUPPORTED_FRAMES:
            raise Reject(
                "unsupported_format", f"JPEG: frame type SOF{code - 0xC0} (lossless, hierarchical or arithmetic)"
            )
        if len(payload) < 6 or len(payload) != 6 + 3 * payload[5] or self.components:
            raise Reject("corrupt", "JPEG: a damaged or second frame header")
        precision, self.height, self.width, self.components = struct.unpack_from(">BHHB", payload)
        if precision != 8 or self.components not in (1, 3, 4):
            raise Reject("unsupported_format", f"JPEG: {self.components} components of {precision} bits")
        sampling = payload[7::3].hex()
        if self.components > 1 and sampling[:6] not in _SAMPLINGS:
            raise Reject("unsupported_format", f"JPEG: components sampled {sampling}")
        if not self.width or not self.height:
            raise Reject("corrupt", f"JPEG: {self.width}×{self.height} pixels")

    def _keep(self, code: int, length: bytes, payload: bytes) -> None:
        """Keeps what decides pixels: of the metadata only the two markers that name the colour space, bare."""
        if code == _APP0 and payload.startswith(b"JFIF\0") and len(payload) >= 14:
            self._kept.append(b"\xff\xe0\x00\x10" + payload[:12] + b"\0\0")
        elif code == _APP14 and payload.startswith(b"Adobe") and len(payload) >= 12:
            self.adobe = True
            self._kept.append(b"\xff\xee\x00\x0e" + payload[:12])
        elif code not in _APPS and code != _COM:
            self._kept += (bytes((0xFF, code)), length, payload)

    def verify(self) -> None:
        # One eighth of the size: the entropy decoder, which finds the damage, still reads every coefficient.
        self._decode("CMYK" if self.components == 4 else "GRAY", min_height=1, min_width=1)

    def pixels(self) -> np.ndarray:
        if self.components == 1:
            return self._decode("GRAY")[..., 0]
        if self.components == 3:
            return self._decode("RGB")
        ink = self._decode("CMYK")
        if not self.adobe:  # Adobe stores 255 for no ink.
            np.subtract(255, ink, out=ink)
        return multiplied(ink[..., :3], ink[..., 3:])

    def _decode(self, colorspace: str, **size: int) -> np.ndarray:
        with third_party_decoder("JPEG"):
            return simplejpeg.decode_jpeg(self.stripped(), colorspace, strict=True, **size)

    def stripped(self) -> bytes:
        return b"".join(self._kept)


def _marker(data: bytes, position: int) -> tuple[int, int]:
    """The marker code at `position`, fill bytes skipped, and the position after it."""
    if position < len(data) and data[position] != 0xFF:
        raise Reject("corrupt", f"JPEG: no marker at byte {position}")
    while position < len(data) and data[position] == 0xFF:
        position += 1
    if position >= len(data):
        raise Reject("truncated", "JPEG: the data ends before the end-of-image marker")
    return data[position], position + 1


def _segment_length(data: bytes, position: int) -> int:
    length = int.from_bytes(data[position : position + 2], "big")
    if position + max(length, 2) > len(data):
        raise Reject("truncated", f"JPEG: the data ends within the segment at byte {position - 2}")
    if length < 2:
        raise Reject("corrupt", f"JPEG: segment of {length} bytes at byte {position - 2}")
    return length
