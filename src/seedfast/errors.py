"""The one error that a user sees as a sentence instead of a stack trace."""


class UserError(ValueError):
    """Something that the user can mend: the message says what is wrong, with which value, and what to do.

    The command line prints it as one sentence and exits with status 2. Everything else is a programmer's
    error and keeps its stack trace.
    """
