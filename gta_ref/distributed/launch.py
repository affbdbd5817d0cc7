"""A command that runs in several processes: how many there are, and how one that fails ends all of them."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gta_ref import process, threads
from gta_ref.distributed.messages import world
from gta_ref.errors import printable

# Variables in which the programs that start ranks say how many they have started
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")
FIRST_WORD = 0.5  # seconds
LAST_WORD = 5.0  # seconds


def launched() -> int:
    """The number of ranks that were started together, by their environment; MPI itself is not loaded."""
    found = (os.environ.get(name, "") for name in SIZES)
    return max((int(value) for value in found if value.isdecimal()), default=1)


@contextmanager
def together() -> Iterator[Any]:
    """Within the block, an exception in one rank ends all ranks, with one line on stderr.

    Otherwise the other ranks would wait forever for messages of the one that has failed. All ranks that fail at the
    same time have the same reason, so rank 0 speaks first.

    Yields
    ------
    comm : mpi4py.MPI.Comm
    """
    comm = world()
    rank, ranks = comm.Get_rank(), comm.Get_size()
    _divide_cores(comm)
    try:
        yield comm
    except BaseException as error:
        if rank:
            time.sleep(FIRST_WORD)
        stopped = isinstance(error, KeyboardInterrupt)
        expected = isinstance(error, ValueError | OSError | KeyboardInterrupt)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        if stopped and not error.args:
            text = process.STOPPED.removeprefix("gta-ref: ")
        where = f"rank {rank} of {ranks}: " if rank else ""
        print(f"gta-ref: {where}{printable(' '.join(text.split()))}", file=sys.stderr, flush=True)
        _until_read()
        status = process.INTERRUPTED if stopped else 2 if expected else 1
        comm.Abort(status)
        os._exit(status)  # MPICH's Abort may return


def _until_read() -> None:
    """Wait until mpiexec has taken the last line from stderr; Abort could overtake it, and the line would be lost."""
    if not stat.S_ISFIFO(os.fstat(2).st_mode):
        return
    import fcntl  # not on Windows, where stderr is no FIFO
    import termios

    until = time.monotonic() + LAST_WORD
    while time.monotonic() < until:
        waiting = fcntl.ioctl(2, termios.FIONREAD, bytes(4))
        if not int.from_bytes(waiting, sys.byteorder):
            return
        time.sleep(0.01)


def _divide_cores(comm: Any) -> None:
    """Divide the cores of a machine among the ranks on it, unless the number of threads was chosen."""
    from mpi4py import MPI

    if threads.chosen() is None and "NUMBA_NUM_THREADS" not in os.environ:
        here = comm.Split_type(MPI.COMM_TYPE_SHARED).Get_size()
        threads.set_threads(max(1, threads.get_threads() // here))
