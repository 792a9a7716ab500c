"""Being told to stop: the signals that say so, and how a run leaves that is to go on later."""

import os
import signal
import threading
import time
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size

from mmpl.utils import transfer

SIGNALS = tuple(getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGUSR1') if hasattr(signal, name))
"""Ctrl-C, and what Slurm and torchrun send before they end a job; SIGUSR1 where the system has it."""
EXIT_REQUEUE = 75
"""Exit code of a run that saved and left because its machine told it to: EX_TEMPFAIL of sysexits.h, try again."""
EXIT_INTERRUPTED = 130
"""Exit code of a run that saved and left at Ctrl-C, as of any program: nobody should start it again by itself."""
_SAME_INTERRUPT = 1.0  # seconds: a Ctrl-C may arrive twice, from the terminal and passed on by torchrun
_PARENT_CHECK = 5.0  # seconds
_sheltered = False


class Preempted(SystemExit):
    """The run was told to stop, has saved, and can go on later."""


class StopSignals:
    """Notes that one of :data:`SIGNALS` came, between :meth:`listen` and :meth:`release`."""

    def __init__(self) -> None:
        self._received = 0
        self._when = 0.0
        self._handlers: dict[int, Any] = {}
        self._asked: transfer.Late | None = None

    def listen(self) -> bool:
        """Take over the signals. Only the main thread may: False in any other."""
        if threading.current_thread() is not threading.main_thread():
            return False

        def note(number: int, frame: Any) -> None:
            now = time.monotonic()
            if number == signal.SIGINT:
                if self._received == number and now - self._when > _SAME_INTERRUPT:
                    raise KeyboardInterrupt
                if self._received != number:  # no print: it may be under way where the signal came
                    os.write(2, b'\nCtrl-C: saving after the step under way; once more leaves at once.\n')
            if not self._received:
                self._received, self._when = number, now

        self._received, self._asked = 0, None
        self._handlers = {number: signal.signal(number, note) for number in SIGNALS}
        if hasattr(signal, 'pthread_sigmask'):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked in a child of a process with a shelter
        return True

    @property
    def listening(self) -> bool:
        """Whether the signals are taken over."""
        return bool(self._handlers)

    def release(self) -> None:
        """Leave the signals to whoever had them before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def received(self) -> int:
        """The number of a signal that came to this process or another; 0 if there was none. All have to ask.

        With several processes on CUDA it is what was known when they asked before: so nobody waits for the device.
        """
        if not self.listening:
            return 0
        if get_world_size() == 1:
            return self._received
        told = transfer.to_device(torch.tensor(float(self._received)), get_device())
        all_reduce(told, 'max')
        asked, self._asked = self._asked, transfer.Late(told)
        if not transfer.reading_waits(told.device):
            asked = self._asked
        return 0 if asked is None else int(asked.read())


def shelter_workers() -> None:
    """Let processes that are forked from now on, data loader workers among them, outlive :data:`SIGNALS`.

    A scheduler, ``timeout``, torchrun or a terminal sends them to all processes of a group. A worker would die of it
    (torch gives it handlers of its own), and the main process, which needs it to finish its step, with an error before
    it has saved. Such a process ends when its parent ends it or is gone.
    """
    global _sheltered
    if not _sheltered and hasattr(os, 'register_at_fork') and hasattr(signal, 'sigtimedwait'):
        os.register_at_fork(after_in_child=_shelter)
        _sheltered = True


def _shelter() -> None:
    parent = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # whatever handlers come later, and in the thread as well

    def wait() -> None:
        while True:
            came = signal.sigtimedwait(SIGNALS, _PARENT_CHECK)
            if os.getppid() != parent or (came is not None and came.si_pid == parent):
                os._exit(0)  # as torch's workers do: anything else would be an error of theirs

    threading.Thread(target=wait, name='shelter', daemon=True).start()
