"""The instructions of a warpgroup (sm_90a) as Numba intrinsics: wgmma, its descriptors, and what its operands need.

A warpgroup is four warps, 128 threads, whose first warp has a number that is a multiple of four. One ``wgmma`` computes
D (64, n) += A (64, 16) B (16, n). A and D are in registers. B is in shared memory, and a descriptor of 64 bits says
how it lies there. The instruction runs asynchronously: a product is issued, and its results, and the registers and the
shared memory that it reads, must not be touched until the warpgroup has waited for it. ``emulated_wgmma`` has a Python
version of each function, written from the same tables of NVIDIA's PTX ISA.

A warp of the warpgroup holds 16 rows of A and D, in the layouts of ``ptx.mma_bf16``. For thread t of a warp, with
g = t // 4 and p = 2(t mod 4), element 4j + 2h + i of its part of D is D[g + 8h, 8j + p + i], and elements 0 to 3 of its
part of A are the pairs A[g, p:p+2], A[g+8, p:p+2], A[g, p+8:p+10], A[g+8, p+8:p+10].

Addresses in shared memory are 32-bit numbers of bytes here, as ``ptx_address.shared_address`` returns them.
"""

# Numba calls these functions with the objects of its compiler, which have no types
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from gta_cuda.ptx import FLOAT, INT32, INT64, _assembly, shfl_xor

__all__ = ["descriptor", "make_product", "make_wait", "renew", "shfl_xor", "show"]

SWIZZLE_128 = 1 << 30  # the mode in the upper half of a descriptor


# ---- products


@intrinsic
def descriptor(typing, shared, address, leading, stride):
    """The descriptor of an operand in `shared` that begins at a byte address, with the 128-byte swizzle.

    leading and stride are distances in bytes, multiples of 16. Bits 0–13 hold the address, bits 16–29 `leading`, bits
    32–45 `stride`, each divided by 16; bits 62–63 hold the mode, 1. Rows have 128 bytes; bits 4–6 of every address are
    xor-ed with its bits 7–9. Where element (k, n) of B lies, in bytes from the beginning and before the xor:

        B is stored by columns (transposed = False):  128·(n mod 8) + stride·(n // 8) + 2k
        B is stored by rows (transposed = True):      2(n mod 64) + leading·(n // 64) + 128·(k mod 8) + stride·(k // 8)
    """

    def generate(context, builder, signature, arguments):
        # shared memory has less than 2¹⁸ bytes, so that no bit of an address has to be cut off
        at, leading, stride = (
            builder.lshr(context.cast(builder, x, kind, types.uint32), INT32(4))
            for x, kind in zip(arguments[1:], signature.args[1:], strict=True)
        )
        low = builder.or_(at, builder.shl(leading, INT32(16)))
        high = builder.or_(stride, INT32(SWIZZLE_128))
        return builder.or_(builder.zext(low, INT64), builder.shl(builder.zext(high, INT64), INT64(32)))

    return types.uint64(shared, address, leading, stride), generate


def make_product(n: int, steps: tuple[int, ...], transposed: bool, add: bool) -> Any:
    """Make the function that issues D += A B, or D = A B, as one group of len(steps) products of depth 16.

    function(d, a, descriptor): `d` is a local array of n // 2 float32, `a` one of 4·len(steps) uint32. Operand B of
    product i begins steps[i] bytes after the place in `descriptor`. Without `add`, D is overwritten.
    """
    n_d, n_a = n // 2, 4 * len(steps)
    d = ",".join(f"${i}" for i in range(n_d))
    lines = [
        "{ .reg .pred p; .reg .pred f; .reg .b64 b; setp.ne.b32 p,1,0; setp.ne.b32 f,0,0; wgmma.fence.sync.aligned;"
    ]
    for i, step in enumerate(steps):
        a = ",".join(f"${n_d + 4 * i + j}" for j in range(4))
        lines.append(
            f"add.s64 b,${n_d + n_a},{step // 16}; wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 "
            f"{{{d}}},{{{a}}},b,{'p' if add or i else 'f'},1,1,{int(transposed)};"
        )
    text = " ".join([*lines, "wgmma.commit_group.sync.aligned; }"])
    tied = [str(i) for i in range(n_d)] if add else []
    constraints = ",".join([*["=f" if add else "=&f"] * n_d, *["r"] * n_a, "l", *tied, "~{memory}"])

    @intrinsic
    def product(typing, d, a, descriptor):
        def generate(context, builder, signature, arguments):
            to = _places(context, builder, signature.args[0], arguments[0], n_d)
            pairs = [builder.load(p) for p in _places(context, builder, signature.args[1], arguments[1], n_a)]
            old = [builder.load(p) for p in to] if add else []
            result = ir.LiteralStructType([FLOAT] * n_d)
            struct = _assembly(builder, result, [*pairs, arguments[2], *old], text, constraints, effect=True)
            for i, place in enumerate(to):
                builder.store(builder.extract_value(struct, i), place)
            return context.get_dummy_value()

        return types.void(d, a, types.uint64), generate

    return product


def make_wait(groups: int, n_d: int, n_a: int) -> Any:
    """Make the function that waits until at most `groups` groups of products are still under way.

    function(d, a): the `n_d` results and the `n_a` operands of the group that has then ended. Both pass through the
    instruction, so that the compiler cannot read or write them before it; see also :func:`renew`.
    """
    n = n_d + n_a
    constraints = ",".join(["=f"] * n_d + ["=r"] * n_a + [str(i) for i in range(n)] + ["~{memory}"])

    @intrinsic
    def wait(typing, d, a):
        def generate(context, builder, signature, arguments):
            places = _places(context, builder, signature.args[0], arguments[0], n_d)
            places += _places(context, builder, signature.args[1], arguments[1], n_a)
            result = ir.LiteralStructType([FLOAT] * n_d + [INT32] * n_a)
            text = f"wgmma.wait_group.sync.aligned {groups};"
            struct = _assembly(builder, result, [builder.load(p) for p in places], text, constraints, effect=True)
            for i, place in enumerate(places):
                builder.store(builder.extract_value(struct, i), place)
            return context.get_dummy_value()

        return types.void(d, a), generate

    return wait


@intrinsic
def renew(typing, old, fresh, nothing):
    """`fresh`, for an operand A whose register holds `old`; `nothing` is a 0 that the compiler cannot know.

    A register that a product reads must keep its value until the wait. If new operands are computed before the wait
    and copied after it, the assembler leaves the copy out: it computes them in the registers that the product is
    still reading. Here the new value depends on the old one, which therefore has to be there after the wait.
    """

    def generate(context, builder, signature, arguments):
        old, fresh, nothing = arguments
        return builder.xor(fresh, builder.and_(old, nothing))

    return types.uint32(types.uint32, types.uint32, types.uint32), generate


def _places(context: Any, builder: Any, kind: Any, array: Any, n: int) -> list[Any]:
    data = context.make_array(kind)(context, builder, array).data
    return [builder.gep(data, [INT32(i)]) for i in range(n)]


# ---- shared memory


@intrinsic
def show(typing, shared):
    """Make what this thread has written to `shared`, also by copies that have arrived, visible to products.

    Each thread that has written calls it before the barrier after which the products are issued.
    """

    def generate(context, builder, signature, arguments):
        _assembly(builder, ir.VoidType(), [], "fence.proxy.async.shared::cta;", "~{memory}", effect=True)
        return context.get_dummy_value()

    return types.void(shared), generate
