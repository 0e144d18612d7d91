"""Functions written down as StableHLO give what TensorFlow's graphs of them give, both compiled by XLA."""

import operator

import numpy as np
import pytest
import tensorflow as tf

from datasets.augmentation import ops, stablehlo

RNG = np.random.default_rng(7)
FLOATS = tf.constant(RNG.normal(0, 3, (2, 3, 4)).astype(np.float32))
MORE = tf.constant(RNG.normal(0, 3, (2, 3, 4)).astype(np.float32))
WORDS = tf.constant(RNG.integers(0, 2**32, (2, 3, 4), np.uint32))
WHOLE = tf.constant(RNG.integers(0, 100, (2, 3, 4), np.int32))
BYTES = tf.constant(RNG.integers(0, 256, (2, 3, 4), np.uint8))


def compiled(function, *inputs: tf.Tensor) -> np.ndarray:
    return tf.function(function, jit_compile=True, autograph=False)(*inputs).numpy()


def written(function, *inputs: tf.Tensor) -> np.ndarray:
    return compiled(lambda *inputs: stablehlo.call(function, inputs), *inputs)


def check(function, *inputs: tf.Tensor) -> None:
    np.testing.assert_array_equal(written(function, *inputs), compiled(function, *inputs))


@pytest.mark.parametrize("combine", [operator.add, operator.sub, operator.mul, operator.truediv])
def test_arithmetic(combine):
    check(combine, FLOATS, MORE)
    check(combine, FLOATS, MORE[:, :1])
    check(combine, FLOATS[0, :, :1], MORE)
    check(lambda x: combine(x, 0.1), FLOATS)
    check(lambda x: combine(x, np.float32([1, -2, 3, 5])), FLOATS)
    if combine is not operator.truediv:
        check(lambda x: combine(3, x), WORDS)


@pytest.mark.parametrize("combine", [operator.floordiv, operator.mod])
def test_whole_numbers_that_are_not_negative(combine):
    check(lambda x: combine(x, 7), WHOLE)
    check(combine, WHOLE, WHOLE[:1] + 1)


@pytest.mark.parametrize("combine", [operator.and_, operator.or_])
def test_bits(combine):
    check(combine, WORDS, WORDS[1])
    check(lambda x: combine(x, 2**31 - 1), WORDS)


def test_numbers_are_the_same_to_the_last_bit():
    for number in (0.1, 1 / 3, 2.0**-149, 2.0**23, float("inf"), -0.0):
        got = written(lambda x, number=number: x.program.constant(number, tf.float32, [2]), FLOATS)
        assert got.tobytes() == np.full(2, number, np.float32).tobytes()
    check(lambda x: x + np.arange(-3, 1), WHOLE)


@pytest.mark.parametrize(
    ("function", "given"),
    [
        (ops.absolute, FLOATS),
        (ops.rounded, tf.constant([-1.5, -0.5, 0.5, 1.5, 2.5, 2.4])),
        (lambda x: ops.clip_by_value(x, -1.0, 2.5), FLOATS),
        (lambda x: ops.left_shift(x, 5), WORDS),
        (lambda x: ops.right_shift(x, 5), WORDS),
        (lambda x: ops.right_shift(x, x & 31), WORDS),
        (lambda x: ops.cast(x, tf.float32), WHOLE),
        (lambda x: ops.cast(x, tf.uint32), WHOLE),
        (lambda x: ops.bitcast(x, tf.int32), FLOATS),
        (lambda x: ops.bitcast(x, tf.uint8), WORDS),
        (lambda x: ops.bitcast(x, tf.uint32), BYTES),
        (lambda x: ops.reshape(x, [4, -1]), FLOATS),
        (lambda x: ops.reshape(x, [-1, 3, 1]), FLOATS),
        (lambda x: ops.part(x, [0, 1, 2], [2, 1, 2]), FLOATS),
        (lambda x: ops.part(x, [0, 0, 0], [2, 3, 4]), FLOATS),
        (lambda x: ops.unstack(x, axis=1)[2], FLOATS),
        (lambda x: x * ops.size(x), WHOLE),
        (lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 2]]), WORDS),
        (lambda x: ops.reduce_sum(x, axis=1), WORDS),
        (lambda x: ops.reduce_sum(x, axis=2), WHOLE),
        (lambda x: x[1], FLOATS),
        (lambda x: x[..., :3], FLOATS),
        (lambda x: x[:, None, 1:, 0], FLOATS),
        (lambda x: x[:, -1, 1:-1, None], FLOATS),
        (lambda x: x[None, ..., 2], FLOATS),
    ],
)
def test_functions(function, given):
    check(function, given)


def test_a_part_that_begins_where_a_value_says():
    check(lambda x, first: ops.part(x, [first[0, 0, 0] % 2, 0, 1], [1, 3, 2]), FLOATS, WHOLE)


def test_gather():
    check(lambda x, where: ops.gather(ops.reshape(x, [-1]), where % 24), FLOATS, WHOLE)


def test_update():
    got = written(lambda x, y, at: stablehlo.update(x, y, [at, 0, 1]), FLOATS, MORE[:1, :, :2], tf.constant(1))
    expected = FLOATS.numpy()
    expected[1:, :, 1:3] = MORE[:1, :, :2]
    np.testing.assert_array_equal(got, expected)


def test_loops_within_loops():
    """As `tf.while_loop`, with what is carried in lists and dicts, and values from outside."""

    def powers(loop, x, count):
        def outer(number, given):
            def inner(times, sums):
                return times + 1, [sums[0] + x]

            _, (more,) = loop(lambda times, _: times < number, inner, (count * 0, [given["sums"]]))
            return number + 1, {"sums": more, "twice": given["twice"] * 2}

        first = (count * 0, {"sums": x * 0, "twice": x})
        number, given = loop(lambda number, _: number < count, outer, first)
        return given["sums"] + given["twice"] + number

    expected = powers(tf.while_loop, WHOLE, tf.constant(5))
    np.testing.assert_array_equal(expected, WHOLE * (10 + 32) + 5)
    np.testing.assert_array_equal(written(lambda x, n: powers(stablehlo.loop, x, n), WHOLE, tf.constant(5)), expected)


@pytest.mark.parametrize(
    ("wrong", "given", "error"),
    [
        (lambda x: [*x], FLOATS, TypeError),
        (lambda x: x if x < 0 else -x, FLOATS, TypeError),
        (lambda x: x == 1, FLOATS, TypeError),
        (lambda x: x[:, ::2], FLOATS, IndexError),
        (lambda x: x[:, 3], FLOATS, IndexError),
        (lambda x: x[-3], FLOATS, IndexError),
        (lambda x: x / 2, WHOLE, TypeError),
        (lambda x: x // 2, FLOATS, TypeError),
        (lambda x: x % 2, FLOATS, TypeError),
        (lambda x: x + 0.5, WHOLE, TypeError),
        (lambda x: x * ops.cast(x, tf.float32), WHOLE, TypeError),
        (lambda x: (x < 0) & True, WHOLE, TypeError),
        (lambda x: ops.right_shift(x, 1), WHOLE, TypeError),
        (
            lambda x: stablehlo.loop(lambda a: a["x"] < 1, lambda a: [{"y": a["x"]}], [{"x": x[0, 0, 0]}]),
            WHOLE,
            ValueError,
        ),
    ],
)
def test_what_a_value_cannot_do_is_refused(wrong, given, error):
    with pytest.raises(error):
        written(wrong, given)


def test_shapes_must_be_known():
    function = tf.function(lambda x: stablehlo.call(lambda x: x + x, [x]), jit_compile=True)
    with pytest.raises(ValueError, match=r"shapes are \(None, 3\); a program is for shapes that are known"):
        function.get_concrete_function(tf.TensorSpec([None, 3]))


def test_arrays_come_first_or_second():
    numbers = np.float32([1, -2, 3, 5])
    check(lambda x: numbers * x + numbers, FLOATS)
