"""The exceptions that end in one line instead of a traceback."""


class UserError(Exception):
    """A mistake the user can mend: the message is one line saying what, where and how to mend it.

    The command line prints the message without a traceback and exits with code 2; in a notebook it is an
    ordinary exception.
    """

    exit_code = 2


class StoppedError(UserError):
    """A run was stopped by a signal and can be continued.

    Args:
        message: One line.
        exit_code: 128 plus the signal's number, as shells and schedulers expect.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def first_line(error: object) -> str:
    """Return the first line of an exception's message, or its kind if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
