"""A process beside the training, which may be slow, fail or hang: the training shares nothing with it but the disk."""

import os
import signal
import subprocess
import sys
import tempfile

NICE = 10
"""How far the process gives way to the training."""
_MOMENT = 5.0  # seconds to clean up in


class Aside:
    """`python -m` these words, at a low priority, away from the terminal and its Ctrl-C.

    Its standard input is open, and says nothing, for as long as the training lives.
    """

    def __init__(self, *words: str) -> None:
        """Raises OSError if no process can be started."""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe could fill up, and then it would wait for us
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=self._said,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            start_new_session=True,
        )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, NICE)

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def end(self, seconds: float) -> str | None:
        """Tell it that the training is over, and wait so long for its end; returns why it failed, if it has.

        Whatever interrupts the waiting, the process is gone afterwards.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"it did not end within {seconds:g} s"
        finally:
            self._stop()
        with self._said as said:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
        if not self._process.returncode:
            return None
        return lines[-1].removeprefix("seedfast: ").rstrip(".") if lines else f"status {self._process.returncode}"

    def _stop(self) -> None:
        """Interrupt it and, if that does not help, kill it and all that it has started."""
        if self.is_running:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_MOMENT)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
