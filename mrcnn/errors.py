"""The error that stands for a mistake in what the user gave us."""


class InputError(ValueError):
    """A file, option or array from the user that cannot be used.

    The message is one line that names the file or option, what is wrong with it and what to do.
    The command line prints it without a traceback and exits with status 2.
    """
