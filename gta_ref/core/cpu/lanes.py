"""Building blocks of the micro-kernels: vectors of the machine's length, and functions written as LLVM instructions.

A micro-kernel is a function in machine code that a compiled kernel calls by name, such as ``scores(k, ...)``. Each one
is a function of its own and is not inlined, so LLVM assigns the registers for its loop alone. None of its instructions
has a flag that lets LLVM reorder sums or assume that NaN does not occur. Its results are therefore determined by its
source, whatever module it is compiled into.

One source serves every length of vector: 64 bytes (AVX-512), 32 (AVX2) or 16 (NEON).
"""

from __future__ import annotations

import inspect
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
VOID = ir.VoidType()
BYTE = I8.as_pointer()


def has_feature(feature: str) -> bool:
    """Whether the code may use a feature of the CPU; NUMBA_CPU_FEATURES overrides what the CPU has."""
    chosen = os.environ.get("NUMBA_CPU_FEATURES")
    if chosen is not None:
        return f"+{feature}" in chosen.split(",")
    return bool(llvmlite.binding.get_host_cpu_features().get(feature, False))


VECTOR_BYTES = 64 if has_feature("avx512f") else 32 if has_feature("avx2") else 16
MANY_REGISTERS = VECTOR_BYTES == 64 or platform.machine().lower() in ("arm64", "aarch64")  # 32 registers; else 16
VECTORS = 3  # per line of a panel
ROWS = 8 if MANY_REGISTERS else 4  # numbers of the other operand that a register tile takes at a time
LINE = VECTORS * VECTOR_BYTES  # bytes per line of a panel


class Real:
    """A precision of computation: its types, and how many of its numbers a vector and a panel hold."""

    def __init__(self, numba_type: Any) -> None:
        single = numba_type == types.float32
        self.numba = numba_type
        self.scalar: ir.Type = ir.FloatType() if single else ir.DoubleType()
        self.whole = I32 if single else I64  # the integer of the same size
        self.bytes = 4 if single else 8
        self.lanes = VECTOR_BYTES // self.bytes
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.name = "f32" if single else "f64"
        self.mantissa, self.bias = (23, 127) if single else (52, 1023)
        # the lowest finite number: where the running maximum starts, so that −inf − m is −inf and never NaN
        self.lowest = -(2.0 - 2.0**-self.mantissa) * 2.0**self.bias


REALS = {types.float32: Real(types.float32), types.float64: Real(types.float64)}


class Lanes:
    """Writes instructions on scalars and vectors of one precision. Addresses point to bytes; offsets are in bytes."""

    def __init__(self, builder: ir.IRBuilder, real: Real) -> None:
        self.b, self.real = builder, real

    def constant(self, value: float) -> Any:
        """A vector with this number in every lane."""
        return ir.Constant(self.real.vector, [value] * self.real.lanes)

    def splat(self, x: Any, lanes: int | None = None) -> Any:
        """A vector with the scalar x in every lane."""
        lanes = lanes or self.real.lanes
        nothing = ir.Constant(ir.VectorType(x.type, lanes), ir.Undefined)
        first = self.b.insert_element(nothing, x, I32(0))
        return self.b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))

    def at(self, address: Any, offset: Any) -> Any:
        """The address that lies `offset` bytes on, an int or a value."""
        return self.b.gep(address, [I64(offset) if isinstance(offset, int) else offset])

    def times(self, x: Any, y: Any) -> Any:
        """Product of two integers, of which the second may be an int."""
        return self.b.mul(x, I64(y) if isinstance(y, int) else y)

    def load(self, address: Any, offset: Any = 0, kind: ir.Type | None = None, align: int | None = None) -> Any:
        """Load a number or vector of this type, by default a vector of the precision."""
        kind = kind or self.real.vector
        pointer = self.b.bitcast(self.at(address, offset), kind.as_pointer())
        return self.b.load(pointer, align=align or self.real.bytes)

    def store(self, value: Any, address: Any, offset: Any = 0, align: int | None = None) -> None:
        """Store a number or vector."""
        pointer = self.b.bitcast(self.at(address, offset), value.type.as_pointer())
        self.b.store(value, pointer, align=align or self.real.bytes)

    def line(self, address: Any, vectors: int, offset: Any = 0) -> list[Any]:
        """The first vectors of a line of a panel; panels lie at multiples of a vector's length."""
        at = self.at(address, offset)
        return [self.load(at, v * VECTOR_BYTES, align=VECTOR_BYTES) for v in range(vectors)]

    def store_line(self, values: Sequence[Any], address: Any, offset: Any = 0) -> None:
        """Store the first vectors of a line."""
        at = self.at(address, offset)
        for v, value in enumerate(values):
            self.store(value, at, v * VECTOR_BYTES, align=VECTOR_BYTES)

    def call(self, name: str, result: ir.Type, *args: Any) -> Any:
        """Call one of LLVM's own functions."""
        kind = ir.FunctionType(result, [x.type for x in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), args)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x · y + z, rounded once where the CPU can do so."""
        vector = isinstance(x.type, ir.VectorType)
        name = f"llvm.fmuladd.{f'v{x.type.count}' if vector else ''}{self.real.name}"
        return self.call(name, x.type, x, y, z)

    def loop(self, count: Any, values: Sequence[Any], body: Callable[[Any, list[Any]], Sequence[Any]]) -> list[Any]:
        """Carry `values` through ``values = body(i, values)`` for i below `count`, in registers; their last values."""
        b = self.b
        before, head, inner, after = b.block, *(b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        i = b.phi(I64)
        carried = [b.phi(value.type) for value in values]
        b.cbranch(b.icmp_signed("<", i, count), inner, after)
        b.position_at_end(inner)
        new = body(i, list(carried))
        step = b.add(i, I64(1))
        for phi, first, following in zip([i, *carried], [I64(0), *values], [step, *new], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(following, b.block)
        b.branch(head)
        b.position_at_end(after)
        return carried

    def for_(self, count: Any, body: Callable[[Any], None]) -> None:
        """Run ``body(i)`` for each i below `count`."""

        def step(i: Any, _: Any) -> list[Any]:
            body(i)
            return []

        self.loop(count, [], step)

    def if_(self, condition: Any, body: Callable[[], None], otherwise: Callable[[], None] | None = None) -> None:
        """Run `body` if the scalar condition holds, else `otherwise`."""
        then, other, after = (self.b.append_basic_block() for _ in range(3))
        self.b.cbranch(condition, then, other)
        for block, run in ((then, body), (other, otherwise)):
            self.b.position_at_end(block)
            if run is not None:
                run()
            self.b.branch(after)
        self.b.position_at_end(after)

    def switch(self, value: Any, most: int, body: Callable[[int], None]) -> None:
        """Run ``body(n)``, written for each constant n from 1 to `most`, for the n that is `value`."""
        after, cases = self.b.append_basic_block(), [self.b.append_basic_block() for _ in range(most)]
        switch = self.b.switch(value, cases[-1])
        for n, block in enumerate(cases, 1):
            switch.add_case(I64(n), block)
            self.b.position_at_end(block)
            body(n)
            self.b.branch(after)
        self.b.position_at_end(after)

    def smaller(self, x: Any, y: Any) -> Any:
        """The smaller of two integers, of which the second may be an int."""
        y = I64(y) if isinstance(y, int) else y
        return self.b.select(self.b.icmp_signed("<", x, y), x, y)

    def over(self, x: Any, y: int) -> Any:
        """x / y, rounded up, of an integer that is not negative."""
        return self.b.udiv(self.b.add(x, I64(y - 1)), I64(y))

    def same_size(self, values: Any) -> Any:
        """The bits of numbers as integers of their size."""
        vector = isinstance(values.type, ir.VectorType)
        kind = ir.VectorType(self.real.whole, values.type.count) if vector else self.real.whole
        return self.b.bitcast(values, kind)


def micro_kernel(arguments: str, stored: bool = False) -> Callable[[Callable[..., None]], Any]:
    """Turn a function that writes instructions into one that compiled kernels can call.

    Parameters
    ----------
    arguments : str
        Names of the arguments in order, separated by spaces. A name ends in ``*`` for an address, in ``.`` for a number
        in the precision of computation; all others are integers. In the kernel, addresses are integers.
    stored : bool
        Whether the micro-kernel reads arrays in their storage type. It then takes one more argument, `stored`, a scalar
        whose type says how numbers are stored.

    The micro-kernel's last argument is `one`, any number in the precision of computation, for its type. Another
    micro-kernel calls it by ``name.emit(lanes, *arguments)``.
    """
    names = arguments.split()

    def decorate(build: Callable[..., None]) -> Any:
        def define(module: ir.Module, real: Real, storage: Any) -> ir.Function:
            """The function in this module, which is written at its first use."""
            name = f"gta_{build.__name__}_{real.name}{f'_{storage}' if stored else ''}"
            function = module.globals.get(name)
            if function is None:
                kinds = [{"*": BYTE, ".": real.scalar}.get(n[-1], I64) for n in names]
                function = ir.Function(module, ir.FunctionType(VOID, kinds), name)
                # a symbol of this module alone: a cached kernel never runs the code of another module
                function.linkage = "internal"
                function.attributes.add("noinline")
                function.attributes.add("nounwind")
                function.attributes.add("optsize")
                lanes = Lanes(ir.IRBuilder(function.append_basic_block()), real)
                build(lanes, *function.args, **({"storage": storage} if stored else {}))
                lanes.b.ret_void()
            return function

        def typed(typingctx: Any, *args: Any) -> Any:
            real, storage = REALS[args[-1]], args[-2] if stored else None
            kinds = [{"*": types.intp, ".": real.numba}.get(n[-1], types.int64) for n in names]

            def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                function = define(builder.module, real, storage)
                pairs = zip(names, values[: len(names)], strict=True)
                builder.call(function, [builder.inttoptr(x, BYTE) if n[-1] == "*" else x for n, x in pairs])
                return context.get_dummy_value()

            return types.void(*kinds, *args[len(names) :]), codegen

        def emit(x: Lanes, *args: Any, storage: Any = None) -> None:
            x.b.call(define(x.b.module, x.real, storage), args)

        parameters = ["typingctx", *(n.rstrip("*.") for n in names), *(["stored"] if stored else []), "one"]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typed.__signature__ = inspect.Signature([inspect.Parameter(p, kind) for p in parameters])  # type: ignore[attr-defined]
        typed.__name__ = typed.__qualname__ = build.__name__
        typed.__doc__, typed.__module__ = build.__doc__, build.__module__
        found: Any = intrinsic(typed)
        found.emit = emit
        return found

    return decorate
