"""The functions of TensorFlow that the steps of a pass are made of, for tensors and for values of `stablehlo`.

To be called with the array first, and no names but `axis`, from 0 on.
"""

import functools

import tensorflow as tf

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
