"""Stopping politely: a signal asks, a second Ctrl-C insists.

A second SIGTERM does not: it comes from programs, which repeat it. A launcher passes on what a
cluster has sent to every process already, and who truly insists has SIGKILL.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from workbench.training.events import StopFlag


@contextmanager
def stop_on_signals(hangup: bool = True) -> Iterator[StopFlag]:
    """A flag that SIGTERM, SIGINT and a closed terminal (SIGHUP, unless under nohup) set.

    A SIGINT after any of them raises KeyboardInterrupt.

    Args:
        hangup: False where a closed terminal only ends this process: its jobs run elsewhere.
    """
    flag = StopFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if flag.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.requested = True

    heard = [signal.SIGTERM, signal.SIGINT]
    if hangup and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in heard}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
