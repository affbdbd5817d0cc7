"""A machine that executes the compiled PTX of a kernel with NumPy: a second pair of eyes without a GPU.

The simulator runs the Python source of a kernel, with Python versions of the instructions that Numba does not offer.
This machine runs what the compiler made of it, inline PTX included, as the PTX ISA describes the instructions.

A block is executed at once: a register is an array with one element per thread. Of the threads of a block that can go
on, those at the first instruction of the program go on, so that threads that took different branches meet again. An
instruction of a warp waits for all threads of the warp, a barrier for all threads of the block.

Reading a register that was never written is a Fault, except by ``mov``, because the compiler copies such values in
paths that do not use them.
"""

import re
import sys
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import product
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from tests.gta_cuda import ptx_matrix
from tests.gta_cuda.ptx_barrier import Barriers, Clocks
from tests.gta_cuda.ptx_memory import HEAP_BASE, SHARED_WINDOW, WARP, Copies, Fault, Heap, Memory, Shared
from tests.gta_cuda.ptx_parse import KINDS, LOCAL_BASE, SHARED_BASE, Address, Instruction, Not, Number, Program, Unknown
from tests.gta_cuda.ptx_scalar import executor

END = 1 << 30  # where a thread is that has ended
U32, U64, I64, PRED = (KINDS[x] for x in ("u32", "u64", "s64", "pred"))
CONTROL = {"bra": "branch", "bra.uni": "branch", "ret": "end", "exit": "end"}
CONTROL |= {"bar.sync": "barrier", "barrier.sync": "barrier", "barrier.sync.aligned": "barrier"}
# instructions of a warp, or of four
TOGETHER = re.compile(r"(?:bar\.warp\.sync|bar\.arrive|shfl|mma|ldmatrix|movmatrix|setmaxnreg)\b.*|(wgmma)\b.*")


class Step(NamedTuple):
    """An instruction, prepared: a kind of `control` or a function, and how many threads execute it together."""

    control: str | None
    execute: Any
    together: int
    one: Instruction


def prepared(one):
    control = "wait" if one.name.startswith("mbarrier.try_wait.") else CONTROL.get(one.name)
    found = TOGETHER.fullmatch(one.name)
    together = 1 if found is None else 4 * WARP if found[1] else WARP
    if one.guard is not None and (together > 1 or control in ("barrier", "end", "wait")):
        raise Unknown(f"a condition on an instruction of several threads: {one.text}")
    return Step(control, None if one.name in CONTROL else executor(one.name), together, one)


class Block:
    """One block of threads while it is executed."""

    def __init__(self, program, steps, heap, arguments, threads, grid, index):
        self.program, self.steps, self.arguments, self.threads = program, steps, arguments, threads
        self.clocks, self.barriers = Clocks(threads // WARP), Barriers(self)
        self.heap, self.shared = heap, Shared(program.shared - SHARED_BASE, SHARED_BASE, self.clocks)
        self.local = Memory(program.local * threads, 0)
        self.copies = Copies(heap, self.shared, threads)
        self.values, self.unwritten = {}, {}  # of registers; which threads have not written one, if not all have
        self.at = np.zeros(threads, np.int64)
        self.active, self.all = np.ones(threads, bool), True  # the threads that execute an instruction; whether all do
        self.products = ptx_matrix.Products(self)
        thread = np.arange(threads)
        self.special = {"%laneid": thread % WARP, "%warpid": thread // WARP, "%tid.x": thread}
        same = {"%dynamic_smem_size": program.dynamic, "%tid.y": 0, "%tid.z": 0}
        for i, axis in enumerate("xyz"):
            same |= {f"%ntid.{axis}": (threads, 1, 1)[i], f"%nctaid.{axis}": grid[i], f"%ctaid.{axis}": index[i]}
        self.special |= {name: np.full(threads, n) for name, n in same.items()}

    # ---- registers

    def read(self, x, kind):
        """The values of an operand: an array with an element per thread, or one number."""
        if type(x) is str:
            value, missing = self.values.get(x), self.unwritten.get(x)
            if value is None or (missing is not None and (missing & self.active).any()):
                raise Fault(f"reading the register {x}, which was not written")
            if value.dtype is kind:
                return value
            if value.itemsize < kind.itemsize:
                raise Unknown(f"reading the register {x} of {value.itemsize} bytes as {kind}")
            return value.view(kind) if value.itemsize == kind.itemsize else value.astype(f"u{kind.itemsize}").view(kind)
        if isinstance(x, Number):
            return x.of(kind)
        if isinstance(x, Not):
            return ~self.read(x.register, kind)
        name = getattr(x, "name", None)
        if name not in self.special:
            raise Unknown(f"the operand {x}")
        return self.special[name].astype(kind)

    def write(self, name, x):
        """Set a register for the active threads."""
        if name is None:
            return
        kind = self.program.registers.get(name) if isinstance(name, str) else None
        if kind is None:
            raise Unknown(f"writing to {name}")
        if x.dtype is not kind:
            if x.itemsize != kind.itemsize:  # a smaller number is extended as its type says
                x = x.astype(f"{'i' if x.dtype.kind == 'i' else 'u'}{kind.itemsize}")
            x = x.view(kind)
        self._set(name, x, np.False_)
        if self.products.used:
            self.products.written(name)

    def copy(self, to, source):
        """Set a register to another's values, which need not have been written."""
        if source in self.values:
            self._set(to, self.values[source].view(self.program.registers[to]), self.unwritten.get(source, np.False_))
        if self.products.used:
            self.products.copied(to, source)

    def _set(self, name, x, missing):
        if self.all and missing is np.False_:
            self.values[name] = self.full(x)
            self.unwritten.pop(name, None)
            return
        old = self.values.get(name)
        lacks = np.where(self.active, missing, self.unwritten.get(name, old is None))
        self.values[name] = np.where(self.active, x, x if old is None else old)
        self.unwritten[name] = lacks
        if not lacks.any():
            del self.unwritten[name]

    def full(self, x):
        """An array with an element per thread."""
        return x if np.ndim(x) else np.full(self.threads, x)

    def some(self, x):
        """The elements of the active threads."""
        return self.full(x) if self.all else self.full(x)[self.active]

    def spread(self, x):
        """The elements of the active threads → an array with an element per thread."""
        if self.all:
            return x
        found = np.zeros(self.threads, x.dtype)
        found[self.active] = x
        return found

    def access(self, operand, space):
        """The memory that an instruction accesses, the threads that do, and their addresses."""
        base = operand.base if isinstance(operand, Address) else None
        if not isinstance(base, str | Number):
            raise Unknown(f"the address {operand}")
        kind = U32 if isinstance(base, str) and self.program.registers[base].itemsize == 4 else U64
        addresses = self.some(self.read(base, kind)).astype(I64) + operand.offset
        threads = np.flatnonzero(self.active)
        if space is None:  # a generic address
            least = addresses.min()
            space = "global" if least >= HEAP_BASE else "shared" if least >= SHARED_WINDOW else "local"
            addresses = addresses - SHARED_WINDOW if space == "shared" else addresses
        if space == "local":
            if ((addresses < LOCAL_BASE) | (addresses >= self.program.local)).any():
                raise Fault("an address outside of local memory")
            addresses = addresses + threads * self.program.local
        return {"global": self.heap, "shared": self.shared, "local": self.local}[space], threads, addresses

    # ---- control

    def run(self):
        with np.errstate(all="ignore"):
            while (self.at < END).any():
                self._go_on(*self._choose())
        if self.copies.pending:
            raise Fault("the kernel ends before an asynchronous copy has arrived")
        self.products.finish()

    def _choose(self):
        """The first instruction that some threads can execute, and these threads."""
        places = np.unique(self.at[self.at < END])
        masks, steps = [self.at == at for at in places], [self.steps[at] for at in places]
        for at, mask, step in zip(places, masks, steps, strict=True):
            if step.together > 1:
                mask = np.repeat(mask.reshape(-1, step.together).all(axis=1), step.together)
            self.active, self.all = mask, bool(mask.all())
            if step.control == "wait":
                mask = self.barriers.ready(step.one.operands)
            if mask.any() and step.control != "barrier":
                return int(at), mask
        at_barriers = [i for i, step in enumerate(steps) if step.control == "barrier"]
        if self.barriers.complete([masks[i] for i in at_barriers], [steps[i] for i in at_barriers]):
            return self._choose()
        waiting = [f"{mask.sum()} at line {x.one.line}: {x.one.text}" for mask, x in zip(masks, steps, strict=True)]
        ended = (self.at == END).sum()
        raise Fault(f"threads wait for each other: {'; '.join(waiting)}; {ended} have ended")

    def _go_on(self, at, mask):
        """Let the threads of `mask` execute instructions until they divide, meet others or have to wait."""
        others, first = set(self.at[~mask].tolist()), True
        self.active, self.all = mask, bool(mask.all())
        while True:
            control, execute, together, one = self.steps[at]
            if not first and (at in others or control in ("barrier", "wait") or (together > 1 and not self.all)):
                break
            first = False
            if control == "end":
                at = END
                break
            try:
                taken = mask if one.guard is None else mask & self.read(one.guard, PRED)
                if control == "branch":
                    self.at[mask] = at + 1
                    self.at[taken] = one.operands[0]
                    at = int(self.at[0])
                    if not self.all or (self.at != at).any():
                        return  # other threads may come first now
                    continue
                if taken is not mask:
                    self.active, self.all = taken, bool(taken.all())
                if taken is mask or taken.any():
                    execute(self, one.operands)
                self.active, self.all = mask, bool(mask.all())
            except (Fault, Unknown) as error:
                raise type(error)(f"{error}\n  line {one.line}: {one.text[:200]}") from error
            at += 1
        self.at[mask] = at


class Results:
    """NumPy, with arrays whose bits are all set in place of empty ones, and a list of these."""

    def __init__(self):
        self.arrays = []

    def __getattr__(self, name):
        return getattr(np, name)

    def empty(self, shape, dtype=float):
        x = np.empty(shape, dtype)
        x.reshape(-1).view(np.uint8)[...] = 0xFF
        self.arrays.append(x)
        return x

    def empty_like(self, x):
        return self.empty(x.shape, x.dtype)


class Device:
    """A stand-in for a GPU on which the engine runs: launches are executed by the machine, on NumPy arrays.

    `change` receives a kernel and its PTX, and returns the PTX to execute. `kernels`: name → kernel that was launched.
    """

    capability = (9, 0, "a")

    def __init__(self, change=lambda kernel, ptx: ptx):
        self.change, self.kernels, self.results = change, {}, Results()
        self.heap, self.addresses = Heap(), {}

    @contextmanager
    def running(self):
        """Within the block, the engine's launches are executed here, and arrays of results hold NaN at first."""
        from gta_cuda import arrays, engine, launch  # noqa: F401  (they import what is patched below)
        from gta_cuda.kernels import Kernel

        patches = [(Kernel, "launch", lambda kernel, *arguments: self.launch(kernel, *arguments))]
        patches += [(arrays, "pointer", self.pointer), (arrays, "multiprocessors", lambda like: 132)]
        for name, module in list(sys.modules.items()):
            if name.startswith("gta_cuda.") and hasattr(module, "array_module"):
                patches.append((module, "array_module", lambda *arrays: self.results))
        with ExitStack() as stack:
            for place, name, function in patches:
                stack.enter_context(mock.patch.object(place, name, function))
            yield self

    def pointer(self, x):
        """The address of an array in the machine's memory. Only results may be written."""
        key = x.__array_interface__["data"][0], x.shape, x.strides
        if key not in self.addresses:
            self.addresses[key] = self.heap.place(x, any(np.may_share_memory(x, y) for y in self.results.arrays))
        return self.addresses[key]

    def launch(self, kernel, grid, stream, *arguments):
        """Execute all blocks of a launch, one after the other."""
        self.kernels[kernel.name] = kernel
        ptx = self.change(kernel, compiled(kernel, self.capability))
        flat = [x for one in arguments for x in (one if isinstance(one, tuple) else (one,))]
        self.execute(Program(ptx, kernel.shared), grid, kernel.threads, flat, kernel.name)

    def execute(self, program, grid, threads, arguments, name="a kernel"):
        """Execute all blocks of a parsed kernel."""
        if threads % WARP:
            raise Unknown(f"a block of {threads} threads, which are not whole warps")
        steps = [prepared(one) for one in program.code]
        packed = np.zeros(8 * len(program.parameters), np.uint8)
        for x, parameter in zip(arguments, program.parameters, strict=True):
            bits = np.array([x]).astype(parameter.kind).view(np.uint8)
            packed[parameter.at : parameter.at + len(bits)] = bits
        self.heap.copy_in()
        for z, y, x in product(*map(range, grid[::-1])):
            try:
                Block(program, steps, self.heap, packed, threads, grid, (x, y, z)).run()
            except (Fault, Unknown) as error:
                raise type(error)(f"{name}, block {(x, y, z)}: {error}") from error
        self.heap.copy_out()


@cache
def compiled(kernel, capability):
    """The PTX of a kernel."""
    from gta_cuda import resources

    return resources.compile_ptx(kernel, capability)
