"""Processes that live for one function, from a server that has imported what they need: each begins in milliseconds, and shares nothing."""

import multiprocessing
import threading
from multiprocessing import connection

SECONDS = 240  # for one life, on a computer that is busy


class Lives:
    """Runs functions in processes of their own, from any number of threads. `preload`: modules that all of them need."""

    def __init__(self, preload):
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(preload)
        self._alone = threading.Lock()

    def run(self, target, *given):
        """The exit status of a process that calls the target: minus the signal's number for one that was killed, a text for a late one."""
        process = self._processes.Process(target=target, args=given)
        with self._alone:  # start() looks at all processes, and of two threads that look at one, one loses its exit status
            process.start()
        over = connection.wait([process.sentinel], SECONDS)
        if not over:
            process.kill()
            connection.wait([process.sentinel])
        with self._alone:
            process.join()
            return process.exitcode if over else f"killed after {SECONDS} s"
