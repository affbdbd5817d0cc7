"""Run an implementation in a process of its own, so that its end, a crash or an endless loop is an error of one case.

The process is kept for many cases, and a new one is started after it has ended. It is told the inputs and the settings
of a case, never what is expected. What it prints goes to stderr.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import pickle
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

from gta_ref.errors import shown
from gta_ref.process import signal_name
from gta_ref.verify.attempt import Job, Outcome, attempt
from gta_ref.verify.candidate import describe, load, place, to_function

START = 600.0  # seconds for importing an implementation
_LOOK = 0.1  # seconds between two looks at whether the process is still there
_GUARD = "; a script that calls verify(…, isolate=True) needs `if __name__ == '__main__':` around it"


class _Ready(NamedTuple):
    """The first message of a process that has loaded its implementation."""

    capabilities: Any


class Worker:
    """An implementation in a process of its own.

    Parameters
    ----------
    impl : str or picklable object
        The implementation; ``package.module:name`` is imported in the process alone.
    timeout : float or None
        Seconds that one case may take.

    Attributes
    ----------
    capabilities : list of str, str or None
        What the implementation says of itself by an attribute of that name.

    Raises
    ------
    ValueError
        If the implementation cannot be sent to the process, or cannot be imported there.
    """

    capabilities: Any = None

    def __init__(self, impl: Any, timeout: float | None = None) -> None:
        self._timeout = timeout
        self._process: SpawnProcess | None = None
        try:
            self._impl = pickle.dumps(impl)
        except Exception as error:  # of whatever kind the object's own pickling raises
            raise ValueError(
                f"impl={shown(impl)} cannot be sent to a process of its own; expected package.module:name, or a "
                f"function or object of a module ({describe(error)})"
            ) from None
        problem = self._start()
        if problem is not None:
            self.close()
            raise ValueError(problem)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def run(self, job: Job) -> Outcome:
        """Run a job; whatever happens to the process is the outcome, and the next job has a new one."""
        if self._process is None:
            problem = self._start()
            if problem is not None:
                self.close()
                return Outcome(status="error", text=problem)
        try:
            self._channel.send(job)
        except OSError:  # it has ended since its last answer
            return self._lost(None)
        found = self._answer(self._timeout)
        return found if isinstance(found, Outcome) else self._lost(found)

    def close(self) -> None:
        """End the process and everything that it has started."""
        if self._process is None:
            return
        if self._process.pid is not None:
            with suppress(OSError):  # it is the leader of its group, unless it ended before it could become that
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
        self._channel.close()
        self._crash.close()
        self._process = None

    def _start(self) -> str | None:
        """Start the process; return what is wrong, if it does not come up."""
        context = multiprocessing.get_context("spawn")
        self._channel, theirs = context.Pipe()
        self._crash, crash = context.Pipe(duplex=False)
        self._process = context.Process(target=_serve, args=(theirs, crash, self._impl), name="gta_ref candidate")
        with nullcontext() if b"__main__" in self._impl else _no_main():
            self._process.start()
        theirs.close()
        crash.close()
        found = self._answer(START)
        if isinstance(found, _Ready):
            self.capabilities = found.capabilities
            return None
        if isinstance(found, str):
            return found
        outcome = self._lost(found)
        return f"impl cannot be imported in a process of its own: {outcome.text}{_GUARD}"

    def _answer(self, timeout: float | None) -> Any:
        """Wait for the process's next message; None if it has ended, TimeoutError if it has none in time."""
        assert self._process is not None
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        while not self._channel.poll(max(0.0, min(_LOOK, end - time.monotonic()))):
            if not self._process.is_alive() and not self._channel.poll():
                return None
            if time.monotonic() >= end:
                return TimeoutError(f"took longer than {timeout:g} s")
        try:
            return self._channel.recv()
        except EOFError:
            return None
        except Exception as error:  # the implementation has written into the pipe
            return pickle.UnpicklingError(f"its process sent something else than results ({describe(error)})")

    def _lost(self, found: Any) -> Outcome:
        """The outcome of a process that has ended, or does not answer."""
        assert self._process is not None
        if isinstance(found, TimeoutError) and self._process.pid is not None:
            with suppress(OSError):
                os.kill(self._process.pid, signal.SIGABRT)  # faulthandler writes where it is
        self._process.join(2.0)
        text = str(found) if isinstance(found, Exception) else _ended(self._process.exitcode)
        where = self._where()
        self.close()
        return Outcome(status="error", text=f"{text} ({where})" if where else text, where=where)

    def _where(self) -> str | None:
        """The line at which the process crashed, from what faulthandler has written."""
        text = b""
        with suppress(OSError):
            while self._crash.poll():
                part = os.read(self._crash.fileno(), 65536)
                if not part:
                    break
                text += part
        frames = re.findall(r'^  File "(.+)", line (\d+)', text.decode(errors="replace"), re.MULTILINE)
        return place([(file, int(line)) for file, line in frames])


@contextmanager
def _no_main() -> Iterator[None]:
    """Keep a spawned process from importing the program that runs here, if the implementation is no part of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _plain(capabilities: Any) -> Any:
    """Capabilities in a form that can be sent, without the implementation's own types."""
    if isinstance(capabilities, Iterable) and not isinstance(capabilities, str):
        return [str(name) for name in capabilities]
    return None if capabilities is None else str(capabilities)


def _ended(code: int | None) -> str:
    if code is None:
        return "its process does not answer"
    if code >= 0:
        return f"its process ended with exit status {code} in the middle of the case"
    name = signal_name(-code)
    return f"its process was ended by {name}" + (", as by a system that is out of memory" if name == "SIGKILL" else "")


def _serve(channel: Connection, crash: Connection, pickled: bytes) -> None:
    """What the process does: load the implementation, then run jobs until the pipe is closed."""
    _set_up(crash)
    try:
        impl = pickle.loads(pickled)
        impl = load(impl) if isinstance(impl, str) else impl
        to_function(impl)  # checks it
    except ValueError as error:
        channel.send(str(error))
        return
    except Exception as error:
        channel.send(f"impl cannot be loaded in a process of its own: {describe(error)}{_GUARD}")
        return
    channel.send(_Ready(_plain(getattr(impl, "capabilities", None))))
    while True:
        try:
            job = channel.recv()
        except EOFError:  # the parent has ended
            os._exit(0)  # without waiting for an implementation's threads
        channel.send(attempt(impl, job))


def _set_up(crash: Connection) -> None:
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C is for the parent, which then ends this group of processes
    with suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # if memory runs out, the system is to end this process and not the parent
        Path("/proc/self/oom_score_adj").write_text("1000")
    faulthandler.enable(file=crash.fileno(), all_threads=False)
    with suppress(OSError):
        os.dup2(2, 1)
    sys.stdout = sys.stderr
