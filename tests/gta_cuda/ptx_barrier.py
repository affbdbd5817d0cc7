"""The barriers of the PTX machine, and what they order.

Each warp has a clock, which advances when the warp passes a barrier or arrives at one, and a row of what it has seen:
an access by warp v at time c comes before what warp w does now if ``seen[w, v]`` is at least c. With v = w, it says the
same of the threads of one warp. A barrier of the block or of some of its warps, ``bar.arrive`` and ``mbarrier`` carry
these rows from warp to warp.
"""

from dataclasses import dataclass

import numpy as np

from tests.gta_cuda.ptx_memory import WARP, Fault
from tests.gta_cuda.ptx_parse import KINDS, Unknown
from tests.gta_cuda.ptx_scalar import does

U32 = KINDS["u32"]


class Clocks:
    """What each warp of a block has seen of the others."""

    def __init__(self, warps):
        self.now = np.ones(warps, np.int64)
        self.seen = np.zeros((warps, warps), np.int64)

    def meet(self, warps, known=0):
        """These warps wait for each other, and for those that `known` comes from."""
        rows = np.maximum(self.seen[warps].max(axis=0), known)
        rows[warps] = self.now[warps]
        self.seen[warps] = rows
        self.now[warps] += 1

    def leave(self, warps):
        """What others may know who see that these warps have arrived."""
        row = self.seen[warps].max(axis=0)
        row[warps] = self.now[warps]
        self.now[warps] += 1
        return row


@dataclass
class Mbarrier:
    """An ``mbarrier`` object: arrivals that its phase still waits for, and what those who waited for it know."""

    count: int
    left: int
    phase: int
    known: np.ndarray  # since the last phase ended
    arriving: np.ndarray


def warps_of(threads):
    """The warps of these threads."""
    return np.unique(threads // WARP)


class Barriers:
    """The barriers of a block: arrivals at those with a number, and ``mbarrier`` objects in shared memory."""

    def __init__(self, block):
        self.block, self.arrived, self.objects = block, {}, {}  # number → (threads, what they know); address → Mbarrier

    def numbers(self, operand):
        """Each value of an operand, with the active threads that have it."""
        values, threads = self.block.some(self.block.read(operand, U32)), np.flatnonzero(self.block.active)
        return [(int(x), threads[values == x]) for x in np.unique(values)]

    def at(self, operand):
        """Each ``mbarrier`` object at the address of an operand, with the active threads that have it."""
        shared, threads, addresses = self.block.access(operand, "shared")
        if not set(addresses) <= set(self.objects):
            raise Fault("an mbarrier that was not initialised")
        units, users = shared.units(threads, addresses, 8)
        shared.compare_with_writes(units, users, users // WARP, "used")  # with the initialisation
        return [(self.objects[x], threads[addresses == x]) for x in np.unique(addresses)]

    def arrive(self, number, threads):
        before, known = self.arrived.get(number, (0, 0))
        known = np.maximum(known, self.block.clocks.leave(warps_of(threads)))
        self.arrived[number] = before + len(threads), known

    def complete(self, masks, steps):
        """Let the threads at one barrier go on, if all that it waits for are there; return whether some did.

        masks and steps: the threads at an instruction that waits at a barrier, and the instruction, for each.
        """
        block, waiting = self.block, {}
        for mask, step in zip(masks, steps, strict=True):
            block.active, block.all = mask, bool(mask.all())
            number, *count = step.one.operands
            (count, _), *_ = self.numbers(count[0]) if count else [(block.threads, None)]
            for x, threads in self.numbers(number):
                waiting.setdefault((x, count), np.zeros(block.threads, bool))[threads] = True
        for (number, count), mask in waiting.items():
            warps = mask.reshape(-1, WARP)
            arrived, known = self.arrived.get(number, (0, 0))
            if arrived + mask.sum() == count and (warps.all(axis=1) == warps.any(axis=1)).all():
                self.arrived.pop(number, None)
                block.clocks.meet(np.flatnonzero(warps.any(axis=1)), known)
                block.at[mask] += 1
                return True
        return False

    def ready(self, operands):
        """The active threads for which the phase has ended that they wait for."""
        found = np.zeros(self.block.threads, bool)
        parity = self.block.full(self.block.read(operands[2], U32))
        for one, threads in self.at(operands[1]):
            found[threads] = (one.phase & 1) != parity[threads]
        return found


@does(r"bar\.warp\.sync")
def warp_barrier(block, operands):
    if operands[0].bits & 0xFFFFFFFF != 0xFFFFFFFF:
        raise Unknown("a barrier of some threads of a warp")
    for w in warps_of(np.flatnonzero(block.active)):
        block.clocks.meet(np.array([w]))


@does(r"bar\.arrive")
def bar_arrive(block, operands):
    for number, threads in block.barriers.numbers(operands[0]):
        block.barriers.arrive(number, threads)


@does(r"mbarrier\.init\.shared(?:::cta)?\.b64")
def mbarrier_init(block, operands):
    _, threads, addresses = block.access(operands[0], "shared")
    (count, _), *others = block.barriers.numbers(operands[1])
    if len(threads) > 1 or others:
        raise Unknown("several threads that initialise an mbarrier")
    block.shared.store(threads, addresses, np.zeros((4, 1), np.uint16))
    none = np.zeros(block.threads // WARP, np.int64)
    block.barriers.objects[addresses[0]] = Mbarrier(count, count, 0, none, none)


@does(r"mbarrier\.arrive(?:\.release\.cta)?\.shared(?:::cta)?\.b64")
def mbarrier_arrive(block, operands):
    if operands[0] is not None:
        raise Unknown("the state that an mbarrier.arrive returns")
    for one, threads in block.barriers.at(operands[1]):
        one.left -= len(threads)
        one.arriving = np.maximum(one.arriving, block.clocks.leave(warps_of(threads)))
        if one.left < 0:
            raise Fault("more threads arrive at an mbarrier than it waits for")
        if one.left == 0:
            one.phase, one.left, one.known = one.phase + 1, one.count, one.arriving


@does(r"mbarrier\.try_wait\.parity(?:\.acquire\.cta)?\.shared(?:::cta)?\.b64")
def mbarrier_wait(block, operands):
    """Threads come here only when the phase has ended."""
    for one, threads in block.barriers.at(operands[1]):
        warps = warps_of(threads)
        block.clocks.seen[warps] = np.maximum(block.clocks.seen[warps], one.known)
    block.write(operands[0], np.full(block.threads, True))


@does(r"(?:membar|fence)\.(?!proxy)[\w.:]+|setmaxnreg\.(?:inc|dec)\.sync\.aligned\.u32")
def nothing(block, operands):
    """Blocks run one after the other, and threads see at once what others wrote; races are looked for otherwise."""


@does(r"fence\.proxy\.async(?:\.shared::cta)?")
def fence_proxy(block, operands):
    block.shared.unfenced &= ~block.active[block.shared.writer]
