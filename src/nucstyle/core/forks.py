"""Work on many files by several processes, where Python's threads would wait for each other."""

from __future__ import annotations

import ctypes
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
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl: the signal that a process gets when the one that started it ends."""


def can_fork() -> bool:
    """Whether forked processes help: on Linux (elsewhere a fork may not use the system's libraries), with several processors."""
    return sys.platform == "linux" and _processors() > 1 and threading.current_thread() is threading.main_thread()


def _processors() -> int:
    """Those that this process has to itself, where torchrun started several."""
    return min(_MOST, usable_cpus() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def share_out(work: Callable[[int], None], count: int, *, stage: str, unit: str, progress: Progress) -> None:
    """Call `work` once with each number from 0 to `count`, some in this process and some in others, which are forked from it.

    Only for work that is done once its result lies on the disk, and that somebody does again where it is missing: of what ends
    another process, from an exception to a lack of memory, nothing is seen here. Where none can be forked, all is done here. The
    others end with this process, however that ends.

    Args:
        work: Uses no GPU.
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
    others: list[int] = []
    threads = torch.get_num_threads()
    try:
        # The threads of OpenMP are not there in a fork, and would be waited for; here they would wait for the others' processors.
        torch.set_num_threads(1)
        with suppress(OSError):  # too many processes, or too little memory for one more
            for _ in range(min(_processors(), count) - 1):
                _fork(others, lambda: _work_on(work, tickets, step, count))
        for number in _numbers(tickets, step, count):
            work(number)
            progress.advance(number + 1)
        while others:
            _wait(others.pop())
    finally:
        torch.set_num_threads(threads)
        os.close(tickets)
        for child in others:
            with suppress(OSError):
                os.kill(child, signal.SIGKILL)
            _wait(child)


def _numbers(tickets: int, step: int, count: int) -> Iterator[int]:
    """Those that this process has drawn, until none is left for any."""
    while ticket := os.read(tickets, _TICKET_BYTES):
        first = int.from_bytes(ticket, "little")
        yield from range(first, min(count, first + step))


def _work_on(work: Callable[[int], None], tickets: int, step: int, count: int) -> None:
    for number in _numbers(tickets, step, count):
        work(number)


def _fork(others: list[int], life: Callable[[], None]) -> None:
    """Start a process that does no more than `life`; its number is added to the others.

    Raises:
        OSError: There can be no other.
    """
    parent, with_parent = os.getpid(), ctypes.CDLL(None).prctl
    # A signal that came between two of these lines would leave a process behind, or a second copy of this program running.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        with warnings.catch_warnings():
            # Python warns of a fork beside threads, since one may hold a lock for ever: `work` shares none with them.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child:
            others.append(child)
            return
        try:
            with_parent(_PR_SET_PDEATHSIG, signal.SIGKILL)
            for one in _SIGNALS:
                signal.signal(one, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if os.getppid() == parent:
                life()
        finally:
            os._exit(0)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _wait(child: int) -> None:
    with suppress(
        ChildProcessError
    ):  # where nobody wants to hear of children, as some launchers have it, none is waited for
        os.waitpid(child, 0)
