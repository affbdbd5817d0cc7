"""Call a student's function in a process of its own, so that it cannot end, block or fill the notebook's process.

On Linux the process is forked: it knows all that the notebook has defined, and whatever happens to it is told in
words. An endless loop is stopped wherever it is, in Python or in compiled code; ``os._exit`` and a crash end the
process alone; and the peak of its memory counts every library. Forking is not safe on macOS and does not exist on
Windows. There, and for libraries whose threads a fork loses, the function runs in this process and a timer interrupts
it (:func:`gta_ref.exercises.timer.limited`).
"""

from __future__ import annotations

import faulthandler
import inspect
import linecache
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import IO, Any

from threadpoolctl import threadpool_limits

from gta_ref.exercises import call
from gta_ref.exercises.blocking import blocked
from gta_ref.exercises.call import Outcome
from gta_ref.exercises.meter import Meter, held
from gta_ref.exercises.timer import endless, limited
from gta_ref.process import signal_name

FORKS = sys.platform == "linux"
SECONDS = 20.0  # for one call; the first may have to import a library
GRACE = 5.0  # until the process is ended from outside
SHOWN = 10_000  # bytes of what the function prints
MEMORY = 4 * 2**30  # more than this a function cannot hold, so that an endless list does not fill the machine
# what a traceback or a message shows if the process waits for threads that the fork has lost
LOST = re.compile(r"[/\\](jax|jaxlib|tensorflow)[/\\]|fork\(\) called from a process")


class Student:
    """A student's function, ready to be called.

    Parameters
    ----------
    function : callable
    name : str
        Its name in the exercise.
    parameters : str
        The names of its parameters, such as "q, k, visible".
    allowed : sequence of str
        Modules of the library that it may call.
    """

    def __init__(self, function: Callable[..., Any], name: str, parameters: str, allowed: Sequence[str] = ()) -> None:
        self._function, self._name, self._allowed = function, name, tuple(allowed)
        self._names = [parameter.strip() for parameter in parameters.split(",")]
        self._here = not FORKS
        self._pid: int | None = None

    def __enter__(self) -> Student:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def call(self, arguments: Sequence[Any], *, measure: bool = False) -> Outcome:
        """Call the function with read-only copies of the arguments, for at most ``SECONDS``.

        Parameters
        ----------
        arguments : sequence
        measure : bool
            Measure the most bytes that it holds at a time.

        Returns
        -------
        Outcome
        """
        if not self._here:
            outcome = self._apart(arguments, measure)
            if outcome is not None:
                return outcome
            self._here = True  # its libraries do not work after a fork
        return self._in_this_process(arguments, measure)

    def close(self) -> None:
        """End the process."""
        if self._pid is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._ended()

    def _in_this_process(self, arguments: Sequence[Any], measure: bool) -> Outcome:
        with blocked(self._allowed) as called:
            meter = Meter(apart=False) if measure else None
            function = limited(self._function, SECONDS)
            return call.run(function, self._name, self._names, arguments, called, meter)

    def _apart(self, arguments: Sequence[Any], measure: bool) -> Outcome | None:
        """What comes of a call in the process; None if it hangs because of the fork."""
        if self._pid is None:
            try:
                self._fork()
            except OSError:  # no more processes, or no memory for one
                return None
        found: Outcome | None = None
        with suppress(EOFError, OSError):
            self._channel.send((tuple(arguments), measure))
            if self._channel.poll(SECONDS + GRACE):
                found = self._channel.recv()
        printed = self._read(self._printed)
        if found is None:
            found = self._lost(printed)
        if printed and found is not None:
            print(printed, end="")
        return found

    def _fork(self) -> None:
        self._channel, theirs = multiprocessing.Pipe()
        self._printed, self._dump = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer Pythons, and JAX, warn of threads, which the child does not use
            self._pid = os.fork()
        if self._pid == 0:
            try:
                self._channel.close()
                self._serve(theirs)
            finally:
                os._exit(0)
        theirs.close()

    def _serve(self, channel: Connection) -> None:
        """What the process does: call the function whenever it is told to."""
        _settle(self._printed)
        faulthandler.enable(self._dump)  # a crash writes where it is
        with blocked(self._allowed) as called:
            while True:
                arguments, measure = channel.recv()
                called.clear()
                meter = Meter(apart=True) if measure else None
                # needs neither the interpreter nor its lock: it ends compiled loops too, and writes where they are
                faulthandler.dump_traceback_later(SECONDS, exit=True, file=self._dump)
                outcome = call.run(self._function, self._name, self._names, arguments, called, meter)
                faulthandler.cancel_dump_traceback_later()
                channel.send(outcome)

    def _lost(self, printed: str) -> Outcome | None:
        """The outcome of a process that has ended, or does not answer."""
        assert self._pid is not None
        dump = self._read(self._dump)
        if LOST.search(dump + printed):
            self.close()
            return None
        killed = not self._channel.poll()  # it neither answers nor has ended
        if killed:
            os.kill(self._pid, signal.SIGKILL)
        status = self._ended()
        if dump.startswith("Timeout") or (killed and not dump):
            text = endless(SECONDS)
        elif status < 0:
            text = f"{self._name}(…) crashed its process ({signal_name(-status)})."
        else:
            text = f"{self._name}(…) ends the process (os._exit or similar); it has to return its result."
        place = self._line(dump)
        return Outcome(problem=f"{text}\n{place}" if place else text)

    def _ended(self) -> int:
        """Wait until the process has ended, and return its exit status, negative for a signal."""
        assert self._pid is not None
        _, status = os.waitpid(self._pid, 0)
        self._pid = None
        for file in (self._channel, self._printed, self._dump):
            file.close()
        return os.waitstatus_to_exitcode(status)

    def _line(self, dump: str) -> str | None:
        """The innermost line of the student's own file in what faulthandler has written."""
        code = getattr(inspect.unwrap(self._function), "__code__", None)
        for file, line, name in re.findall(r'File "(.*)", line (\d+) in (.*)', dump):
            if code is not None and code.co_filename == file:
                text = linecache.getline(file, int(line)).strip()
                return f"  line {line}, in {name}: {text}" if text else f"  line {line}"
        return None

    @staticmethod
    def _read(file: IO[bytes]) -> str:
        """What has been written since the last time."""
        file.seek(0)
        text = file.read(2 * SHOWN).decode("utf-8", "replace")
        file.seek(0)
        file.truncate()
        return text


class _Printer:
    """Standard output of the process: the first ``SHOWN`` bytes go to a file, which the notebook shows."""

    encoding = "utf-8"

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, SHOWN

    def write(self, text: str) -> int:
        data = text.encode("utf-8", "replace")[: max(0, self.left)]
        self.left -= len(data)
        os.write(self.file.fileno(), data)
        return len(text)

    def flush(self) -> None:
        """Everything is written at once."""

    def isatty(self) -> bool:
        return False


def _settle(printed: IO[bytes]) -> None:
    """Settings of a new process: no input, output into the file, a limit of memory, one thread of NumPy and PyTorch."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt of the notebook is for the notebook
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor in (1, 2):
        os.dup2(printed.fileno(), descriptor)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stderr = _Printer(printed)
    import resource

    with suppress(OSError, ValueError):
        most = held("VmData") + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    # if other processes keep the cores busy, NumPy's threads wait for each other: ten times slower, not faster
    threadpool_limits(1)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)  # its other threads are lost
