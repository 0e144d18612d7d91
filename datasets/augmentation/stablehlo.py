"""Programs for XLA as text, in StableHLO, written by the functions that otherwise put operations into a graph.

TensorFlow takes half a millisecond for each operation, of which the augmentation has hundreds, and the first batch of a
stream waits for them. A function that uses operators and `ops` alone can be called with a `Value` in the place of each
tensor; then it adds lines to the text of a `Program`, in microseconds. XLA makes the same of both.

StableHLO (https://openxla.org/stablehlo/spec) is also how JAX hands programs over to TensorFlow (jax2tf), by the same
operation.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla  # where jax2tf has the operation from; tf.raw_ops lacks it

#: Of XlaCallModule's calling convention.
_VERSION = 9
_TYPES = {tf.bool: "i1", tf.uint8: "ui8", tf.int32: "i32", tf.uint32: "ui32", tf.float32: "f32"}


class Program:
    """The text of a program, which grows by a line with each function of its values."""

    def __init__(self):
        self._lines, self._named = [], 0

    def text(self, inputs: "Sequence[Value]", output: "Value") -> str:
        """The whole, from `inputs` to `output`."""
        given = ", ".join(f"{value}: {value.type}" for value in inputs)
        head = f"func.func public @main({given}) -> {output.type} {{"
        return "\n".join(["module {", head, *self._lines, f"return {output} : {output.type}", "}", "}"])

    def constant(self, value: np.ndarray | float, dtype: tf.DType, shape: Sequence[int] = ()) -> "Value":
        """An array, or one number all over a shape."""
        value = np.asarray(value)
        if dtype == tf.bool or (dtype.is_integer and value.dtype.kind == "f"):
            raise TypeError(f"{value} cannot be a constant of {dtype.name}")
        value = value.astype(dtype.as_numpy_dtype)
        if value.ndim:
            return self.add(f'constant dense<"0x{value.tobytes().hex()}">', value.shape, dtype)
        number = f"0x{value.view(np.uint32):08x}" if dtype.is_floating else value
        return self.add(f"constant dense<{number}>", shape, dtype)

    def add(self, operation: str, shape: Sequence[int], dtype: tf.DType, operands: "Sequence[Value]" = ()) -> "Value":
        """Adds an operation.

        Args:
          operation: as the specification writes it, up to the types.
          shape, dtype: of the result.
          operands: those whose types are to be written too.
        """
        result = Value(self, self.new_name(), tuple(shape), dtype)
        types = f"({', '.join(operand.type for operand in operands)}) -> {result.type}" if operands else result.type
        name = operation if operation.startswith('"') else f"stablehlo.{operation}"
        self.line(f"{result} = {name} : {types}")
        return result

    def new_name(self) -> str:
        """One that no value has."""
        self._named += 1
        return str(self._named)

    def line(self, text: str) -> None:
        """Adds a line as it is."""
        self._lines.append(text)


class Value:
    """An array of a program. As with tensors, operators broadcast, and a number takes the other's type.

    `/` is for float32, `//` and `%` are for whole numbers that are not negative. What a tensor can do beyond that, and
    beyond `ops`, is refused.

    Attributes:
      program: whose it is.
      shape: sides, all known.
      dtype: one of _TYPES.
    """

    #: Otherwise Python would iterate and compare on its own, and NumPy take a value for an object.
    __iter__ = __eq__ = __hash__ = __array_ufunc__ = None

    def __init__(self, program: Program, name: str, shape: tuple[int, ...], dtype: tf.DType):
        self.program, self.shape, self.dtype, self._name = program, shape, dtype, name

    def __str__(self) -> str:
        return f"%{self._name}"

    @property
    def type(self) -> str:
        """Shape and type as StableHLO writes them."""
        return f"tensor<{'x'.join([*map(str, self.shape), _TYPES[self.dtype]])}>"

    def elementwise(self, operation: str, other: "Value | np.ndarray | float", *, swapped: bool = False) -> "Value":
        """`operation` of two, elementwise; if `swapped`, of the other and this."""
        pair = _alike(self, other)
        first, second = reversed(pair) if swapped else pair
        return self.program.add(f"{operation} {first}, {second}", first.shape, self.dtype)

    def __add__(self, other):
        return self.elementwise("add", other)

    __radd__ = __add__

    def __sub__(self, other):
        return self.elementwise("subtract", other)

    def __rsub__(self, other):
        return self.elementwise("subtract", other, swapped=True)

    def __mul__(self, other):
        return self.elementwise("multiply", other)

    __rmul__ = __mul__

    def __truediv__(self, other):
        return self.needed(self.dtype.is_floating).elementwise("divide", other)

    def __floordiv__(self, other):
        return self.needed(self.dtype.is_integer).elementwise("divide", other)

    def __mod__(self, other):
        return self.needed(self.dtype.is_integer).elementwise("remainder", other)

    def __and__(self, other):
        return self.elementwise("and", other)

    def __or__(self, other):
        return self.elementwise("or", other)

    def __lt__(self, other):
        one, other = _alike(self, other)
        return self.program.add(f"compare LT, {one}, {other}", one.shape, tf.bool, [one, other])

    def __bool__(self):
        raise TypeError(f"{self} is known only when the program runs")

    def __getitem__(self, index):
        """By slices with steps of 1, whole numbers, None and Ellipsis."""
        index = list(index) if isinstance(index, tuple) else [index]
        where = index.index(Ellipsis) if Ellipsis in index else len(index)
        missing = len(self.shape) - sum(item is not None and item is not Ellipsis for item in index)
        index[where : where + 1] = [slice(None)] * missing
        begin, size, shape, sides = [], [], [], iter(self.shape)
        for item in index:
            if item is None:
                shape.append(1)
                continue
            side = next(sides)
            whole = not isinstance(item, slice)
            start, stop, step = (slice(item, item + 1 or None) if whole else item).indices(side)
            if step != 1 or (whole and not -side <= item < side):
                raise IndexError(f"{item} of {side}: must be a slice with steps of 1, or within")
            begin.append(start)
            size.append(max(stop - start, 0))
            shape += [] if whole else size[-1:]
        return self.part(begin, size).reshape(shape)

    def part(self, begin: "Sequence[int | Value]", size: Sequence[int]) -> "Value":
        """As `tf.slice`; where a value says where it begins, it begins before if it would not fit."""
        if any(isinstance(start, Value) for start in begin):
            operands = [self, *_as_values(self.program, begin)]
            operation = f"dynamic_slice {', '.join(map(str, operands))}, sizes = {[*size]}"
            return self.program.add(operation, size, self.dtype, operands)
        if tuple(size) == self.shape and not any(begin):
            return self
        ranges = ", ".join(f"{start}:{start + count}" for start, count in zip(begin, size))
        return self.program.add(f"slice {self} [{ranges}]", size, self.dtype, [self])

    def reshape(self, shape: Sequence[int]) -> "Value":
        """As `tf.reshape`, -1 for one side included."""
        if -1 in shape:
            rest = math.prod(self.shape) // -math.prod(shape)
            shape = [rest if side == -1 else side for side in shape]
        return self if tuple(shape) == self.shape else self.program.add(f"reshape {self}", shape, self.dtype, [self])

    def needed(self, condition: bool) -> "Value":
        """Itself.

        Raises:
          TypeError: the condition on its type does not hold.
        """
        if not condition:
            raise TypeError(f"not for {self.dtype.name}")
        return self


def call(function: Callable[..., Value], inputs: Sequence[tf.Tensor]) -> tf.Tensor:
    """What a function of values makes of tensors; to be called where XLA compiles (`tf.function(jit_compile=True)`).

    Args:
      function: gets a Value for each input and returns one.
      inputs: all sides known.

    Raises:
      ValueError: they are not.
    """
    if unknown := [tensor.shape for tensor in inputs if not tensor.shape.is_fully_defined()]:
        raise ValueError(f"shapes are {', '.join(map(str, unknown))}; a program is for shapes that are known")
    program = Program()
    values = [Value(program, program.new_name(), tuple(tensor.shape), tensor.dtype) for tensor in inputs]
    output = function(*values)
    (result,) = xla.gen_xla_ops.xla_call_module(
        inputs, version=_VERSION, module=program.text(values, output), Sout=[output.shape], Tout=[output.dtype],
        platforms=["CPU"], disabled_checks=["platform"],
    )  # fmt: skip
    return result


def loop(condition: Callable[..., Value], body: Callable[..., Sequence], first: Sequence) -> list:
    """`tf.while_loop` of values, also in lists and dicts."""
    flat = tf.nest.flatten(first)
    program = flat[0].program
    result, types = program.new_name(), ", ".join(value.type for value in flat)
    carried = [Value(program, program.new_name(), value.shape, value.dtype) for value in flat]
    given = tf.nest.pack_sequence_as(first, carried)
    starts = ", ".join(f"{here} = {value}" for here, value in zip(carried, flat))
    program.line(f"%{result}:{len(flat)} = stablehlo.while({starts}) : {types} cond {{")
    go_on = condition(*given)
    program.line(f"stablehlo.return {go_on} : {go_on.type}")
    program.line("} do {")
    made = body(*given)
    tf.nest.assert_same_structure(first, made)
    program.line(f"stablehlo.return {', '.join(map(str, tf.nest.flatten(made)))} : {types}")
    program.line("}")
    last = [Value(program, f"{result}#{number}", value.shape, value.dtype) for number, value in enumerate(flat)]
    return tf.nest.pack_sequence_as(first, last)


def update(array: Value, part: Value, begin: Sequence[int | Value]) -> Value:
    """The array with `part` in it, from `begin` on, or before if it would not fit."""
    operands = [array, part, *_as_values(array.program, begin)]
    return array.program.add(
        f"dynamic_update_slice {', '.join(map(str, operands))}", array.shape, array.dtype, operands
    )


def _as_values(program: Program, numbers: Sequence[int | Value]) -> list[Value]:
    return [number if isinstance(number, Value) else program.constant(number, tf.int32) for number in numbers]


def _alike(one: Value, other: Value | np.ndarray | float) -> tuple[Value, Value]:
    """Both in the shape that they broadcast to."""
    if not isinstance(other, Value):
        other = one.program.constant(other, one.dtype, one.shape)
    if one.dtype != other.dtype:
        raise TypeError(f"{one.dtype.name} and {other.dtype.name} do not go together")
    shape = np.broadcast_shapes(one.shape, other.shape)
    return _broadcast(one, shape), _broadcast(other, shape)


def _broadcast(value: Value, shape: tuple[int, ...]) -> Value:
    if value.shape == shape:
        return value
    axes = [*range(len(shape) - len(value.shape), len(shape))]
    return value.program.add(f"broadcast_in_dim {value}, dims = {axes}", shape, value.dtype, [value])
