"""User errors: one sentence with the problem and its remedy.

Errors of the operating system and of libraries are translated to such sentences here. Any other
exception is a bug and keeps its traceback, followed by one line on how to report it.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires
from importlib.util import find_spec


class HeatposeError(Exception):
    """A mistake in the input or a problem of the machine; the message is one sentence.

    The command line prints the sentence on stderr, without a traceback, and exits with status 1.
    """


_LACKING = re.compile(r"[\w.<>]+\(\) missing \d+ required (?:[\w-]+ )?arguments?: (.+)")


def first_line(error: BaseException) -> str:
    """First line of an error's message; the name of its type if the message is empty.

    Python's message on absent arguments becomes "it lacks 'a' and 'b'".
    """
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    lacking = _LACKING.match(line)
    return line if lacking is None else f"it lacks {lacking[1]}"


class InterruptedRun(HeatposeError):
    """Ctrl-C during training; in a sweep it also ends the remaining runs."""


BUG = (
    "This is a bug in heatpose: please report it to its maintainers, with the command, the lines "
    "above and what `heatpose doctor` prints."
)
"""Printed below the traceback of an unexpected error."""


def sentence_of(error: BaseException) -> str | None:
    """The sentence for a user error; None for a bug.

    Covers a `HeatposeError` wrapped by another exception, errors of the operating system (full
    disk) and of libraries (GPU out of memory, settings that Lightning rejects).
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HeatposeError):
        cause = cause.__cause__
    if cause is not None:
        return _sentence(cause)
    return _disk_sentence(error) or foreign_sentence(error) or None


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Exits with status 1 and one sentence on stderr for errors covered by `sentence_of`.

    Other errors are raised with `BUG` below their traceback. A closed output pipe (`| head`) ends
    the process silently.
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
    """Adds `BUG` as a note to the error."""
    if BUG not in getattr(error, "__notes__", ()):  # several callers may pass the error on
        error.add_note(BUG)
    return error


def _output_has_no_reader() -> bool:
    """Whether stdout is a closed pipe; if so, redirects it to the null device."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


ROOM = "make room or choose another folder, and run the same command again"
FOLDERS = "choose another file or folder"
_FULL_OR_CLOSED = [
    "ENOSPC",
    "EDQUOT",
    "EROFS",
    "EACCES",
    "EPERM",
    "EMFILE",
    "EFBIG",
    "EIO",
    "ESTALE",
]
SYSTEM = {
    # Windows lacks some of them.
    **{getattr(errno, name): ROOM for name in _FULL_OR_CLOSED if hasattr(errno, name)},
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP), FOLDERS),
    errno.ENAMETOOLONG: "choose a shorter name or folder",
    errno.ENOMEM: "end other programs, or lower data.batch_size or data.workers",
}
"""errno of problems of the machine, not of the code -> remedy."""


def _disk_sentence(error: BaseException | None) -> str:
    """The sentence for an unhandled error of `SYSTEM` in the chain; "" for other errors."""
    while error is not None and not (isinstance(error, OSError) and error.errno in SYSTEM):
        error = error.__cause__ or error.__context__
    if error is None:
        return ""
    where = f"'{error.filename}' cannot be used" if error.filename else "A file cannot be used"
    return f"{where} ({error.strerror}); {SYSTEM[error.errno or 0]}."


def _sentence(error: HeatposeError) -> str:
    """The error's message in one line.

    Errors of torch's data loader processes carry the traceback in their message; the sentence is
    at its end.
    """
    name = f"{HeatposeError.__module__}.{HeatposeError.__qualname__}: "
    return " ".join(str(error).rpartition(name)[2].splitlines())


SHOW = "`heatpose train --cfg job` shows the settings"
LOGGERS = ("mlflow", "wandb")
GPU_FULL = (
    "CUDA out of memory",
    "HIP out of memory",
    "MPS backend out of memory",
    "STATUS_ALLOC_FAILED",
)
MEMORY_FULL = ("can't allocate memory", "not enough memory", "Cannot allocate memory")
SHARED_MEMORY = (
    "unable to open shared memory",
    "unable to allocate shared memory",
    "unable to mmap",
)
REFUSED = ("TypeError", "ValueError", "KeyError", "MisconfigurationException")
"""Exceptions that constructors raise for invalid arguments."""
OTHER_NAMES = {"cv2": "opencv-python"}
"""Module name -> package name, where they differ."""


def foreign_sentence(error: BaseException) -> str:
    """The sentence for a library's error caused by settings or the machine; "" for any other.

    Args:
        error: As caught; the innermost cause is examined first.
    """
    for rules in (RULES, (_object,), (_trainer,)):  # the sentence of _object names the key
        for link in reversed([*_chain(error)]):
            for rule in rules:
                if sentence := rule(link):
                    return " ".join(sentence.split())
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _of(error: BaseException, package: str) -> bool:
    return type(error).__module__.partition(".")[0] == package


def _gpu(error: BaseException) -> str:
    text = str(error)
    if type(error).__name__ != "OutOfMemoryError" and not any(words in text for words in GPU_FULL):
        return ""
    reason = re.split(r"(?<=[a-z])\. ", first_line(error))[0].rstrip(".")
    return (
        f"The memory of the GPU is full ({reason}); lower data.batch_size, resolution or "
        "model.width, or end other programs that use this GPU."
    )


def _memory(error: BaseException) -> str:
    if not isinstance(error, MemoryError) and not any(words in str(error) for words in MEMORY_FULL):
        return ""
    remedy = "lower data.batch_size or data.workers, or end other programs"
    return f"The memory of this machine is full; {remedy}."


def _loader(error: BaseException) -> str:
    """Processes of torch's data loader that the operating system killed."""
    text = first_line(error)
    if (
        "DataLoader worker" in text
        and ("killed" in text or "exited" in text)
        or any(w in text for w in SHARED_MEMORY)
    ):
        return (
            f"A process of the data loader was ended by the system ({text.rstrip('. ')}), usually"
            " because memory ran out; lower data.workers (0 uses no further process), or give the"
            " container more shared memory (--shm-size)."
        )
    if "ancdata" in text or "Too many open files" in text:
        return "Too many files are open; lower data.workers, or raise the limit (ulimit -n 65536)."
    return ""


def _package(error: BaseException) -> str:
    if not isinstance(error, ImportError):
        return ""
    quoted = re.search(r"'([\w.-]+)", first_line(error))  # Lightning sets no `error.name`
    absent = isinstance(error, ModuleNotFoundError)
    module = (error.name or (quoted[1] if quoted and absent else "")).partition(".")[0]
    if not module or module == "heatpose":
        return ""
    if not absent:
        reason = first_line(error).rstrip(".")
        return f"The package '{module}' cannot be loaded ({reason}); install it again."
    if find_spec(module) is not None and error.name:
        return ""  # the package is installed: a wrong name inside it
    package = OTHER_NAMES.get(module, module)
    extra = _extra_of(package)
    remedy = (
        f"heatpose[{extra}], or run uv sync --extra {extra}" if extra else f"the package {package}"
    )
    return f"The package '{module}' is not installed; install {remedy}."


def _extra_of(package: str) -> str:
    """The extra of heatpose that installs a package; "" if none does."""
    try:
        lines = requires("heatpose") or []
    except PackageNotFoundError:
        return ""
    wanted = package.lower().replace("_", "-")
    for line in lines:
        extra = re.search(r"extra == [\"']([\w-]+)", line)
        name = re.match(r"[\w.-]+", line)
        if extra and name and name[0].lower().replace("_", "-") in (wanted, f"{wanted}-skinny"):
            return extra[1]
    return ""


def _settings(error: BaseException) -> str:
    """OmegaConf's errors: missing key, invalid value, failed interpolation."""
    if not _of(error, "omegaconf"):
        return ""
    key, kind = getattr(error, "full_key", None) or "the configuration", type(error).__name__
    reason = first_line(error).rstrip(".")
    if "Interpolation" in kind:
        remedy = "correct the ${...}, or write \\${...} for the literal text"
        return f"{key} cannot be resolved ({reason}); {remedy}."
    if kind == "MissingMandatoryValue":
        return f"{key} has no value; set {key}=VALUE."
    if kind in ("ConfigAttributeError", "ConfigKeyError"):
        return f"The configuration has no {key}, which is needed; add it with +{key}=VALUE; {SHOW}."
    return f"The value of {key} is invalid ({reason}); {SHOW}."


def _object(error: BaseException) -> str:
    """A configured object that cannot be instantiated."""
    if type(error).__name__ != "InstantiationException" or not _of(error, "hydra"):
        return ""
    found = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE)
    key, cause = found[1] if found else "A part of the configuration", error.__cause__
    if "locating target" in str(error):
        reason = first_line(error).partition(",")[0]
        return f"{key}._target_ names something that cannot be imported ({reason}); correct it."
    if cause is not None and type(cause).__name__ not in REFUSED:
        return ""
    reason = first_line(cause) if cause is not None else first_line(error)
    return f"{key} cannot be created from its settings ({reason.rstrip('.')}); {SHOW}."


def _trainer(error: BaseException) -> str:
    if type(error).__name__ != "MisconfigurationException":
        return ""
    reason = first_line(error).rstrip(".")
    return f"Lightning rejects the settings of trainer or callbacks ({reason}); {SHOW}."


def _logger(error: BaseException) -> str:
    name = next((name for name in LOGGERS if _of(error, name)), "")
    reason = first_line(error).rstrip(".")
    return (
        f"{name} cannot log ({reason}); correct logger=..., or choose logger=tensorboard."
        if name
        else ""
    )


def _yaml(error: BaseException) -> str:
    if not _of(error, "yaml"):
        return ""
    reason = "; ".join(
        line.strip() for line in str(error).splitlines() if not line.startswith("    ")
    )
    return f"A YAML file of the configuration cannot be read ({reason}); correct it there."


RULES: tuple[Callable[[BaseException], str], ...] = (
    _gpu,
    _memory,
    _loader,
    _package,
    _settings,
    _logger,
    _yaml,
)
