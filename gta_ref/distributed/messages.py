"""Messages between ranks: arrays to the right neighbour while others come from the left, and a count of their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gta_ref.core import EngineError
from gta_ref.ops import Array


def world() -> Any:
    """All processes of this run, as MPI's communicator.

    Raises
    ------
    ValueError
        If mpi4py is not installed, or finds no MPI library.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"this needs mpi4py and an MPI library ({reason}); install gta-ref[mpi]") from None
    return MPI.COMM_WORLD


def check_arrays(who: str, **arrays: Any) -> None:
    """Raise EngineError unless all are NumPy arrays, which MPI can send."""
    for name, x in arrays.items():
        if not isinstance(x, np.ndarray):
            raise EngineError(f"{name} is a {type(x).__name__}; {who} takes numpy.ndarray")


def as_bytes(x: Array) -> Array:
    """The bytes of an array without gaps, whatever its dtype: MPI knows no bfloat16."""
    return x.reshape(-1).view(np.uint8)


class Passing:
    """Arrays on their way: to the right neighbour, and as many of the same shapes from the left one.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
    outgoing, incoming : sequences of arrays without gaps
        What leaves, and memory for what comes. Neither must be touched before :meth:`wait` returns.
    tag : int
        Tells these messages from others that are under way at the same time.
    """

    def __init__(self, comm: Any, outgoing: Sequence[Array], incoming: Sequence[Array], tag: int) -> None:
        rank, ranks = comm.Get_rank(), comm.Get_size()
        self.incoming = list(incoming)
        self._outgoing = list(outgoing)
        left, right = (rank - 1) % ranks, (rank + 1) % ranks
        self._requests = [comm.Irecv(as_bytes(x), left, tag) for x in self.incoming]
        self._requests += [comm.Isend(as_bytes(x), right, tag) for x in self._outgoing]
        self.sent = sum(x.nbytes for x in self._outgoing)

    def wait(self) -> list[Array]:
        """Wait until all have arrived and left; the arrays that came."""
        for request in self._requests:
            request.Wait()
        return self.incoming
