"""Work on many files by several processes, where Python's threads would wait for each other."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch

from nucstyle.core.installation import usable_cpus
from nucstyle.core.protocols import Progress

_MOST = 8
"""At most so many processes, each with one file in memory."""
_MOST_TICKETS = 1000
"""What surely fits into a pipe that nobody reads yet, which holds 4,096 bytes or more."""
_TICKET_BYTES = 4


def can_fork() -> bool:
    """Whether forked processes help: on Linux (elsewhere a fork may not use the system's libraries), with several processors."""
    return sys.platform == "linux" and usable_cpus() > 1 and threading.current_thread() is threading.main_thread()


def share_out(work: Callable[[int], None], count: int, *, stage: str, unit: str, progress: Progress) -> None:
    """Call `work` once with each number from 0 to `count`, some in this process and some in others, which are forked from it.

    Only for work that is done once its result lies on the disk, and that somebody does again where it is missing: of what ends
    another process, from an exception to a lack of memory, nothing is seen here. On no account does a process outlive this one.

    Args:
        work: Uses neither a GPU nor threads.
        count: How many numbers there are.
        stage: Shown to the person.
        unit: What a number stands for.
        progress: Where it is shown.

    Raises:
        Exception: What `work` raises in this process.
    """
    progress.start(stage, count, unit)
    step = max(1, -(-count // _MOST_TICKETS))
    tickets, filled = os.pipe()
    os.write(filled, b"".join(first.to_bytes(_TICKET_BYTES, "little") for first in range(0, count, step)))
    os.close(filled)
    others, threads = [], torch.get_num_threads()
    try:
        # The threads of OpenMP are not there in a fork, and would be waited for; here they would wait for the others' processors.
        torch.set_num_threads(1)
        parent = os.getpid()
        for _ in range(min(_MOST, usable_cpus(), count) - 1):
            if (child := _fork()) == 0:
                _work_until_done(work, tickets, step, count, parent)
            others.append(child)
        for number in _numbers(tickets, step, count):
            work(number)
            progress.advance(number + 1)
        for child in others:
            os.waitpid(child, 0)
        others.clear()
    finally:
        torch.set_num_threads(threads)
        os.close(tickets)
        for child in others:
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _fork() -> int:
    with warnings.catch_warnings():
        # Python warns of a fork beside threads, since one may hold a lock for ever: `work` shares none with them.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _numbers(tickets: int, step: int, count: int) -> Iterator[int]:
    """Those that this process has drawn, until none is left for any."""
    while ticket := os.read(tickets, _TICKET_BYTES):
        first = int.from_bytes(ticket, "little")
        yield from range(first, min(count, first + step))


def _work_until_done(work: Callable[[int], None], tickets: int, step: int, count: int, parent: int) -> None:
    """The whole life of a forked process."""
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        for number in _numbers(tickets, step, count):
            if os.getppid() != parent:
                break
            work(number)
    finally:
        os._exit(0)
