"""Run a study: several of its runs at a time, each with a file of its own, which a later call finds again.

A run's file is named by a digest of everything that decides its result, except for rounding. So studies share the runs
that they have in common, and a study that was stopped continues from there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

from gta_ref.errors import check_choice
from gta_ref.files import check_writable, read_json, write_json
from gta_ref.lab.studies import SOURCES, Job, Study
from gta_ref.lm import train

# called with the progress of a run: its label, step and loss
Tell = Callable[[str, int, float], None]

EXECUTORS = ("local", "mpi")
TRIES = 3  # how often the runs of processes that were lost are started again before the study gives up

_progress: Any = None  # in a run's process: the queue to the study's process
_stop: Any = None  # in a run's process: an event of the study's process, set when the runs are to stop
_running = threading.Lock()  # in a run's process: held as long as a run is in progress


def run(study: Study, folder: Path, jobs: int, tell: Tell, executor: str = "local") -> list[dict[str, Any]]:
    """Carry out the runs of a study that have no result yet, and collect the results of all.

    Parameters
    ----------
    study : Study
    folder : path
        Folder of the runs' files; it is created if it does not exist.
    jobs : int
        Number of runs at a time, each with an equal share of the threads; with "mpi" it has no effect.
    tell : callable
        Called with a run's label, its latest step and its loss there.
    executor : {"local", "mpi"}
        Where the runs are carried out: in processes of this machine, or in those that mpiexec has started, which must
        all call this function and share the folder. With "mpi", all processes but the first one carry out runs, and
        they return once these are done.

    Returns
    -------
    results : list of dict
        One per run, in the study's order: what :func:`result` returns, with ``arm`` and ``seed``.

    Raises
    ------
    DivergedError
        If the loss of a run stops being finite; the files of the other runs are kept.
    KeyboardInterrupt
        After Ctrl-C; every run is saved after its current step, and a later call continues it.
    OSError
        If the folder cannot be made or written to.
    ValueError
        If the file of a result is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for job in study.jobs():  # before the hours of work
        if _result_path(folder, job).is_file():
            _read_result(_result_path(folder, job))
        else:
            check_writable(_run_path(folder, job))
    check_choice("executor", executor, EXECUTORS)
    if executor == "mpi":
        if not _by_mpi(study, folder, tell):
            return []
    else:
        _locally(study, folder, jobs, tell)
    found = []
    for job in study.jobs():
        content = _read_result(_result_path(folder, job))
        if study.measure is not None and not content["measured"]:
            content["measured"] = study.measure(train.load(_run_path(folder, job)), SOURCES[job.source]())
            write_json(_result_path(folder, job), content)
        found.append({"arm": job.arm, "seed": job.settings.seed, **content})
    return found


def _waiting(study: Study, folder: Path) -> list[Job]:
    """The runs that have no result yet."""
    return [job for job in study.jobs() if not _result_path(folder, job).is_file()]


def _locally(study: Study, folder: Path, jobs: int, tell: Tell) -> None:
    """Carry out the runs in processes of this machine; those of a process that was lost are done again."""
    for left in reversed(range(TRIES)):
        try:
            _in_pool(_waiting(study, folder), folder, jobs, tell)
            return
        except BrokenProcessPool:
            if not left:
                raise ValueError(
                    f"processes of the runs were lost {TRIES} times, as by a system that is out of memory; "
                    "the same command continues; try a smaller --jobs"
                ) from None


def _by_mpi(study: Study, folder: Path, tell: Tell) -> bool:
    """Carry out the runs in the other processes of MPI; whether this is the first process."""
    from gta_ref.distributed.messages import world

    comm = world()
    from mpi4py.futures import MPICommExecutor

    executor: Any = MPICommExecutor(comm, root=0)
    with executor as pool:
        if pool is None:
            return False
        futures = {pool.submit(_far, job, folder): job for job in _waiting(study, folder)}
        left = set(futures)
        while left:
            ended, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in ended:
                job, loss = futures[future], future.result()
                tell(_label(job), job.settings.steps, loss)
    return True


def _far(job: Job, folder: Path) -> float:
    """Carry out a run in a process of MPI; its loss on held-out text."""
    done = _train(job, folder, lambda run: None)
    return done.validation[done.state.step]


def _in_pool(waiting: list[Job], folder: Path, jobs: int, tell: Tell) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
    queue, stop = context.SimpleQueue(), context.Event()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    pool = ProcessPoolExecutor(jobs, context, _set_up, (queue, stop, threads))
    try:
        with _interrupts_wait():  # so that the processes are started without them
            left: set[Future[None]] = {pool.submit(_run, job, folder) for job in waiting}
        while left:
            ended, left = wait(left, timeout=0.5, return_when=FIRST_COMPLETED)
            while not queue.empty():
                tell(*queue.get())
            for future in ended:
                future.result()
    except KeyboardInterrupt:
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def digest(job: Job) -> str:
    """Return the name of a run: a digest of its model, its settings and its data."""
    content = [train.config_to_dict(job.config), dataclasses.asdict(job.settings), job.source]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def result(job: Job, done: train.Run) -> dict[str, Any]:
    """Return what is kept of a finished run: sizes, losses, and a place for what a study measures besides.

    The elements of the cache and the MACs of the attention are those of one layer; if the layers differ in size, they
    are the means over the layers.
    """
    return {
        "parameters": sum(p.size for p in done.state.params.values()),
        "cache_elements": job.config.mean_over_layers("cache_elements"),
        "attention_macs": job.config.mean_over_layers("attention_macs"),
        "source": done.source,
        "validation": {str(step): loss for step, loss in done.validation.items()},
        "loss": done.validation[done.state.step],
        "losses": [round(loss, 5) for loss in done.losses],
        "seconds": round(done.seconds, 1),
        "date": date.today().isoformat(),
        "measured": {},
    }


def _result_path(folder: Path, job: Job) -> Path:
    return folder / f"{digest(job)}.json"


def _read_result(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or "measured" not in content:
        raise ValueError(f"{path}: not the result of a run; delete it, and the run is done again")
    return content


def _run_path(folder: Path, job: Job) -> Path:
    return folder / f"{digest(job)}.safetensors"


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait until the end of the block, and never reach the processes and threads that start in it.

    A terminal sends it to all processes of a command. Those of the runs would end with a traceback each, or within a
    validation; the study's process alone receives it, and tells them to stop.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _set_up(queue: Any, stop: Any, threads: int) -> None:
    from threadpoolctl import threadpool_limits

    from gta_ref import process
    from gta_ref.threads import set_threads

    process.keep_memory()
    global _progress, _stop
    _progress, _stop = queue, stop
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    threadpool_limits(threads)
    set_threads(threads)


def _study() -> Any:
    """The study's process, as seen from a run's process."""
    return multiprocessing.parent_process()


def _end_with_the_study() -> None:
    """End this process if the study is killed while it waits for its next run; nothing else would end it."""
    _study().join()
    with _running:  # a run notices by itself, and saves before it ends
        os._exit(1)


def _run(job: Job, folder: Path) -> None:
    if _stop.is_set():  # the pool hands out one more run than it has processes
        raise KeyboardInterrupt

    def show(run: train.Run) -> None:
        if not _study().is_alive():
            train.save(_run_path(folder, job), run)
            os._exit(1)
        if _stop.is_set():
            raise KeyboardInterrupt
        # not every step: after an error in another run the queue is not read any more, and its pipe must not fill up
        if run.state.step % 10 == 0 or run.state.step == run.settings.steps:
            _progress.put((_label(job), run.state.step, run.losses[-1]))

    with _running:
        _train(job, folder, show)


def _label(job: Job) -> str:
    return f"{job.arm}, seed {job.settings.seed}"


def _train(job: Job, folder: Path, show: Callable[[train.Run], None]) -> train.Run:
    """Carry out a run, from its file if there is one, and write its result."""
    source = SOURCES[job.source]()
    path = _run_path(folder, job)
    current = train.load(path) if path.is_file() else train.begin(job.config, job.settings, source)
    try:
        train.advance(current, source, on_step=show, on_validation=lambda run: train.save(path, run))
    except KeyboardInterrupt:
        train.save(path, current)
        raise
    write_json(_result_path(folder, job), result(job, current))
    return current
