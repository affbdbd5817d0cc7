"""Products of a few rows with explicit vectors and all running sums in registers; ``rows.py`` combines them.

The size of a block is a constant in the machine code, so that LLVM can keep each sum in a register. Vectors have 64
bytes with AVX-512 and 32 bytes otherwise. float16 and bfloat16 are widened as they are loaded.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gta_ref.core.cpu.llvm import FUSE, I8, I32, I64, float_type, storage_type, widen_bits

_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
VECTOR_BYTES = 64 if _WIDE else 32
# keys, or vectors of a value row, per block: MAX_ROWS × 4 sums fit into 32 registers
BLOCK = 4 if _WIDE else 2
MAX_ROWS = 5
# distance of prefetching in bytes; the hardware's own prefetching, page by page, reaches 2/3 of the bandwidth
_AHEAD = 16384


class _Memory:
    """Loads from byte addresses, as scalars or vectors, widened to the type in which they are computed; and stores."""

    def __init__(self, builder: Any, storage: Any) -> None:
        self.builder, self.storage = builder, storage
        self.stored, self.bytes = storage_type(storage)

    def at(self, address: Any, index: Any) -> Any:
        """The address of the number with this index (an int or an LLVM value), counted from `address`."""
        if isinstance(index, int):
            return self.builder.add(address, I64(index * self.bytes))
        return self.builder.add(address, self.builder.mul(index, I64(self.bytes)))

    def load(self, address: Any, lanes: int) -> Any:
        kind = vector(self.stored, lanes)
        loaded = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=self.bytes)
        return widen_bits(self.builder, loaded, self.storage, lanes if lanes > 1 else 0)

    def store(self, value: Any, address: Any) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=self.bytes)

    def prefetch(self, address: Any) -> None:
        """Prefetch the cache line at `address` + `_AHEAD`, which may lie past the array's end."""
        pointer = I8.as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        ahead = self.builder.inttoptr(self.builder.add(address, I64(_AHEAD)), pointer)
        self.builder.call(function, [ahead, I32(0), I32(2), I32(1)])  # for reading, into the second-level cache


def vector(scalar: ir.Type, lanes: int) -> ir.Type:
    """The type of a vector of `lanes` numbers, or the scalar type for one."""
    return ir.VectorType(scalar, lanes) if lanes > 1 else scalar


def _sums(builder: Any, scalar: ir.Type, lanes: int, rows: int, columns: int) -> list[list[Any]]:
    """Running sums, initially 0, which LLVM keeps in registers."""
    kind = vector(scalar, lanes)
    zero = ir.Constant(kind, None) if lanes > 1 else scalar(0)
    return [[cgutils.alloca_once_value(builder, zero) for _ in range(columns)] for _ in range(rows)]


def _add_product(builder: Any, slot: Any, a: Any, b: Any) -> None:
    product = builder.fmul(a, b, flags=FUSE)
    builder.store(builder.fadd(product, builder.load(slot), flags=FUSE), slot)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    if lanes == 1:
        return value
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(builder.insert_element(nothing, value, I32(0)), nothing, first)


def _sum_lanes(builder: Any, value: Any, lanes: int) -> Any:
    if lanes == 1:
        return value
    scalar = value.type.element
    name = f"llvm.vector.reduce.fadd.v{lanes}{'f32' if isinstance(scalar, ir.FloatType) else 'f64'}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(scalar, [scalar, value.type]), name)
    return builder.call(function, [scalar(0), value], fastmath=("reassoc",))


def make_scores(rows: int, keys: int) -> Any:
    """Make the function for the scores of `rows` query rows and `keys` key rows: s[r, j] = Σ_i q[r, i] k[j, i].

    It is called as ``scores(q, k, k_step, width, s, s_step, like, real)``: q, k and s are addresses, steps are in
    bytes, and q (rows, width) is packed. `like` is an array of k's storage type, `real` a scalar of q's type.
    """

    @intrinsic
    def scores(
        typingctx: Any, q: Any, k: Any, k_step: Any, width: Any, s: Any, s_step: Any, like: Any, real: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            q_at, k_at, k_step, width, s_at, s_step, _, _ = args
            plain, stored = _Memory(builder, real), _Memory(builder, like.dtype)
            scalar = float_type(real)[0]
            q_rows = [plain.at(q_at, builder.mul(width, I64(r))) for r in range(rows)]
            k_rows = [builder.add(k_at, builder.mul(k_step, I64(j))) for j in range(keys)]
            results = _sums(builder, scalar, 1, rows, keys)

            def accumulate(start: Any, stop: Any, lanes: int) -> None:
                slots = _sums(builder, scalar, lanes, rows, keys)
                with cgutils.for_range_slice(builder, start, stop, I64(lanes), intp=I64) as (i, _):
                    places = [stored.at(row, i) for row in k_rows]
                    if lanes > 1:
                        for place in places:
                            stored.prefetch(place)
                    key = [stored.load(place, lanes) for place in places]
                    for r in range(rows):
                        query = plain.load(plain.at(q_rows[r], i), lanes)
                        for j in range(keys):
                            _add_product(builder, slots[r][j], query, key[j])
                for r in range(rows):
                    for j in range(keys):
                        total = _sum_lanes(builder, builder.load(slots[r][j]), lanes)
                        builder.store(builder.fadd(builder.load(results[r][j]), total, flags=FUSE), results[r][j])

            lanes = VECTOR_BYTES // plain.bytes
            whole = builder.and_(width, I64(-lanes))
            accumulate(I64(0), whole, lanes)
            accumulate(whole, width, 1)
            for r in range(rows):
                row = builder.add(s_at, builder.mul(s_step, I64(r)))
                for j in range(keys):
                    plain.store(builder.load(results[r][j]), plain.at(row, j))
            return context.get_dummy_value()

        i = types.intp
        return types.void(i, i, i, i, i, i, like, real), codegen

    return scores


def make_context(rows: int, vectors: int) -> Any:
    """Make the function that adds P V to `rows` rows in a block of columns: o[r, :] += Σ_j p[r, j] v[j, :].

    The block is `vectors` vectors wide, or one number if that is 0. The function is called as ``context(p, p_step, v,
    v_step, keys, o, o_step, like, real)``: p, v and o are addresses, steps are in bytes. `like` is an array of v's
    storage type, `real` a scalar of the type of p and o.
    """

    @intrinsic
    def context_(
        typingctx: Any, p: Any, p_step: Any, v: Any, v_step: Any, keys: Any, o: Any, o_step: Any, like: Any, real: Any
    ) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            p_at, p_step, v_at, v_step, keys, o_at, o_step, _, _ = args
            plain, stored = _Memory(builder, real), _Memory(builder, like.dtype)
            lanes, columns = (VECTOR_BYTES // plain.bytes, vectors) if vectors else (1, 1)
            o_rows = [builder.add(o_at, builder.mul(o_step, I64(r))) for r in range(rows)]
            slots = _sums(builder, float_type(real)[0], lanes, rows, columns)
            for r in range(rows):
                for c in range(columns):
                    builder.store(plain.load(plain.at(o_rows[r], c * lanes), lanes), slots[r][c])
            with cgutils.for_range(builder, keys, intp=I64) as loop:
                row = builder.add(v_at, builder.mul(loop.index, v_step))
                places = [stored.at(row, c * lanes) for c in range(columns)]
                if vectors:
                    for place in places:
                        stored.prefetch(place)
                value = [stored.load(place, lanes) for place in places]
                column = plain.at(p_at, loop.index)
                for r in range(rows):
                    weight = plain.load(builder.add(column, builder.mul(p_step, I64(r))), 1)
                    for c in range(columns):
                        _add_product(builder, slots[r][c], _splat(builder, weight, lanes), value[c])
            for r in range(rows):
                for c in range(columns):
                    plain.store(builder.load(slots[r][c]), plain.at(o_rows[r], c * lanes))
            return context.get_dummy_value()

        i = types.intp
        return types.void(i, i, i, i, i, i, i, like, real), codegen

    return context_
