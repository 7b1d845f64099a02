"""The one error that a user sees as a sentence instead of a stack trace."""


class UserError(ValueError):
    """Something that the user can mend: the message says what is wrong, with which value, and what to do.

    The command line prints it as one sentence and exits with status 2. Everything else is a programmer's
    error and keeps its stack trace.
    """


class TrainingStopped(RuntimeError):
    """Training could not go on although the input was fine: the numbers diverged, or the disk failed.

    The command line prints it as one sentence and exits with status 3. What was committed before is intact.
    """
