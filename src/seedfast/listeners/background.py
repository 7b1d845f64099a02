"""A background process of a listener: it may be slow, fail or hang, as it shares only the disk with the training."""

import os
import signal
import subprocess
import sys
import tempfile

NICE = 10
"""Niceness of the process: the training has priority."""
_GRACE = 5.0  # seconds between the interrupt and the kill


class BackgroundProcess:
    """Runs `python -m ARGUMENTS` in its own session at low priority, shielded from Ctrl-C in the terminal.

    Its standard input stays open and silent while the training lives, so the end of the input means that the training
    has ended.
    """

    def __init__(self, *arguments: str) -> None:
        """Raises OSError if no process can be started."""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # a full pipe would block the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._output,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
            start_new_session=True,
        )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, NICE)

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def end(self, seconds: float) -> str | None:
        """Close its input, wait up to `seconds` for its end, then stop it; returns why it failed, None on success.

        The process is gone afterwards, also if the waiting is interrupted.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"it did not end within {seconds:g} s"
        finally:
            self._stop()
        with self._output as output:
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
        if not self._process.returncode:
            return None
        return lines[-1].removeprefix("seedfast: ").rstrip(".") if lines else f"status {self._process.returncode}"

    def _stop(self) -> None:
        """Interrupt it; if it does not end, kill it and every process that it has started."""
        if self.is_running:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
