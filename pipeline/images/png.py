"""PNG: chunk walk with checksums, bounded inflation, lossless removal of metadata.

Source: W3C PNG specification, third edition.
"""

import io
import struct
import zlib

import numpy as np
from PIL import PngImagePlugin

from pipeline.images import exif
from pipeline.images.base import MAX_PARTS, EncodedImage, over_black, third_party_decoder
from pipeline.records import Reject

MAGIC = b"\x89PNG\r\n\x1a\n"

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_CHANNELS = {_GREY: 1, _RGB: 3, _PALETTE: 1, _GREY_ALPHA: 2, _RGB_ALPHA: 4}
_BIT_DEPTHS = {
    _GREY: (1, 2, 4, 8, 16),
    _RGB: (8, 16),
    _PALETTE: (1, 2, 4, 8),
    _GREY_ALPHA: (8, 16),
    _RGB_ALPHA: (8, 16),
}
#: Adam7: (first column, first row, column step, row step) of each pass.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
#: Deflate expands at most 1,032 times: one piece gives 4 MB at most.
_INFLATE_PIECE = 4 * 1024
#: Decoders limit the size of one chunk.
_IDAT_BYTES = 2**20


class PngImage(EncodedImage):
    """A PNG of any of the fifteen kinds of pixels."""

    format = "png"
    lossless = True

    def __init__(self, data: bytes):
        super().__init__()
        self._palette = self._transparency = b""
        parts: list[bytes] = []
        end = self._walk(data, parts)
        self._deflated = b"".join(parts)
        if self._colour == _PALETTE and not self._palette:
            raise Reject("corrupt", "PNG: no palette")
        if not self._deflated:
            raise Reject("corrupt", "PNG: no pixel data")
        self.plain = self._depth == 8 and self._colour in (_GREY, _RGB) and not self._transparency
        if end < len(data):
            self.notes.append("trailing bytes trimmed")
        if self._depth == 16:
            self.notes.append("16-bit")
        if self._colour == _PALETTE:
            self.notes.append("palette")
        if self._colour in (_GREY_ALPHA, _RGB_ALPHA) or self._transparency:
            self.notes.append("alpha")

    def _walk(self, data: bytes, parts: list[bytes]) -> int:
        """Reads every chunk, pixel data into `parts`; returns where the image ends."""
        position, before = len(MAGIC), b""
        for _ in range(MAX_PARTS):
            kind, body, position = _chunk(data, position)
            if (kind == b"IHDR") != (not before):
                raise Reject("corrupt", f"PNG: chunk {kind!r} after {before!r}; IHDR comes first, once")
            if kind == b"IHDR":
                self._read_header(body)
            elif kind == b"IDAT":
                if parts and before != b"IDAT":
                    raise Reject("corrupt", "PNG: pixel data in two places")
                parts.append(body)
            elif kind == b"PLTE":
                self._read_palette(body, late=bool(parts))
            elif kind == b"tRNS":
                self._read_transparency(body, late=bool(parts))
            elif kind == b"eXIf":
                self.orientation = exif.orientation(body)
            elif kind in _ANIMATION:
                raise Reject("animated", f"PNG: animation chunk {kind.decode()}")
            elif kind == b"IEND":
                return position
            elif not kind[0] & 0x20:
                raise Reject("corrupt", f"PNG: unknown critical chunk {kind!r}")
            before = kind
        raise Reject("corrupt", f"PNG: more than {MAX_PARTS} chunks")

    def _read_header(self, body: bytes) -> None:
        if len(body) != 13:
            raise Reject("corrupt", f"PNG: header of {len(body)} bytes")
        self.width, self.height, self._depth, self._colour, compression, filtering, self._interlace = struct.unpack(
            ">IIBBBBB", body
        )
        if self._depth not in _BIT_DEPTHS.get(self._colour, ()):
            raise Reject("corrupt", f"PNG: colour type {self._colour} with {self._depth} bits")
        if compression or filtering or self._interlace > 1 or not self.width or not self.height:
            raise Reject("corrupt", f"PNG: header {body.hex()}")

    def _read_palette(self, body: bytes, *, late: bool) -> None:
        entries, rest = divmod(len(body), 3)
        most = 2**self._depth if self._colour == _PALETTE else 256
        if late or rest or not 1 <= entries <= most or self._palette or self._colour in (_GREY, _GREY_ALPHA):
            raise Reject("corrupt", f"PNG: misplaced palette, or one of {len(body)} bytes")
        self._palette = body

    def _read_transparency(self, body: bytes, *, late: bool) -> None:
        accepted = {_GREY: (2,), _RGB: (6,), _PALETTE: range(1, len(self._palette) // 3 + 1)}.get(self._colour, ())
        if late or self._transparency or len(body) not in accepted:
            raise Reject("corrupt", f"PNG: misplaced transparency, or one of {len(body)} bytes")
        self._transparency = body

    def verify(self) -> None:
        """Inflates to exactly the pixels' length and checks each row's filter type; holds one piece at a time.

        Raises:
          Reject: `truncated` or `corrupt`.
        """
        areas = self._areas()
        expected = sum(rows * stride for rows, stride in areas)
        row_starts = _RowStarts(areas)
        inflater = zlib.decompressobj()
        done = 0
        for start in range(0, len(self._deflated), _INFLATE_PIECE):
            try:
                piece = inflater.decompress(self._deflated[start : start + _INFLATE_PIECE])
            except zlib.error as error:
                raise Reject("corrupt", f"PNG: {error}") from None
            if done + len(piece) > expected or inflater.unused_data:
                raise Reject("corrupt", f"PNG: more pixel data than {self.width}×{self.height} pixels need")
            row_starts.check(piece, done)
            done += len(piece)
        if done < expected or not inflater.eof:
            raise Reject("truncated", f"PNG: {done} bytes of pixel data where {expected} are due")
        if self._colour == _PALETTE:
            self._indices()

    def _areas(self) -> list[tuple[int, int]]:
        """(rows, bytes a row with its filter type) of the image, or of each pass of an interlaced one."""
        bits = self._depth * _CHANNELS[self._colour]
        sizes = [(self.width, self.height)]
        if self._interlace:
            sizes = [
                (-(-(self.width - column) // across), -(-(self.height - row) // down))
                for column, row, across, down in _PASSES
            ]
        return [(height, 1 + (width * bits + 7) // 8) for width, height in sizes if width > 0 and height > 0]

    def pixels(self) -> np.ndarray:
        if self._colour == _PALETTE:
            return self._coloured(self._indices())
        pixels = self._from_16_bits() if self._depth == 16 else self._from_8_bits()
        if self._colour in (_GREY_ALPHA, _RGB_ALPHA):
            return over_black(pixels)
        return pixels[..., 0] if self._colour == _GREY else pixels

    def _indices(self) -> np.ndarray:
        indices = self._decode()[..., 0]
        if indices.max() >= len(self._palette) // 3:
            raise Reject("corrupt", f"PNG: colour {indices.max()} of a palette of {len(self._palette) // 3}")
        return indices

    def _coloured(self, indices: np.ndarray) -> np.ndarray:
        colours = np.frombuffer(self._palette, np.uint8).reshape(-1, 3)
        alpha = np.full((len(colours), 1), 255, np.uint8)
        alpha[: len(self._transparency), 0] = np.frombuffer(self._transparency, np.uint8)
        return over_black(np.hstack([colours, alpha])[None])[0][indices]

    def _from_8_bits(self) -> np.ndarray:
        pixels = self._decode()
        if self._transparency:
            key = np.frombuffer(self._transparency, ">u2").astype(np.int64)
            if self._depth < 8:  # Pillow has scaled the samples to 0 … 255.
                key = key * 255 // (2**self._depth - 1)
            pixels = _black_where(pixels == key, pixels)
        return pixels

    def _from_16_bits(self) -> np.ndarray:
        """Pixels of 16 bits, rounded to 8.

        Pillow keeps only the high bytes of most kinds. Grey (with alpha) is read as if it were grey and alpha
        (RGB and alpha) of 8 bits, which filters the same bytes; RGB (with alpha) is read twice.
        """
        if self._colour in (_GREY, _GREY_ALPHA):
            halves = self._decode(depth=8, colour=_GREY_ALPHA if self._colour == _GREY else _RGB_ALPHA)
            high, low = halves[..., 0::2], halves[..., 1::2]
        else:
            mode = "RGB" if self._colour == _RGB else "RGBA"
            high, low = self._decode(rawmode=f"{mode};16B"), self._decode(rawmode=f"{mode};16L")
        # A sample is 257 × high + (low - high); the nearest multiple of 257 stands for the 8-bit value.
        difference = low.astype(np.int16) - high
        pixels = high + (difference > 128) - (difference < -128)
        if self._transparency:
            key = np.frombuffer(self._transparency, np.uint8)
            pixels = _black_where((high == key[0::2]) & (low == key[1::2]), pixels)
        return pixels

    def _decode(self, depth: int = 0, colour: int | None = None, rawmode: str = "") -> np.ndarray:
        """Samples as Pillow unpacks them, (height, width, channels).

        Args:
          depth, colour: another header to pretend, of as many bits a pixel.
          rawmode: Pillow's name for another way to unpack.
        """
        header = self._header(depth or self._depth, self._colour if colour is None else colour)
        palette = _packed(b"PLTE", self._palette) if self._colour == _PALETTE else b""
        with third_party_decoder("PNG"):
            image = PngImagePlugin.PngImageFile(io.BytesIO(_assembled(header, palette, self._deflated)))
            if rawmode:
                image.tile = [tile._replace(args=rawmode) for tile in image.tile]
            pixels = np.asarray(image)
        if pixels.dtype == bool:
            pixels = pixels * np.uint8(255)
        return pixels.reshape(self.height, self.width, -1)

    def stripped(self) -> bytes:
        # A smaller window than the data uses is an error to libpng and none to zlib: declare the largest.
        method = b"\x78\x9c" if self._deflated[0] != 0x78 else self._deflated[:2]
        return _assembled(self._header(self._depth, self._colour), b"", method + self._deflated[2:])

    def _header(self, depth: int, colour: int) -> bytes:
        return struct.pack(">IIBBBBB", self.width, self.height, depth, colour, 0, 0, self._interlace)


class _RowStarts:
    """Checks the filter type at the start of each row, over data that comes in pieces."""

    def __init__(self, areas: list[tuple[int, int]]):
        self._areas = []
        start = 0
        for rows, stride in areas:
            self._areas.append((start, start + rows * stride, stride))
            start += rows * stride

    def check(self, piece: bytes, offset: int) -> None:
        """
        Args:
          piece: inflated bytes.
          offset: of the first of them in the whole.
        """
        for start, end, stride in self._areas:
            first = max(start, offset + (start - offset) % stride)
            types = piece[first - offset : max(end - offset, 0) : stride]
            if types and max(types) > 4:
                raise Reject("corrupt", f"PNG: row filter {max(types)}")


def _chunk(data: bytes, position: int) -> tuple[bytes, bytes, int]:
    """(type, body, position after it) of the chunk at `position`."""
    length = int.from_bytes(data[position : position + 4], "big")
    end = position + 12 + length
    if end > len(data):
        raise Reject("truncated", f"PNG: the data ends within the chunk at byte {position}")
    kind, body = data[position + 4 : position + 8], data[position + 8 : end - 4]
    if not kind.isalpha():
        raise Reject("corrupt", f"PNG: chunk type {kind!r} at byte {position}")
    if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
        raise Reject("corrupt", f"PNG: checksum of the chunk {kind.decode()} at byte {position}")
    return kind, body, end


def _black_where(transparent: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Black where the one transparent colour is; `transparent` compares each sample with its own."""
    return pixels * ~transparent.all(axis=2, keepdims=True)


def _packed(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _assembled(header: bytes, palette: bytes, deflated: bytes) -> bytes:
    data = [deflated[start : start + _IDAT_BYTES] for start in range(0, len(deflated), _IDAT_BYTES)]
    return b"".join(
        [MAGIC, _packed(b"IHDR", header), palette, *(_packed(b"IDAT", part) for part in data), _packed(b"IEND", b"")]
    )
