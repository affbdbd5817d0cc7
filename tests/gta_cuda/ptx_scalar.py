"""The instructions of the PTX machine that each thread executes by itself, and shuffles.

An instruction is found by its whole name, with all of its modifiers: one that no pattern matches is Unknown.
"""

import re
from functools import cache

import numpy as np

from tests.gta_cuda.ptx_memory import SHARED_WINDOW, WARP
from tests.gta_cuda.ptx_parse import KINDS, Unknown

F32, U32, U64, PRED = (KINDS[x] for x in ("f32", "u32", "u64", "pred"))
INT, FLOAT, BITS = "[su](?:16|32|64)", "f(?:32|64)", "b(?:16|32|64)"
ANY, FTZ = f"{INT}|{FLOAT}|{BITS}", r"(?:ftz\.)?"


def fused(a, b, c):
    """a·b + c with one rounding: in float64, the product of two float32 is exact."""
    return (a.astype("f8") * b + c).astype(a.dtype)


def remainder(a, b):
    return np.fmod(a, np.where(b == 0, 1, b))  # with the sign of a


def shifted(function):
    """A shift; one by the width or more gives 0, or the sign in every bit."""

    def shift(a, by):
        width = 8 * a.itemsize
        found = function(a, np.minimum(by, width - 1).astype(a.dtype))
        return found if a.dtype.kind == "i" else np.where(by < width, found, a.dtype.type(0))

    return shift


left, right = shifted(np.left_shift), shifted(np.right_shift)


def lowest(count, like):
    """Ones in the lowest `count` bits, in the type of `like`."""
    return ~left(~(like & like.dtype.type(0)), count & 255)


def insert(a, b, at, count):
    """The lowest `count` bits of a in the place of those of b from bit `at` on."""
    field = left(lowest(count, b), at & 255)
    return left(a, at & 255) & field | b & ~field


def permute(a, b, selector):
    """Each digit of the selector chooses a byte of b, a, or with 8 added the byte's sign in every bit."""
    both, found = a.astype(U64) | b.astype(U64) << 32, 0
    for i in range(4):
        digit = (selector >> np.uint32(4 * i)).astype(U64) & 15
        byte = both >> (digit & 7) * 8 & 255
        found |= np.where(digit & 8, (byte >> 7) * 255, byte) << np.uint64(8 * i)
    return found.astype(U32)


# name → function of the operands, which all have the type at the end of the name; or the types of those that have not
ARITHMETIC = {
    rf"add\.(?:rn\.)?{FTZ}({INT}|{FLOAT})": np.add,
    rf"sub\.(?:rn\.)?{FTZ}({INT}|{FLOAT})": np.subtract,
    rf"mul\.lo\.({INT})": np.multiply,
    rf"mul\.(?:rn\.)?{FTZ}({FLOAT})": np.multiply,
    rf"mad\.lo\.({INT})": lambda a, b, c: a * b + c,
    rf"fma\.rn\.{FTZ}(f32)": fused,
    rf"div\.({INT})": lambda a, b: (a - remainder(a, b)) // np.where(b == 0, 1, b),
    rf"rem\.({INT})": remainder,
    rf"div\.(?:rn|full)\.{FTZ}(f32)": np.divide,
    rf"neg\.{FTZ}({INT}|{FLOAT})": np.negative,
    rf"abs\.{FTZ}({INT}|{FLOAT})": np.abs,
    rf"min\.({INT})": np.minimum,
    rf"max\.({INT})": np.maximum,
    rf"min\.{FTZ}({FLOAT})": np.fmin,  # the other operand, if one is NaN
    rf"max\.{FTZ}({FLOAT})": np.fmax,
    rf"and\.({BITS}|pred)": np.bitwise_and,
    rf"or\.({BITS}|pred)": np.bitwise_or,
    rf"xor\.({BITS}|pred)": np.bitwise_xor,
    rf"not\.({BITS}|pred)": np.invert,
    rf"ex2\.approx\.{FTZ}(f32)": np.exp2,
    rf"lg2\.approx\.{FTZ}(f32)": np.log2,
    rf"rcp\.(?:approx|rn)\.{FTZ}(f32)": np.reciprocal,
    rf"sqrt\.(?:approx|rn)\.{FTZ}(f32)": np.sqrt,
    rf"shl\.({BITS})": (left, {1: U32}),
    rf"shr\.({BITS}|{INT})": (right, {1: U32}),
    r"bfe\.(u32|u64)": (lambda a, at, count: right(a, at & 255) & lowest(count, a), {1: U32, 2: U32}),
    r"bfi\.(b32|b64)": (insert, {2: U32, 3: U32}),
    r"prmt\.(b32)": permute,
}
ORDERED = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
UNSIGNED = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}


def compared(name, a, b):
    """The result of a comparison: with NaN, false for an ordered one, true for an unordered one (such as ltu)."""
    if a.dtype.kind != "f":
        return getattr(np, ORDERED[UNSIGNED.get(name, name)])(a, b)
    nan = np.isnan(a) | np.isnan(b)
    if name in ("num", "nan"):
        return nan == (name == "nan")
    return getattr(np, ORDERED[name])(a, b) & ~nan if name in ORDERED else getattr(np, ORDERED[name[:-1]])(a, b) | nan


def flushed(x):
    """Zeros in place of subnormal numbers, with their sign."""
    return np.where(np.abs(x) < np.finfo(x.dtype).tiny, np.copysign(x.dtype.type(0), x), x)


def rounded_bf16(x):
    """float32 → the bits of the nearest bfloat16, ties to even, as uint32; NaN becomes 0x7FFF."""
    bits = x.view(U32)
    return np.where(np.isnan(x), np.uint32(0x7FFF), (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16)


INSTRUCTIONS: list = []


def does(pattern):
    """Let a function execute the instructions whose whole name the pattern matches; it receives the match's groups."""

    def note(function):
        INSTRUCTIONS.append((re.compile(pattern), function))
        return function

    return note


@cache
def executor(name):
    """The function of (block, operands) that executes an instruction."""
    for pattern, entry in ARITHMETIC.items():
        if found := re.fullmatch(pattern, name):
            function, others = entry if isinstance(entry, tuple) else (entry, {})
            return _calculation(function, others, KINDS[found[1]], ".ftz." in name)
    for compiled, function in INSTRUCTIONS:
        if found := compiled.fullmatch(name):
            groups = found.groups()
            return lambda block, operands: function(block, operands, *groups)
    raise Unknown(f"the instruction {name}")


def _calculation(function, others, kind, flush):
    def execute(block, operands):
        values = [block.read(x, others.get(i, kind)) for i, x in enumerate(operands[1:])]
        if flush:
            values = [flushed(x) for x in values]
        result = function(*values)
        block.write(operands[0], flushed(result) if flush else result)

    return execute


@does(rf"(?:mul|mad)\.wide\.({INT})")
def wide(block, operands, kind):
    double = KINDS[f"{kind[0]}{2 * int(kind[1:])}"]
    a, b = (block.read(x, KINDS[kind]).astype(double) for x in operands[1:3])
    block.write(operands[0], a * b + (block.read(operands[3], double) if len(operands) > 3 else double.type(0)))


@does(rf"mul\.hi\.({INT})")
def high(block, operands, kind):
    a, b = (block.full(block.read(x, KINDS[kind])).astype(object) for x in operands[1:])
    block.write(operands[0], (a * b >> int(kind[1:])).astype(KINDS[kind]))


@does(rf"setp\.(\w+)(?:\.(and|or|xor))?\.{FTZ}({ANY})")
def setp(block, operands, comparison, combine, kind):
    found = compared(comparison, *(block.read(x, KINDS[kind]) for x in operands[1:3]))
    targets = operands[0] if isinstance(operands[0], tuple) else (operands[0],)
    for target, value in zip(targets, (found, ~found), strict=False):
        if combine:
            value = getattr(np, f"bitwise_{combine}")(value, block.read(operands[3], PRED))
        block.write(target, value)


@does(rf"selp\.({ANY})")
def selp(block, operands, kind):
    a, b = (block.read(x, KINDS[kind]) for x in operands[1:3])
    block.write(operands[0], np.where(block.read(operands[3], PRED), a, b))


@does(rf"mov\.({ANY}|pred)")
def mov(block, operands, kind):
    to, source = operands
    kind = KINDS[kind]
    if isinstance(source, tuple):  # packed: the first is the lowest
        parts = [block.full(block.read(x, np.dtype(f"u{kind.itemsize // len(source)}"))) for x in source]
        block.write(to, np.stack(parts, axis=-1).view(kind)[..., 0])
    elif isinstance(to, tuple):
        parts = block.full(block.read(source, kind))[:, None].view(f"u{kind.itemsize // len(to)}")
        for i, x in enumerate(to):
            block.write(x, parts[:, i].copy())
    elif isinstance(source, str):
        block.copy(to, source)
    else:
        block.write(to, block.read(source, kind))


@does(r"cvt\.(?:(rn|rzi|rni|rmi|rpi)\.)?(?:ftz\.)?([suf]\d+)\.([suf]\d+)")
def cvt(block, operands, how, to, of):
    x = block.read(operands[1], KINDS[of])
    if to[0] != "f" and of[0] == "f":
        x = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[how](x)
    block.write(operands[0], x.astype(KINDS[to]))


@does(r"cvt\.rn\.bf16(x2)?\.f32")
def cvt_bf16(block, operands, two):
    """Of two numbers, the first goes to the upper half."""
    first, *second = (rounded_bf16(block.read(x, F32)) for x in operands[1:])
    block.write(operands[0], first << 16 | second[0] if two else first.astype(np.uint16))


@does(r"cvta(\.to)?\.(global|shared|local)\.u64")
def cvta(block, operands, to, space):
    """Generic addresses are those of their space, except for shared memory, which has a window of them."""
    x = block.read(operands[1], U64)
    if space == "shared":
        x = x - np.uint64(SHARED_WINDOW) if to else x + np.uint64(SHARED_WINDOW)
    block.write(operands[0], x)


SPACE = r"(?:\.(param|global|shared|local))?(?:::cta)?"
HINTS = r"(?:\.(?:nc|weak|volatile|relaxed|acquire|release|gpu|cta|sys|L\w+::\w+))*"


@does(rf"ld(?:\.volatile)?{SPACE}{HINTS}(?:\.v([24]))?\.([subf]\d+)")
def load(block, operands, space, count, kind):
    to, kind = operands[0] if count else operands[:1], KINDS[kind]
    if space == "param":
        at = operands[1].base.at + operands[1].offset
        block.write(to[0], block.arguments[at : at + kind.itemsize].view(kind)[0])
        return
    memory, threads, addresses = block.access(operands[1], space)
    for x, value in zip(to, memory.load(threads, addresses, kind, len(to)), strict=True):
        block.write(x, block.spread(value))


@does(rf"st(?:\.volatile)?{SPACE}{HINTS}(?:\.v([24]))?\.([subf]\d+)")
def store(block, operands, space, count, kind):
    source = operands[1] if count else operands[1:]
    memory, threads, addresses = block.access(operands[0], space)
    memory.store(threads, addresses, np.stack([block.some(block.read(x, KINDS[kind])) for x in source]))


@does(r"cp\.async\.(?:ca|cg)\.shared(?:::cta)?\.global(?:\.L2::\w+)?")
def cp_async(block, operands):
    _, threads, to = block.access(operands[0], "shared")
    _, _, source = block.access(operands[1], "global")
    size = operands[2].bits
    given = block.some(block.read(operands[3], U32)).astype(int) if len(operands) > 3 else np.full(len(to), size)
    block.copies.start(threads, to, source, size, given)


@does(r"cp\.async\.(commit_group|wait_group|wait_all)")
def cp_async_group(block, operands, what):
    threads = np.flatnonzero(block.active)
    if what == "commit_group":
        block.copies.closed[threads] += 1
    else:
        block.copies.wait(threads, operands[0].bits if operands else None)


@does(r"shfl\.sync\.(bfly|up|down|idx)\.b32")
def shfl(block, operands, mode):
    """In segments of a warp; a thread whose source is outside of its segment keeps its own value."""
    to, source, by, clamp, members = operands
    if members.bits & 0xFFFFFFFF != 0xFFFFFFFF:
        raise Unknown("a shuffle among some threads of a warp")
    thread = np.arange(block.threads)
    lane = thread % WARP
    by, clamp = (block.full(block.read(x, U32)).astype(int) for x in (by, clamp))
    segment, limit = clamp >> 8 & 31, clamp & 31
    least, most = lane & segment, lane & segment | limit & ~segment
    wanted = {"bfly": lane ^ by, "up": lane - by, "down": lane + by, "idx": least | by & ~segment}[mode]
    inside = wanted >= most if mode == "up" else wanted <= most
    value = block.full(block.read(source, U32))[thread - lane + np.where(inside, wanted, lane)]
    for x, one in zip(to if isinstance(to, tuple) else (to,), (value, inside), strict=False):
        block.write(x, one)
