"""Reads `.npy` files from bytes, strictly: no pickle, no allocation that the bytes do not back.

A dataset holds four small files a face, nearly all with one of a few headers; a header is parsed
once and then looked up by its bytes. Format: numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import ast
import dataclasses
import functools
import math
import re
import struct

import numpy as np

from pipeline.records import Reject

#: NumPy's own limit for a header; ours are about 120 bytes.
MAX_HEADER_BYTES = 10_000
#: Longest text that can be one number; a double needs 24 characters.
MAX_TEXT = 64

_MAGIC = b"\x93NUMPY"
#: By format version: how the header's length is stored and how its text is encoded.
_VERSIONS = {1: (struct.Struct("<H"), "latin1"), 2: (struct.Struct("<I"), "latin1"), 3: (struct.Struct("<I"), "utf-8")}
_NUMBER_TEXT = re.compile(r"[+-]?(?:(\d+)|(?:\d+\.\d*|\.\d+|\d+(?=e))(?:e[+-]?\d+)?|nan|inf|infinity)", re.ASCII | re.I)


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What an array file says of itself.

    Attributes:
      dtype, shape, fortran_order: of the array.
      offset: of its first byte of data.
      file_bytes: how many bytes a file with this header must have.
      note: the type and shape as text, for the census ("<U1 ()").
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    fortran_order: bool
    offset: int
    file_bytes: int
    note: str


def read_header(data: bytes, file_bytes: int) -> Header:
    """The header of a `.npy` file.

    Args:
      data: the file from its beginning; the header must be within it.
      file_bytes: the size of the whole file.

    Raises:
      Reject: `unsafe_pickle` when reading would need a pickle; `bad_npy` when this is no `.npy` file
        or its header claims another size.
    """
    if data[:1] == b"\x80":
        raise Reject("unsafe_pickle", "a Python pickle named .npy; it was not opened")
    if data[:6] != _MAGIC or len(data) < 12:
        raise Reject("bad_npy", f"it begins with {data[:12]!r}, not with NumPy's magic bytes")
    if data[6] not in _VERSIONS:
        raise Reject("bad_npy", f"format version {data[6]}.{data[7]}; known are 1 to 3")
    length, _ = _VERSIONS[data[6]]
    offset = 8 + length.size + length.unpack_from(data, 8)[0]
    if offset > min(len(data), MAX_HEADER_BYTES):
        raise Reject("bad_npy", f"a header of {offset} bytes in a file of {file_bytes}")
    header = _parse_header(data[:offset])
    if header.file_bytes != file_bytes:
        raise Reject(
            "bad_npy", f"the header ({header.note}) asks for {header.file_bytes} bytes, the file has {file_bytes}"
        )
    return header


def read_scalar(data: bytes) -> tuple[int | float, str]:
    """The one number of a file: shape () or (1,); integer, float, bytes or text; any byte order.

    Returns:
      (the number, NaN and infinity included; its type and shape for the census).

    Raises:
      Reject: `unsafe_pickle`, `bad_npy`, `bad_shape` or `bad_dtype`.
    """
    header = read_header(data, len(data))
    if header.shape not in ((), (1,)):
        raise Reject("bad_shape", f"shape {header.shape} where one number is due")
    return read_numbers(data[header.offset :], header)[0], header.note


def read_numbers(data: bytes, header: Header) -> list[int | float]:
    """The numbers in a run of elements of an array.

    Args:
      data: whole elements as stored, without the header.
      header: of the file that they come from.

    Raises:
      Reject: `bad_dtype` when the type, or a text, is no number.
    """
    if header.dtype.kind in "iu":
        return np.frombuffer(data, header.dtype).tolist()
    if header.dtype.kind == "f":
        return [float(value) for value in np.frombuffer(data, header.dtype).tolist()]
    if header.dtype.kind in "US" and header.dtype.itemsize:
        # Decoded here: NumPy raises SystemError on code points beyond Unicode.
        codec = {"|": "ascii", "<": "utf-32-le", ">": "utf-32-be"}[header.dtype.str[0]]
        size = header.dtype.itemsize
        try:
            texts = [data[start : start + size].decode(codec) for start in range(0, len(data), size)]
        except UnicodeDecodeError as error:
            raise Reject("bad_npy", f"type {header.dtype.str}, but the data is no such text: {error.reason}") from None
        return [_number(text.rstrip("\0")) for text in texts]
    raise Reject("bad_dtype", f"type {header.dtype.str} where numbers, or numbers as text, are due")


def read_array(data: bytes, max_elements: int) -> tuple[np.ndarray, str]:
    """A small array of integers or floats, as float64 in the shape of the file.

    Returns:
      (the array, its type and shape for the census).

    Raises:
      Reject: `unsafe_pickle`, `bad_npy`, `bad_dtype`, or `bad_shape` for more than `max_elements`.
    """
    header = read_header(data, len(data))
    if math.prod(header.shape) > max_elements:
        raise Reject("bad_shape", f"shape {header.shape}: more than {max_elements} numbers")
    if header.dtype.kind not in "iuf":
        raise Reject("bad_dtype", f"type {header.dtype.str} where integers or floats are due")
    array = np.frombuffer(data, header.dtype, offset=header.offset)
    array = array.reshape(header.shape, order="F" if header.fortran_order else "C")
    with np.errstate(invalid="ignore"):  # a signalling NaN is reported by whoever asks for finite numbers
        return array.astype(np.float64), header.note


def _number(text: str) -> int | float:
    match = _NUMBER_TEXT.fullmatch(text) if len(text) <= MAX_TEXT else None
    if match is None:
        raise Reject("bad_dtype", f"the text {text[:MAX_TEXT]!r} is no number")
    return int(text) if match[1] else float(text)


@functools.lru_cache(maxsize=256)
def _parse_header(head: bytes) -> Header:
    length, encoding = _VERSIONS[head[6]]
    try:
        text = head[8 + length.size :].decode(encoding)
        if "\\" in text:
            raise ValueError("a backslash")
        fields = ast.literal_eval(text.strip())
        dtype = np.lib.format.descr_to_dtype(fields["descr"])
        shape, fortran_order = fields["shape"], fields["fortran_order"]
        if len(fields) != 3 or type(shape) is not tuple or type(fortran_order) is not bool:
            raise ValueError("other fields than descr, fortran_order and shape")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"shape {str(shape)[:80]}")
        size = len(head) + dtype.itemsize * math.prod(shape)
        note = f"{dtype.str} {shape}"
    except (ValueError, SyntaxError, TypeError, KeyError, OverflowError, RecursionError, MemoryError) as error:
        raise Reject("bad_npy", f"the header is unreadable: {str(error)[:200]}") from None
    if dtype.hasobject:
        raise Reject("unsafe_pickle", "an array of Python objects; it was not opened")
    return Header(dtype, shape, fortran_order, len(head), size, note)
