"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from compare.errors import CompareError

_REMEDIES = {
    errno.ENOSPC: "free some space, and run the same command again",
    errno.EDQUOT: "free some space, and run the same command again",
    errno.EISDIR: "name a file that is not there yet, for instance one in that folder",
    errno.EEXIST: "a file stands where a folder is needed; choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
    errno.EACCES: "choose a place where you may write, or change the permissions",
    errno.EPERM: "choose a place where you may write, or change the permissions",
    errno.EROFS: "choose a place where you may write",
}


class OutputError(CompareError, OSError):
    """A file or folder that could not be written; ``errno`` tells why."""

    def __str__(self) -> str:
        """The message alone, without the number of the error."""
        return str(self.args[-1]) if self.args else ""


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in one step: readers see the old file or the new one, never a part.

    Args:
        path: The file; its folder is made if it is missing.
        content: All of its bytes.

    Raises:
        OutputError: Naming the file and the cause (no space left, no permission, ...); nothing is left behind.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _output_error(path, error, "Nothing was left half written") from error
        raise


def write_text(path: Path, content: str) -> None:
    """As ``write_bytes``, in UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def check_writable(path: Path) -> None:
    """Fail now as ``write_bytes`` would after hours of work: no permission, a folder of that name, no space at all.

    Args:
        path: The file that will be written; nothing is written yet.

    Raises:
        OutputError: Naming the file and the cause.
    """
    try:
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        nearest = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise _output_error(path, error, "Nothing was done yet") from error


def is_free(folder: Path) -> bool:
    """Whether a folder is missing or empty; what a killed process left half written does not count.

    Raises:
        OutputError: If it may not be looked into.
    """
    try:
        if not os.path.lexists(folder):
            return True
        return folder.is_dir() and all(child.match(".*.????????.part") for child in folder.iterdir())
    except OSError as error:
        raise OutputError(
            error.errno, f"could not look into {folder}: {error.strerror}. Choose another folder, or change permissions"
        ) from error


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Keep a second process out of ``folder`` for as long as the context lasts; the lock dies with the process.

    Raises:
        OutputError: If another process holds the folder.
    """
    if sys.platform == "win32":  # which opens no folders: there everybody is let in
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _lock(handle, folder)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    import fcntl  # not on Windows

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(
            error.errno,
            f"another process is at work in {folder}: wait for it (the same command then reads what it made), "
            "or choose another folder",
        ) from error
    except OSError:  # some network file systems know no locks: there everybody is let in
        pass


def _output_error(path: Path, error: OSError, state: str) -> OutputError:
    remedy = _REMEDIES.get(error.errno or 0, "choose another place")
    return OutputError(error.errno, f"could not write {path}: {error.strerror}. {state}; {remedy}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
