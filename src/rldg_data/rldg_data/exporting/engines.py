"""Run jobs in this process, in several processes on this machine, or on a Ray cluster.

Jobs are independent and write their own files, so the result does not depend on the engine.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from rldg_core.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
Beat = Callable[[], None]
"""Called often during a job; an exception raised here ends the run."""

Engine = Literal["processes", "ray"]
_BEAT_S = 0.2
LOOPBACK_VARIABLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Of Ray. 0: the address of a local Ray, on which all its processes listen, is 127.0.0.1."""


class _Stopped(Exception):
    """Another job failed or the run was cancelled."""


def run(
    work: Callable[[Job, Beat], Result],
    jobs: Sequence[Job],
    take: Callable[[Result], None],
    beat: Beat,
    *,
    workers: int = 1,
    engine: Engine = "processes",
) -> None:
    """Run every job; `take` receives the results in order of completion, in this process.

    work: an importable function; it calls its second argument at least once per uninterruptible unit of
    work. One worker in "processes" is this process. The first exception, or Ctrl-C, stops all jobs and is
    raised. Raises UserError when a worker was killed or Ray is missing.
    """
    if engine == "ray":
        _run_ray(work, jobs, take, beat, workers)
    elif workers == 1:
        for job in jobs:
            take(work(job, beat))
    elif jobs:
        _run_processes(work, jobs, take, beat, min(workers, len(jobs)))


def _run_processes(
    work: Callable[[Job, Beat], Result],
    jobs: Sequence[Job],
    take: Callable[[Result], None],
    beat: Beat,
    workers: int,
) -> None:
    # Imported here: slow to import, and not needed for one worker.
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from concurrent.futures.process import BrokenProcessPool

    # Spawned: a forked child of a process with threads (rclpy, Ray) may inherit a locked lock.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _start_worker, (stop,)) as pool:
        try:
            pending = {pool.submit(_call, work, job) for job in jobs}
            while pending:
                done, pending = wait(pending, _BEAT_S, FIRST_COMPLETED)
                for future in done:
                    take(future.result())
                beat()
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed (out of memory?): run again, with fewer workers") from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


_stop: Any = None
"""In a worker process: set to stop it."""


def _start_worker(stop: Any) -> None:
    """Ignore SIGINT, which the parent handles; exit when the parent process ends."""
    import multiprocessing

    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Jobs run in parallel, so OpenCV, not imported yet, gets one thread.
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _call(work: Callable[[Job, Beat], Result], job: Job) -> Result:
    def beat() -> None:
        if _stop is not None and _stop.is_set():
            raise _Stopped

    return work(job, beat)


def _run_ray(
    work: Callable[[Job, Beat], Result],
    jobs: Sequence[Job],
    take: Callable[[Result], None],
    beat: Beat,
    workers: int,
) -> None:
    cluster = "RAY_ADDRESS" in os.environ
    if not cluster:
        # Else every process of a local Ray listens on all interfaces, whatever address ray.init is given
        # (services.get_node_ip_address; on Linux, too). This is for Ray's processes.
        os.environ.setdefault(LOOPBACK_VARIABLE, "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise UserError("engine ray: Ray is not installed: pip install -r requirements/ray.txt") from error
    if not cluster and os.environ[LOOPBACK_VARIABLE] == "0":
        # Ray reads the variable when it is imported, and it may have been imported before.
        constants: Any = importlib.import_module("ray._private.ray_constants")
        constants.ENABLE_RAY_CLUSTER = False
    ours = not ray.is_initialized()
    if ours:
        # RAY_ADDRESS names a cluster; by default Ray starts on this machine.
        local: dict[str, Any] = {} if cluster else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **local)
    pending: list[Any] = []
    try:
        remote = ray.remote(_call)
        waiting = list(reversed(jobs))
        while waiting or pending:
            while waiting and len(pending) < workers:
                pending.append(remote.remote(work, waiting.pop()))
            done, pending = ray.wait(pending, timeout=_BEAT_S)
            for reference in done:
                take(ray.get(reference))
            beat()
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"engine ray: {reason}") from error
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()
