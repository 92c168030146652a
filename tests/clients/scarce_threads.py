"""A system that has no more threads for a while."""

import _thread


class ScarceThreads:
    """A stand-in for `_thread` in one module, where starting a thread fails a number of times.

    Attributes:
        n_refused: Number of threads that were not started.
    """

    def __init__(self, n_refusals):
        self._n_refusals = n_refusals
        self.n_refused = 0

    def start_new_thread(self, function, arguments):
        if self.n_refused < self._n_refusals:
            self.n_refused += 1
            raise RuntimeError("can't start new thread")
        return _thread.start_new_thread(function, arguments)
