"""EXIF orientation: read from a TIFF block, applied to pixels.

Source: CIPA DC-008 (Exif 2.32), tag 0x0112.
"""

import struct

import numpy as np

_ORIENTATION_TAG = 0x0112
_SHORT = 3

#: Orientation -> (swap rows and columns, then flip top to bottom, then flip left to right).
_UPRIGHT = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def orientation(tiff: bytes) -> int:
    """The orientation in a TIFF block; 1 where it has none, is damaged, or says what does not exist."""
    byte_order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if byte_order is None:
        return 1
    try:
        (position,) = struct.unpack_from(byte_order + "I", tiff, 4)
        (count,) = struct.unpack_from(byte_order + "H", tiff, position)
        for entry in range(position + 2, position + 2 + 12 * count, 12):
            tag, kind, values, value = struct.unpack_from(byte_order + "HHIH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                return value if kind == _SHORT and values == 1 and value in _UPRIGHT else 1
    except struct.error:
        pass
    return 1


def swaps_sides(orientation: int) -> bool:
    """Whether width and height change places."""
    return _UPRIGHT[orientation][0]


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turns (height, width, …) pixels so that the top is up; a view."""
    swap, flip_rows, flip_columns = _UPRIGHT[orientation]
    if swap:
        pixels = pixels.swapaxes(0, 1)
    if flip_rows:
        pixels = pixels[::-1]
    if flip_columns:
        pixels = pixels[:, ::-1]
    return pixels
