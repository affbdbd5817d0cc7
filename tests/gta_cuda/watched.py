"""Watch shared memory in the simulator, so that errors that a GPU would show only sometimes are found every time.

The simulator runs the threads of a block one after the other, in an order in which a missing barrier often does no
harm. Therefore every access to shared memory is recorded together with the barriers that its thread has passed. If two
threads access the same element and at least one of them writes, there must be a barrier between the accesses:
``syncthreads``, ``warp_sync`` for threads of the same warp, or ``group_sync`` for those of a group of warps. The
shuffles and products of a warp are not barriers, although their counterparts in ``emulated`` wait for each other. Every
thread of a block must also pass the same number of barriers, and wait for its asynchronous copies.
"""

import sys
import threading
from collections import Counter

import numpy as np
from numba.cuda.simulator import kernel, kernelapi
from numba.np import numpy_support

from gta_cuda import emulated, emulated_address

WARP = 32


class Shared(np.ndarray):
    """A shared array that reports every access to `watch`, element by element."""

    def __getitem__(self, i):
        self.watch.note(self, int(i), writes=False)
        return super().__getitem__(i)

    def __setitem__(self, i, x):
        self.watch.note(self, int(i), writes=True)
        super().__setitem__(i, x)


def garbage(shape, dtype):
    """The content of memory before anything is written: every bit is set, which is NaN as a float."""
    dtype = np.dtype(numpy_support.as_dtype(dtype))
    return np.full(shape * dtype.itemsize, 0xFF, np.uint8).view(dtype)


class Watch:
    """Patches the simulator while a test runs; `faults` maps lines of source to the errors found there."""

    def __init__(self, monkeypatch):
        self.faults, self.group = {}, WARP  # threads of a group that has barriers of its own, a warp or more
        self.lock = threading.Lock()
        watch, wait, run = self, kernel.BlockThread.syncthreads, kernel.BlockThread.run

        def shared_array(memory, shape, dtype, alignment=None):
            # an array is identified by its source line; without a lock, two threads could each create one, as is said
            # in gta_cuda.simulator
            caller = sys._getframe(1)
            place = caller.f_code.co_filename, caller.f_lineno
            with watch.lock:
                if place not in memory._allocations:
                    array = garbage(shape, dtype).view(Shared)
                    array.watch, array.notes = watch, {}
                    memory._allocations[place] = array
                return memory._allocations[place]

        def syncthreads(thread):
            frame = sys._getframe(2)  # between them is cuda.syncthreads
            caller = frame.f_code
            wait(thread)
            passed = thread.passed
            passed["any"] += 1
            if caller.co_filename not in (emulated.__file__, emulated_address.__file__):
                passed["block"] += 1
            elif caller.co_name in ("warp_sync", "group_sync"):
                passed["group"] += 1
                watch.group = frame.f_locals.get("threads", WARP)

        def run_thread(thread):
            thread.passed = Counter()
            run(thread)
            with watch.lock:
                first = vars(thread._manager).setdefault("first_passed", thread.passed)
                if thread.exception is None and thread.passed != first:
                    watch.faults["barriers"] = f"threads pass {dict(first)} and {dict(thread.passed)}"
                if any(emulated.COPIES.groups):
                    watch.faults["copies"] = "a thread ends before what it copies has arrived"

        monkeypatch.setattr(kernelapi.FakeCUDAShared, "array", shared_array)
        monkeypatch.setattr(kernelapi.FakeCUDALocal, "array", lambda _, shape, dtype: garbage(shape, dtype))
        monkeypatch.setattr(kernel.BlockThread, "syncthreads", syncthreads)
        monkeypatch.setattr(kernel.BlockThread, "run", run_thread)

    def note(self, array, i, writes):
        """Compare an access with those of other threads to the same element since the last barrier of the block."""
        thread = threading.current_thread()
        me, group, group_barriers = thread.thread_id, self.group, thread.passed["group"]
        moment = (*thread.blockIdx, thread.passed["block"])
        with self.lock:
            if array.notes.get(i, (None,))[0] != moment:
                array.notes[i] = moment, {}
            accesses = array.notes[i][1]  # thread → (did it write, its barriers of the group) of its accesses
            for other, theirs in accesses.items():
                for wrote, barriers in theirs:
                    ordered = other // group == me // group and barriers != group_barriers
                    if other != me and (writes or wrote) and not ordered:
                        self.faults[place()] = f"{'written' if writes else 'read'} by {me}, touched by {other}"
            accesses.setdefault(me, set()).add((writes, group_barriers))


def place():
    """The innermost source lines of the kernel that led to an access."""
    frame, lines = sys._getframe(3), []
    while frame is not None and len(lines) < 3:
        lines.append(f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines)
