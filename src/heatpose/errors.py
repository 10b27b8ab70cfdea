"""The one exception a user sees: a sentence that says what is wrong and what to do.

Errors of the system and of libraries become such sentences here and in `heatpose.foreign`, wherever
they are raised.
What is left is a bug: it keeps its traceback, with one line below it that says so.
"""

from __future__ import annotations

import errno
import os
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


BUG = (
    "This is a bug in heatpose: please report it to its maintainers, with the command, the lines "
    "above and what `heatpose doctor` prints."
)
"""Below the traceback of an error that nobody expected."""


def sentence_of(error: BaseException) -> str | None:
    """The sentence of a user's mistake or of a problem of the surroundings; None for a bug.

    A `HeatposeError` counts also where the code that called us has wrapped it; so do errors of the
    system (a full disk) and of libraries (a full GPU, a setting that Lightning refuses).
    """
    # Imported here, because it uses this module.
    from heatpose.foreign import foreign_sentence

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HeatposeError):
        cause = cause.__cause__
    if cause is not None:
        return _sentence(cause)
    return _disk_sentence(error) or foreign_sentence(error) or None


@contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Ends the process with status 1 and one sentence on stderr where `sentence_of` has one.

    Other errors pass with the line of `BUG` below their traceback. A reader of the output that has
    gone (`| head`) ends the process without a word.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _output_has_no_reader():
            sys.exit(1)
        sentence = sentence_of(error)
        if sentence is None:
            as_bug(error)
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(1)


def as_bug(error: Exception) -> Exception:
    """The same error, with the line of `BUG` below its traceback."""
    if BUG not in getattr(error, "__notes__", ()):  # it may pass here on several floors
        error.add_note(BUG)
    return error


def _output_has_no_reader() -> bool:
    """Whether stdout is a pipe whose other end is closed; if so, it is replaced by nothing."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


ROOM = "make room or choose another folder, and run the same command again"
FOLDERS = "choose another file or folder"
_FULL_OR_CLOSED = ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EMFILE", "EFBIG", "EIO", "ESTALE"]
SYSTEM = {
    # Windows lacks some of them.
    **{getattr(errno, name): ROOM for name in _FULL_OR_CLOSED if hasattr(errno, name)},
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP), FOLDERS),
    errno.ENAMETOOLONG: "choose a shorter name or folder",
    errno.ENOMEM: "end other programs, or lower data.batch_size or data.workers",
}
"""Errors of the system that are the surroundings' and not the code's -> what helps."""


def _disk_sentence(error: BaseException | None) -> str:
    """A full or read-only disk, met where nobody expected it, as a sentence; "" for other errors."""
    while error is not None and not (isinstance(error, OSError) and error.errno in SYSTEM):
        error = error.__cause__ or error.__context__
    if error is None:
        return ""
    where = f"'{error.filename}' cannot be used" if error.filename else "A file cannot be used"
    return f"{where} ({error.strerror}); {SYSTEM[error.errno or 0]}."


def _sentence(error: HeatposeError) -> str:
    """The error's text in one line.

    A process of torch's data loader hands its error over with the whole traceback as the text; the sentence is at its end.
    """
    name = f"{HeatposeError.__module__}.{HeatposeError.__qualname__}: "
    return " ".join(str(error).rpartition(name)[2].splitlines())
