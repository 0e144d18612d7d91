"""Strict reading of `.npy` bytes: every stored form of a number, every way a file can lie."""

import io
import math
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.records import Reject
from pipeline.sources import npy


def stored(array, **options) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), **options)
    return buffer.getvalue()


def with_header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + data


def reason_of(data: bytes, read=npy.read_scalar) -> str:
    with pytest.raises(Reject) as caught:
        read(data)
    return caught.value.reason


@pytest.mark.parametrize(
    "value, expected",
    [
        (np.array("3"), 3), (np.array("3.0"), 3.0), (np.array(b"3"), 3), (np.array(["-0.25"]), -0.25),
        (np.array(3), 3), (np.array([3], np.uint8), 3), (np.array(-3, ">i4"), -3), (np.array(-0.5), -0.5),
        (np.array([0.5], ">f4"), 0.5), (np.array(0.5, np.float16), 0.5), (np.array("3", ">U7"), 3),
        (np.array("+.5e-1"), 0.05), (np.array("1e2"), 100.0), (np.array("-2."), -2.0),
        (np.array(2**64 - 1, np.uint64), 2**64 - 1),
    ],
)  # fmt: skip
def test_one_number_in_every_stored_form(value, expected):
    number, note = npy.read_scalar(stored(value))
    assert number == expected and type(number) is type(expected)
    assert note == f"{value.dtype.str} {value.shape}"


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_format_version(version):
    assert npy.read_scalar(stored(np.array([0.25]), version=version))[0] == 0.25


@pytest.mark.parametrize("text", ["nan", "-inf", "Infinity"])
def test_text_that_is_not_finite_is_passed_on_to_the_label_check(text):
    assert not math.isfinite(npy.read_scalar(stored(np.array(text)))[0])


@pytest.mark.parametrize(
    "value",
    ["", " 3", "3\n", "1_0", "0x3", "٣", "three", "3;", "1e", "3" * 65, True, 3j, np.datetime64("2021-03-01"),
     np.array((1.0,), [("a", "f8")])],
)  # fmt: skip
def test_what_is_no_number_is_a_bad_dtype(value):
    assert reason_of(stored(np.array(value))) == "bad_dtype"


@pytest.mark.parametrize("value", [[], [1, 2], [[1]], [[1, 2], [3, 4]]])
def test_more_or_fewer_than_one_number_is_a_bad_shape(value):
    assert reason_of(stored(np.array(value, float))) == "bad_shape"


class Canary:
    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(Canary()),
        stored(np.array(Canary(), object), allow_pickle=True),
        stored(np.array([(1, Canary())], [("a", "i4"), ("b", "O")]), allow_pickle=True),
    ],
)
@pytest.mark.parametrize("read", [npy.read_scalar, lambda data: npy.read_array(data, 10)])
def test_a_pickle_is_never_opened(data, read):
    assert reason_of(data, read) == "unsafe_pickle"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"3", b"0.25\n", b"<html>", b"PK\x03\x04" + bytes(40),
        stored(np.array(0.5))[:-1], stored(np.array(0.5)) + b"\0", stored(np.array(0.5))[:40],
        stored(np.array(0.5))[:9],
        b"\x93NUMPY\x04\x00" + bytes(100), b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }", bytes(8)),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", bytes(8)),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (True,), }", bytes(8)),
        with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }", bytes(8)),
        with_header("{'descr': '<f8', 'fortran_order': 0, 'shape': (), }", bytes(8)),
        with_header("{'descr': '<f8', 'shape': (), }", bytes(8)),
        with_header("{'descr': '<q9', 'fortran_order': False, 'shape': (), }", bytes(8)),
        with_header("__import__('os')", bytes(8)), with_header("(" * 5000), with_header("3"), with_header("'\\p'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("read", [npy.read_scalar, lambda data: npy.read_array(data, 10)])
def test_a_file_that_is_no_array_or_lies_about_its_size(data, read):
    assert reason_of(data, read) == "bad_npy"


@pytest.mark.parametrize("descr, data", [("<U1", b"\xff" * 4), (">U1", b"3\0\0\0"), ("|S1", b"\xff")])
def test_text_that_is_no_text(descr, data):
    assert reason_of(with_header(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (), }}", data)) == "bad_npy"


def test_memory_follows_the_bytes_not_the_header():
    lie = with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000,), }", bytes(8))
    tracemalloc.start()
    for read in (npy.read_scalar, lambda data: npy.read_array(data, 10**15)):
        assert reason_of(lie, read) == "bad_npy"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i8", "u1"])
def test_an_array_keeps_shape_and_order(order, dtype):
    array = np.array(np.arange(12).reshape(6, 2), dtype, order=order)
    read, note = npy.read_array(stored(array), max_elements=12)
    assert read.dtype == np.float64 and (read == array).all()
    assert note == f"{np.dtype(dtype).str} (6, 2)"


def test_an_array_has_a_limit_and_a_numeric_type():
    assert reason_of(stored(np.zeros(13)), lambda data: npy.read_array(data, 12)) == "bad_shape"
    assert reason_of(stored(np.array(["1"])), lambda data: npy.read_array(data, 12)) == "bad_dtype"


@given(value=st.floats(), dtype=st.sampled_from(["<f8", ">f8"]), shape=st.sampled_from([(), (1,)]))
def test_floats_come_back_exactly(value, dtype, shape):
    number, _ = npy.read_scalar(stored(np.full(shape, value, dtype)))
    assert number == value or (math.isnan(number) and math.isnan(value))


@given(value=st.one_of(st.integers(-(10**30), 10**30), st.floats(allow_nan=False)), kind=st.sampled_from(["U", "S"]))
def test_written_numbers_come_back_exactly(value, kind):
    assert npy.read_scalar(stored(np.array(str(value), kind)))[0] == value


@given(text=st.text(max_size=8))
@example("1_000")
@example(" 1")
def test_a_text_is_a_number_only_when_it_is_written_as_one(text):
    array = np.array(text)
    try:
        number, _ = npy.read_scalar(stored(array))
    except Reject as reject:
        assert reject.reason in ("bad_dtype", "bad_npy")
    else:
        assert set(str(array).lower()) <= set("0123456789+-.einfaty") and (
            number == float(str(array)) or math.isnan(number)
        )


@settings(max_examples=300)
@given(data=st.data())
def test_damaged_files_are_read_or_rejected(data):
    original = stored(
        data.draw(st.sampled_from([np.array("3"), np.array(0.5), np.array([1], ">i2"), np.zeros((68, 2))]))
    )
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) if data.draw(st.booleans()) else bytes(damaged)
    for read in (npy.read_scalar, lambda data: npy.read_array(data, 200)):
        try:
            read(damaged)
        except Reject as reject:
            assert reject.reason in ("bad_npy", "bad_dtype", "bad_shape", "unsafe_pickle")
