"""Errors that the command line prints as a sentence instead of a stack trace."""


class UserError(ValueError):
    """A mistake that the user can fix: the message names the key, the value, and what to do.

    The command line prints it as one sentence and exits with status 2. Everything else is a programmer's
    error and keeps its stack trace.
    """

    is_told = False
    """Whether rank 0 of a group of processes prints it, so that the others need not."""

    def __init__(self, message: str, *, option: str | None = None, command: str | None = None) -> None:
        """option: the name of the option that is wrong, where it is a single one. command: a further sentence, what to
        do about it on a command line, which a page leaves out (`reason`)."""
        super().__init__(f"{message} {command}" if command else message)
        self.reason, self.option = message, option


class TrainingStopped(RuntimeError):
    """Training stopped although the input was valid: the loss diverged, or the disk failed.

    The command line prints it as one sentence and exits with status 3. What was committed before is intact.

    speaker: the rank that prints it; all ranks stop for the same reason.
    """

    def __init__(self, message: str, *, speaker: int = 0) -> None:
        super().__init__(message)
        self.speaker = speaker
