"""The one exception a user sees: a sentence that says what is wrong and what to do."""


class HeatposeError(Exception):
    """A mistake in the input or the surroundings, told in one sentence.

    The command line prints the sentence on stderr and exits with status 1; a traceback would hide it.
    """
