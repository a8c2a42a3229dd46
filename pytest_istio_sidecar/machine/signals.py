"""SIGTERM and SIGHUP as Ctrl-C: a run that is cancelled takes down what it brought up.

Knows this process's handlers. Does not know what is taken down. Invariant: a handler of somebody else's is
left as it is (nohup's, which ignores SIGHUP, too), and what ends a run already is not interrupted again.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Self

_ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What a cancelled job, a system that shuts down, and a terminal that is closed send."""


class EndingSignals:
    """Each of them raises KeyboardInterrupt in the main thread, from here until `restore`.

    Where this is no main thread, nothing is changed: no other may (signal.signal).

    Attributes:
        ending: that the process is about to end by itself; the signals change nothing any more.
    """

    def __init__(self) -> None:
        self.ending = False
        self._taken: list[signal.Signals] = []
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) is signal.SIG_DFL:
                    signal.signal(number, self._interrupt)
                    self._taken.append(number)

    def restore(self) -> None:
        """Put the handlers back that were there, where none has come since."""
        for number in self._taken:
            if signal.getsignal(number) == self._interrupt:
                signal.signal(number, signal.SIG_DFL)
        self._taken.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def _interrupt(self, number: int, _: object) -> None:
        if not self.ending and not _is_interrupted():
            raise KeyboardInterrupt(signal.Signals(number).name)


def _is_interrupted() -> bool:
    """Whether an interrupt is on its way up already, and what it met on it is being ended in good order."""
    raised = sys.exc_info()[1]
    while raised is not None:
        if isinstance(raised, KeyboardInterrupt):
            return True
        raised = raised.__context__
    return False
