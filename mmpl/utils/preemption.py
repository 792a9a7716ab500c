"""Being told to stop: the signals that say so, and how a run leaves that is to go on later."""

import os
import signal
import threading
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce, get_world_size

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""As Slurm sends them before it preempts a job, or before its time is up."""
EXIT_REQUEUE = 75
"""Exit code of a run that saved and left because it was told to: EX_TEMPFAIL of sysexits.h, try again."""
_WORKER_GRACE = 60  # seconds that data loader workers live on after a signal, for the main process to save


class Preempted(SystemExit):
    """The run was told to stop, has saved, and can go on later."""


class StopSignals:
    """Notes that one of :data:`SIGNALS` came, between :meth:`listen` and :meth:`release`."""

    def __init__(self) -> None:
        self._received: int | None = None
        self._handlers: dict[int, Any] = {}

    def listen(self) -> bool:
        """Take over the signals. Only the main thread may: False in any other."""
        if threading.current_thread() is not threading.main_thread():
            return False
        main_process = os.getpid()

        def note(number: int, frame: Any) -> None:
            if os.getpid() == main_process:
                self._received = number
            else:  # a data loader worker: the main process needs it until it has saved; a second signal ends it
                signal.signal(number, signal.SIG_DFL)
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(_WORKER_GRACE)

        self._received = None
        self._handlers = {number: signal.signal(number, note) for number in SIGNALS}
        return True

    def release(self) -> None:
        """Leave the signals to whoever had them before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def received(self) -> str:
        """The name of a signal that came to this process or another; empty if there was none. All have to ask."""
        if not self._handlers:
            return ''
        name = '' if self._received is None else signal.Signals(self._received).name
        if get_world_size() == 1:
            return name
        told = torch.tensor([float(bool(name))], device=get_device())
        all_reduce(told, 'max')
        return name or ('a signal to another process' if told.item() else '')
