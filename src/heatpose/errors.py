"""The one exception a user sees: a sentence that says what is wrong and what to do."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class HeatposeError(Exception):
    """A mistake in the input or the surroundings, told in one sentence.

    The command line prints the sentence on stderr and exits with status 1; a traceback would hide it.
    """


def first_line(error: BaseException) -> str:
    """What a library's error says, without its further paragraphs; its kind where it says nothing."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class InterruptedRun(HeatposeError):
    """Ctrl-C during a training: in a sweep it ends the other runs as well."""


def sentence_of(error: BaseException) -> str | None:
    """The sentence of a `HeatposeError`, also of one that the code which called us has wrapped; or of a full disk; None for others."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HeatposeError):
        cause = cause.__cause__
    return _sentence(cause) if cause is not None else _disk_sentence(error) or None


@contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Turns a `HeatposeError`, also one wrapped by the code that called us, into its sentence on stderr and exit status 1."""
    try:
        yield
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(1)


DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.EFBIG}
"""Errors of the system that are the surroundings' and not the code's, whoever meets them."""


def _disk_sentence(error: BaseException | None) -> str:
    """A full or read-only disk, met where nobody expected it, as a sentence; "" for other errors."""
    while error is not None and not (isinstance(error, OSError) and error.errno in DISK):
        error = error.__cause__ or error.__context__
    if error is None:
        return ""
    where = f"'{error.filename}' cannot be used" if error.filename else "A file cannot be written"
    return f"{where} ({error.strerror}); make room or choose another folder, and run the same command again."


def _sentence(error: HeatposeError) -> str:
    """The error's text in one line.

    A process of torch's data loader hands its error over with the whole traceback as the text; the sentence is at its end.
    """
    name = f"{HeatposeError.__module__}.{HeatposeError.__qualname__}: "
    return " ".join(str(error).rpartition(name)[2].splitlines())
