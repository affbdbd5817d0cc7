"""The compiled PTX of every engine kernel, executed by ``ptx_machine`` on small arrays and compared with float64.

No GPU is needed. The kernels are those that the calls below launch, so a new kernel of the engine joins by itself. The
second half changes the PTX, or executes PTX written here, to show that errors are found.
"""

import re

import numpy as np
import pytest

from gta_cuda import resources

REASON = resources.why_not()
if REASON is not None:
    pytest.skip(f"the kernels cannot be compiled here: {REASON}", allow_module_level=True)

from gta_cuda import engine, launch, pack  # noqa: E402
from gta_cuda.catalog import engine_kernels  # noqa: E402
from gta_cuda.first_run.cases import Case, check, make  # noqa: E402
from gta_ref.core import Mask  # noqa: E402
from tests.gta_cuda.ptx_machine import Device  # noqa: E402
from tests.gta_cuda.ptx_memory import Fault  # noqa: E402
from tests.gta_cuda.ptx_parse import Program, Unknown  # noqa: E402

# with the backward, if there are several queries
CASES = {
    # GTA-1B's widths; three tiles of keys, so that a buffer is used again, and rows of queries that do not exist
    "several queries": Case(1, 2, 1, 1, 20, 135, 64, 128, Mask(k_start=3)),
    # rows that are not multiples of 16 bytes; rows that see nothing, and a sequence without keys
    "odd widths": Case(3, 2, 2, 1, 20, 40, 33, 17, Mask(q_start=[20, -4, 9], k_stop=[38, 3, 0])),
    "decode": Case(1, 5, 1, 1, 1, 40, 64, 128, Mask(k_start=3)),
    "decode, odd widths": Case(2, 3, 1, 1, 1, 40, 33, 17, Mask(k_stop=[38, 0])),
    "decode, split": Case(1, 5, 1, 1, 1, 600, 64, 128, Mask(k_start=3)),
    "decode, split, odd widths": Case(1, 3, 1, 1, 1, 600, 33, 17),
}
DTYPES = ("float32", "bfloat16")


def backward(q, k, v, z, lse, dz, dlse, mask, scale):
    return engine.run_backward(dz, engine.State(q, k, v, z, lse, mask, scale, False), dlse)


def compute(name, dtype, change=lambda kernel, ptx: ptx, with_backward=True):
    """What ``first_run.cases.check`` says about a case of the engine on the machine."""
    case = CASES[name]
    with Device(change).running(), np.errstate(invalid="ignore"):  # a row that sees nothing has the lse −∞
        return check(case, dtype, engine.run, backward if with_backward and case.n_queries > 1 else None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_against_float64(name, dtype):
    found = compute(name, dtype)
    assert found["ok"], found


def test_every_kernel_is_executed():
    with pack.noted() as kernels, np.errstate(all="ignore"):
        for case in CASES.values():
            for dtype in DTYPES:
                q, k, v = make(case, dtype, np.random.default_rng(0))
                z, lse = engine.run(q, k, v, case.mask, 0.1)
                if case.n_queries > 1:
                    backward(q, k, v, z, lse, z, None, case.mask, 0.1)
    expected = [*engine_kernels(), *engine_kernels(33, 17, wide=False)]
    executed, expected = ({(kernel.name, "-wide" in kernel.key) for kernel in x} for x in (kernels.values(), expected))
    assert executed >= expected


FORWARD, IN_FLOAT32 = ("several queries", "bfloat16"), ("several queries", "float32")
MMA = r"(mma\.sync\.\S+ \{[^}]*\}),"
# what a wrong kernel, or a wrong inline PTX, would contain: case, dtype, pattern → replacement
WRONG = {
    "the halves of a pair": (*FORWARD, r"(cvt\.rn\.bf16x2\.f32 %\w+),(%\w+),(%\w+);", r"\1,\3,\2;"),
    "b0 and b1": (*FORWARD, rf"{MMA}(\{{[^}}]*\}}),\{{(%\w+),(%\w+)\}}", r"\1,\2,{\4,\3}"),
    "a1 and a2": (*FORWARD, rf"{MMA}\{{(%\w+),(%\w+),(%\w+),(%\w+)\}}", r"\1,{\2,\4,\3,\5}"),
    "no transposition of V": (*FORWARD, r"(ldmatrix\S*)\.trans", r"\1"),
    "matrices in another order": (*FORWARD, r"(ldmatrix\S* \{%\w+),(%\w+),(%\w+)", r"\1,\3,\2"),
    "a copy that is not waited for": (*FORWARD, r"cp\.async\.wait_group\s+\d;", ""),
    "a wait that is too weak": (*FORWARD, r"cp\.async\.wait_group\s+0;", "cp.async.wait_group 1;"),
    "no zeros after the last key": (*FORWARD, r"(cp\.async\.cg\S* \[\S+\],\[\S+\],16),%\w+;", r"\1;"),
    "no barriers": (*FORWARD, r"bar\.sync\s+0;", ""),
    "no barriers of groups of warps": (*FORWARD, r"bar\.sync\s+%r\d+,\s*%?\w+;", ""),
    "another group's barrier": (*FORWARD, r"bar\.sync\s+%r\d+,", "bar.sync 1,"),
    "another lane": (*FORWARD, r"(shfl\.sync)\.bfly", r"\1.down"),
    "the operands of fma": (*IN_FLOAT32, r"(fma\.rn\.f32\s+%\w+), (%\w+), (%\w+), (%\w+);", r"\1, \2, \4, \3;"),
    "the elements of a wide load": (*IN_FLOAT32, r"(ld\.shared\.v4\.f32\s+)\{(%\w+), (%\w+),", r"\1{\3, \2,"),
    "no barriers in float32": (*IN_FLOAT32, r"bar\.sync\s+0;", ""),
    "no transposition of weights": ("decode", "bfloat16", r"movmatrix\S*", "mov.b32"),
    "no barriers of a warp": ("decode, split", "bfloat16", r"bar\.warp\.sync\s+-1;", ""),
    "a store that is too far": ("decode", "float32", r"(st\.global\.f32\s+\[%\w+)(?:\+0)?\]", r"\1+16384]"),
}


@pytest.mark.parametrize("error", WRONG)
def test_a_wrong_kernel_is_found(error):
    name, dtype, pattern, replacement = WRONG[error]
    changed = []

    def change(kernel, ptx):
        found, count = re.subn(pattern, replacement, ptx)
        changed.append(count)
        return found

    try:
        found = compute(name, dtype, change, with_backward=False)
    except Fault as fault:
        print(fault)
    else:
        assert not found["ok"], found
    assert sum(changed)


WRONG_WGMMA = {
    "no fence between the proxies": (r"fence\.proxy\.async\S*;", ""),
    "no fence of the registers": (r"wgmma\.fence\.sync\.aligned;", ""),
    "no wait": (r"wgmma\.wait_group\.sync\.aligned \d;", ""),
    "a wait that is too weak": (r"wgmma\.wait_group\.sync\.aligned 0;", "wgmma.wait_group.sync.aligned 1;"),
    "the other order of B": (r"(wgmma\.mma_async[^;]*), 1, *1, *0;|(wgmma\.mma_async[^;]*),1,1,0;", r"\1\2,1,1,1;"),
    "a1 and a2": (r"(wgmma\.mma_async\S*\s+\{[^}]*\}),\{(%\w+),(%\w+),(%\w+),", r"\1,{\2,\4,\3,"),
    "no barriers": (r"bar\.sync\s+0;", ""),
}


@pytest.mark.parametrize("error", [None, *WRONG_WGMMA])
def test_the_forward_with_wgmma(error):
    pattern, replacement = WRONG_WGMMA.get(error, ("", ""))
    case = Case(1, 2, 1, 1, 20, 330, 64, 128, Mask(k_start=3))  # more tiles of keys than there is place for
    device = Device(lambda kernel, ptx: re.sub(pattern, replacement, ptx) if error else ptx)
    try:
        with device.running():
            found = check(case, "bfloat16", launch.forward_wgmma)
    except Fault as fault:
        if error is None:
            raise
        print(fault)
    else:
        assert found["ok"] == (error is None), found
    assert set(device.kernels) == {"forward_wgmma"}


HEAD = """
.version 8.5
.target sm_90a
.address_size 64
.shared .align 1024 .b8 memory[8192];
.visible .entry kernel(.param .u64 source, .param .u64 result)
{
    .reg .pred %p<4>;
    .reg .f32 %f<200>;
    .reg .b32 %r<20>;
    .reg .b64 %rd<20>;
    mov.u32 %r1, %tid.x;
    mul.wide.s32 %rd1, %r1, 4;
    ld.param.u64 %rd2, [source];
    ld.param.u64 %rd3, [result];
    add.s64 %rd4, %rd2, %rd1;
    add.s64 %rd5, %rd3, %rd1;
    mov.u64 %rd6, memory;
    add.s64 %rd7, %rd6, %rd1;
    shl.b32 %r2, %r1, 4;
    cvt.u32.u64 %r3, %rd6;
"""
STORE = "st.global.u32 [%rd5], %r9;"


def execute(body, source=None, threads=64):
    """The result (threads,) uint32 of a kernel that is written here; its source is 64 numbers, or 4 per thread."""
    device = Device()
    source = np.arange(4 * threads, dtype=np.uint32) if source is None else source
    result = device.results.empty(threads, np.uint32)
    program = Program(f"{HEAD}{body}\nret;\n}}")
    device.execute(program, (1, 1, 1), threads, [device.pointer(source), device.pointer(result)])
    return result


def test_threads_that_part_meet_again():
    """A loop with another number of turns for each thread, branches within it, and a shuffle after it."""
    body = """
        mov.u32 %r9, 0; mov.u32 %r5, %r1;
        $turn: setp.eq.s32 %p0, %r5, 0;
        @%p0 bra $after;
        and.b32 %r6, %r5, 1; setp.eq.s32 %p1, %r6, 0;
        @%p1 bra $even;
        add.s32 %r9, %r9, %r5;
        bra.uni $next;
        $even: add.s32 %r9, %r9, 1000;
        $next: sub.s32 %r5, %r5, 1;
        bra.uni $turn;
        $after: shfl.sync.bfly.b32 %r9,%r9,1,0x1f,0xffffffff;
        @!%p1 add.s32 %r9, %r9, 7;
    """
    alone = [sum(i if i % 2 else 1000 for i in range(1, t + 1)) for t in range(64)]
    # %p1 says whether the last number was even; thread 0 has not set it
    with pytest.raises(Fault, match="the register %p1, which was not written"):
        execute(body + STORE)
    found = execute("setp.eq.s32 %p1, %r1, %r1;" + body + STORE)
    np.testing.assert_array_equal(found, [alone[t ^ 1] + 7 * (t > 0) for t in range(64)])


COPY = "cp.async.cg.shared.global [%r4],[%rd8],16; cp.async.commit_group;"
PLACES = "add.s32 %r4, %r3, %r2; mul.wide.s32 %rd9, %r1, 16; add.s64 %rd8, %rd2, %rd9;"
FAULTS = {
    "a register": ("add.s32 %r9, %r8, 1;", Fault, "the register %r8, which was not written"),
    "after the end": (
        "ld.global.u32 %r9, [%rd4+1024];",
        Fault,
        "reading global memory: an address that is not allowed",
    ),
    "an input": ("st.global.u32 [%rd4], %r1;", Fault, "writing global memory: an address that is not allowed"),
    "a wide load": ("ld.global.v2.u32 {%r8, %r9}, [%rd4];", Fault, "8 bytes at an address that is not a multiple of 8"),
    "beyond shared": ("ld.shared.u32 %r9, [%rd7+8192];", Fault, "reading shared memory: an address that is not"),
    "a race": ("st.shared.u32 [%rd7], %r1; ld.shared.u32 %r9, [%rd6];", Fault, "a race: .* is read, written by"),
    "two writers": ("st.shared.u32 [%rd6], %r1;", Fault, "a race: .* written in the same instruction"),
    "written while read": (
        "ld.shared.u32 %r9, [%rd6]; st.shared.u32 [%rd7], %r1;",
        Fault,
        "a race: .* is written, read by",
    ),
    "a barrier of some": (
        "setp.lt.s32 %p0, %r1, 32; @%p0 bra $x; bar.sync 0; $x:",
        Fault,
        "threads wait for each other: .*; 32 have ended",
    ),
    "two barriers": ("setp.lt.s32 %p0, %r1, 9; @%p0 bra $x; bar.sync 0; $x: bar.sync 0;", Fault, "wait for each other"),
    "half a warp": (
        "setp.lt.s32 %p0, %r1, 9; @%p0 bra $x; shfl.sync.bfly.b32 %r9,%r1,1,31,-1; $x:",
        Fault,
        "wait for each",
    ),
    "an early read": (f"{PLACES} {COPY} ld.shared.u32 %r9, [%r4];", Fault, "that an asynchronous copy has not reached"),
    "no wait at all": (f"{PLACES} {COPY}", Fault, "the kernel ends before an asynchronous copy has arrived"),
    "no such instruction": ("tanh.approx.f32 %f1, %f0;", Unknown, "the instruction tanh.approx.f32"),
    "an unknown modifier": ("add.sat.s32 %r9, %r1, %r1;", Unknown, "the instruction add.sat.s32"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name):
    body, kind, message = FAULTS[name]
    with pytest.raises(kind, match=message):
        execute(body)


def test_what_a_barrier_of_a_warp_orders():
    """Each thread writes, reads its neighbour's number, writes and reads again, with barriers of the warp between."""
    body = """
        xor.b32 %r4, %r1, 1; mul.wide.s32 %rd8, %r4, 4; add.s64 %rd8, %rd6, %rd8;
        st.shared.u32 [%rd7], %r1; bar.warp.sync -1; ld.shared.u32 %r8, [%rd8]; bar.warp.sync -1;
        st.shared.u32 [%rd7], %r8; bar.warp.sync -1; ld.shared.u32 %r9, [%rd8]; ld.shared.u32 %r8, [%rd7]; bar.warp.sync -1;
        st.shared.u32 [%rd8], %r8;
    """
    np.testing.assert_array_equal(execute(body + STORE), np.arange(64))
    with pytest.raises(Fault, match="a race"):
        execute(body.replace("bar.warp.sync -1;\n        st.shared.u32 [%rd8]", "st.shared.u32 [%rd8]"))


TRY = "{ .reg .pred q; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 q,[%r3],0; @q bra DONE; bra AGAIN; DONE: }"
ONE_WARP_TO_ANOTHER = {"mbarrier": (TRY, "mbarrier.arrive.shared::cta.b64 _,[%r3];")}
ONE_WARP_TO_ANOTHER["bar.arrive"] = ("bar.sync 1, 64;", "bar.arrive 1, 64;")


@pytest.mark.parametrize("how", ONE_WARP_TO_ANOTHER)
def test_one_warp_waits_for_another(how):
    wait, arrive = ONE_WARP_TO_ANOTHER[how]
    body = f"""
        setp.eq.s32 %p0, %r1, 0; @%p0 mbarrier.init.shared::cta.b64 [%r3], 32; bar.sync 0;
        mov.u32 %r9, 7; setp.ge.s32 %p1, %r1, 32; @%p1 bra $second;
        {wait} ld.shared.u32 %r9, [%rd7+1152]; bra.uni $end;
        $second: st.shared.u32 [%rd7+1024], %r1; {arrive}
        $end:
    """
    np.testing.assert_array_equal(execute(body + STORE), [*range(32, 64), *[7] * 32])
    with pytest.raises(Fault, match="threads wait for each other"):
        execute(body.replace(arrive, ""))
    with pytest.raises(Fault, match="a race"):
        execute(body.replace(wait, ""))


def test_shared_memory_holds_nan_at_first():
    assert np.isnan(execute("ld.shared.u32 %r9, [%rd7];" + STORE).view(np.float32)).all()


PRODUCT = ", ".join(f"%f{i}" for i in range(32))
WGMMA = {
    "b": f"{PLACES} ld.global.v4.u32 {{%r10, %r11, %r12, %r13}}, [%rd8]; st.shared.v4.u32 [%r4], {{%r10, %r11, %r12, %r13}};",
    "proxy": "fence.proxy.async.shared::cta;",
    "barrier": "bar.sync 0;",
    # A is 1 in row 0 and column 0 of every warp: thread 0 holds it in the lower half of a0
    "a": "and.b32 %r5, %r1, 31; setp.eq.s32 %p0, %r5, 0; selp.b32 %r14, 0x3F80, 0, %p0; mov.u32 %r15, 0;",
    "fence": "wgmma.fence.sync.aligned;",
    "start": "cvt.u64.u32 %rd10, %r3; shr.u64 %rd10, %rd10, 4; or.b64 %rd10, %rd10, 0x4000004000000000; setp.ne.s32 %p2, 0, 0; "
    f"wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{PRODUCT}}}, {{%r14,%r15,%r15,%r15}}, %rd10, %p2, 1, 1, 0; "
    "wgmma.commit_group.sync.aligned;",
    "wait": "wgmma.wait_group.sync.aligned 0;",
    "end": "mov.b32 %r9, %f0; add.s32 %r9, %r9, 0;" + STORE,
}


def wgmma(**changes):
    source = np.arange(1024, dtype=np.uint32) << 16 | 0x3F80
    return execute("".join({**WGMMA, **changes}.values()), source, 128)


def test_wgmma():
    """Row 0 of each warp is row 0 of B, whose element (0, n) is the first number of its column: all are 1 here."""
    found = wgmma().view(np.float32).reshape(4, 32)
    np.testing.assert_array_equal(found, np.broadcast_to(np.arange(32) < 4, (4, 32)))


@pytest.mark.parametrize(
    "without, message",
    {
        "proxy": "written without a fence.proxy.async",
        "barrier": "a race",
        "fence": "after the last wgmma.fence: %r14, %r15",
        "wait": "the register %r9, which was not written",
    }.items(),
)
def test_wgmma_needs(without, message):
    with pytest.raises(Fault, match=message):
        wgmma(**{without: ""})


def test_what_wgmma_reads_stays_as_it_is():
    with pytest.raises(Fault, match="shared memory was written while wgmma reads it"):
        wgmma(wait="bar.sync 0; st.shared.u32 [%rd7], %r1;" + WGMMA["wait"])
