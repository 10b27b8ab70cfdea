"""The one exception a user sees: a sentence that says what is wrong and what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class HeatposeError(Exception):
    """A mistake in the input or the surroundings, told in one sentence.

    The command line prints the sentence on stderr and exits with status 1; a traceback would hide it.
    """


@contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Turns a `HeatposeError`, also one wrapped by the code that called us, into its sentence on stderr and exit status 1."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, HeatposeError):
            cause = cause.__cause__
        if cause is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        sys.exit(1)
