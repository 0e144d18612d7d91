"""The functions of TensorFlow that the steps of a pass are made of, for tensors and for values of `stablehlo`.

To be called with the array first, and no names but `axis`, from 0 on.
"""

import functools
import math
from collections.abc import Sequence

import tensorflow as tf

from datasets.augmentation.stablehlo import Value

absolute = functools.singledispatch(tf.abs)
bitcast = functools.singledispatch(tf.bitcast)
cast = functools.singledispatch(tf.cast)
clip_by_value = functools.singledispatch(tf.clip_by_value)
gather = functools.singledispatch(tf.gather)
left_shift = functools.singledispatch(tf.bitwise.left_shift)
pad = functools.singledispatch(tf.pad)
part = functools.singledispatch(tf.slice)
reduce_sum = functools.singledispatch(tf.reduce_sum)
reshape = functools.singledispatch(tf.reshape)
right_shift = functools.singledispatch(tf.bitwise.right_shift)
rounded = functools.singledispatch(tf.round)
size = functools.singledispatch(tf.size)
unstack = functools.singledispatch(tf.unstack)

part.register(Value, Value.part)
reshape.register(Value, Value.reshape)


@absolute.register
def _absolute(x: Value):
    return x.program.add(f"abs {x}", x.shape, x.dtype)


@rounded.register
def _rounded(x: Value):
    return x.program.add(f"round_nearest_even {x}", x.shape, x.dtype)


@clip_by_value.register
def _clip_by_value(t: Value, low: float, high: float):
    return t.elementwise("minimum", high).elementwise("maximum", low)


@left_shift.register
def _left_shift(x: Value, y: Value | int):
    return x.elementwise("shift_left", y)


@right_shift.register
def _right_shift(x: Value, y: Value | int):
    return x.needed(x.dtype.is_unsigned).elementwise("shift_right_logical", y)


@cast.register
def _cast(x: Value, dtype: tf.DType):
    return x.program.add(f"convert {x}", x.shape, dtype, [x])


@bitcast.register
def _bitcast(x: Value, dtype: tf.DType):
    shape = x.shape[:-1] if x.dtype.size < dtype.size else x.shape
    if x.dtype.size > dtype.size:
        shape += (x.dtype.size // dtype.size,)
    return x.program.add(f"bitcast_convert {x}", shape, dtype, [x])


@unstack.register
def _unstack(x: Value, axis: int):
    return [x[(*[slice(None)] * axis, number)] for number in range(x.shape[axis])]


@size.register
def _size(x: Value):
    return math.prod(x.shape)


@pad.register
def _pad(x: Value, paddings: Sequence[tuple[int, int]]):
    zero = x.program.constant(0, x.dtype)
    low, high = ([*side] for side in zip(*paddings))
    shape = [side + sum(more) for side, more in zip(x.shape, paddings)]
    operation = f"pad {x}, {zero}, low = {low}, high = {high}, interior = {[0] * len(low)}"
    return x.program.add(operation, shape, x.dtype, [x, zero])


@gather.register
def _gather(x: Value, indices: Value):
    """Of an array with one axis."""
    numbers = f"collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = {len(indices.shape)}"
    how = f"<{{dimension_numbers = #stablehlo.gather<{numbers}>, slice_sizes = array<i64: 1>}}>"
    return x.program.add(f'"stablehlo.gather"({x}, {indices}) {how}', indices.shape, x.dtype, [x, indices])


@reduce_sum.register
def _reduce_sum(x: Value, axis: int):
    zero = x.program.constant(0, x.dtype)
    operation = f"reduce({x} init: {zero}) applies stablehlo.add across dimensions = [{axis}]"
    return x.program.add(operation, [*x.shape[:axis], *x.shape[axis + 1 :]], x.dtype, [x, zero])
