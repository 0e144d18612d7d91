"""Damage to files: anywhere, or to the parts that their formats have."""

import random
import re
import struct
import zlib

import numpy as np

from scripts.sample_images import chunk

#: Values at which sizes, signs and counts go wrong.
_EDGES = (0, 1, 2, 7, 8, 16, 127, 128, 254, 255)
_SIZES = (0, 1, 3, 15, 16, 64, 255, 256, 6000, 20000, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1)
_TYPES = ("<i8", ">f4", "<f2", "|b1", "|S4", "<U2", "|O", "<c8", "<M8[s]", "|V8")
#: As text in a header, and the number of elements.
_SHAPES = ((b"()", 1), (b"(1,)", 1), (b"(2, 3)", 6), (b"(0,)", 0))


def mutated(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """One to three kinds of damage; `other` is another file to take parts from."""
    for _ in range(generator.choice((1, 1, 1, 2, 3))):
        data = generator.choice(_MUTATIONS)(data, generator, other) or data[:1]
    return data


def flip_bits(data: bytes, generator: random.Random, _: bytes) -> bytes:
    """Flips 1 to 8 bits anywhere."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 8)):
        changed[generator.randrange(len(changed))] ^= 1 << generator.randrange(8)
    return bytes(changed)


def edit_header(data: bytes, generator: random.Random, _: bytes) -> bytes:
    """Sets a byte, or a number of 2 or 4 bytes, near the beginning."""
    changed = bytearray(data)
    position = generator.randrange(min(len(changed), 64))
    value = generator.choice(_SIZES)
    edit = generator.choice(
        (
            bytes([generator.choice(_EDGES)]),
            struct.pack(generator.choice(("<H", ">H")), value % 2**16),
            struct.pack(generator.choice(("<I", ">I")), value),
        )
    )
    changed[position : position + len(edit)] = edit
    return bytes(changed)


def cut(data: bytes, generator: random.Random, _: bytes) -> bytes:
    """Ends early."""
    return data[: generator.randrange(1, len(data) + 1)]


def remove(data: bytes, generator: random.Random, _: bytes) -> bytes:
    """Takes a part out."""
    start = generator.randrange(len(data))
    return data[:start] + data[start + generator.randint(1, 64) :]


def splice(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """Puts a part of another file in, over or between."""
    start, source = generator.randrange(len(data)), generator.randrange(len(other))
    part = other[source : source + generator.randint(1, 200)]
    return data[:start] + part + data[start + generator.choice((0, len(part))) :]


def edit_parts(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """Damages chunks or segments as such, with lengths and checksums that fit."""
    if data.startswith(b"\x89PNG"):
        return _edit_chunks(data, generator, other)
    if data.startswith(b"\xff\xd8"):
        return _edit_segments(data, generator, other)
    if data.startswith(b"\x93NUMPY"):
        return _edit_array(data, generator, other)
    return flip_bits(data, generator, other)


def _edit_chunks(data: bytes, generator: random.Random, other: bytes) -> bytes:
    chunks, position = [], 8
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    chunks = _edited(chunks, generator)
    if chunks:
        at = generator.randrange(len(chunks))
        kind, body = chunks[at]
        if kind == b"IDAT":
            body = _edit_pixels(body, generator, other)
        elif body:
            body = generator.choice((flip_bits, edit_header, cut))(body, generator, other)
        if generator.random() < 0.1:
            kind = generator.choice((b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"eXIf", b"abcd", b"ABCD"))
        chunks[at] = (kind, body)
    return data[:8] + b"".join(chunk(kind, body) for kind, body in chunks)


def _edit_pixels(body: bytes, generator: random.Random, other: bytes) -> bytes:
    """Changes the pixels themselves, their number, or how they are compressed."""
    try:
        raw = zlib.decompress(body)
    except zlib.error:
        return flip_bits(body, generator, other) if body else body
    if raw and generator.random() < 0.7:
        raw = generator.choice((flip_bits, edit_header, cut, remove, splice))(raw, generator, other)
    compressor = zlib.compressobj(generator.randint(0, 9), zlib.DEFLATED, generator.randint(9, 15))
    deflated = compressor.compress(raw) + compressor.flush()
    if generator.random() < 0.2:  # Declares another window than was used.
        method = generator.randrange(9) << 4 | 8
        deflated = bytes([method, -(method << 8) % 31]) + deflated[2:]
    return deflated


def _edit_segments(data: bytes, generator: random.Random, other: bytes) -> bytes:
    segments, position = [], 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != 0xD9:
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        end = position + 2 + length
        if data[position + 1] == 0xDA:
            end = data.find(b"\xff\xd9", position)
            end = len(data) if end < 0 else end
        segments.append((data[position : position + 2], data[position + 4 : end]))
        position = end
    segments = _edited(segments, generator)
    if segments:
        at = generator.randrange(len(segments))
        marker, body = segments[at]
        if body:
            body = generator.choice((flip_bits, edit_header))(body, generator, other)
        if generator.random() < 0.1:
            marker = bytes((0xFF, generator.randrange(256)))
        segments[at] = (marker, body)
    out = [data[:2]]
    for marker, body in segments:
        length = 2 + len(body)
        if marker == b"\xff\xda":  # Of the scan's header alone; what follows is pixels.
            length = 2 + (4 + 2 * body[0] if body else 0)
        out.append(marker + struct.pack(">H", length % 2**16) + body)
    return b"".join(out) + data[position:]


def _edit_array(data: bytes, generator: random.Random, other: bytes) -> bytes:
    """Changes the data alone, or writes another type or shape into a header of the same length."""
    start = data.find(b"\n") + 1
    head, numbers = data[:start], data[start:]
    if numbers and generator.random() < 0.5:
        return head + generator.choice((flip_bits, cut, splice))(numbers, generator, other)
    dtype, (shape, count) = generator.choice(_TYPES), generator.choice(_SHAPES)
    head = re.sub(rb"'[<>|][^']+'", repr(dtype).encode(), head)
    head = re.sub(rb"\([\d, ]*\)", shape, head)
    head = head.rstrip(b" \n").ljust(start - 1) + b"\n"
    size = np.dtype(dtype).itemsize * count + generator.choice((0, 0, 0, 1))
    return head + bytes(generator.choices(b"0123456789.-e\0 ", k=size))


def _edited(parts: list, generator: random.Random) -> list:
    """Drops, doubles or exchanges parts, or leaves them."""
    parts = list(parts)
    if len(parts) > 1:
        a, b = generator.randrange(len(parts)), generator.randrange(len(parts))
        choice = generator.randrange(6)
        if choice == 0:
            del parts[a]
        elif choice == 1:
            parts.insert(b, parts[a])
        elif choice == 2:
            parts[a], parts[b] = parts[b], parts[a]
    return parts


_MUTATIONS = (flip_bits, edit_header, cut, remove, splice, edit_parts, edit_parts, edit_parts)
