"""Files that are written whole or not at all."""

import os
import tempfile
from pathlib import Path

from compare.errors import CompareError


class OutputError(CompareError, OSError):
    """A file or folder that could not be written."""


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
            raise OutputError(
                error.errno,
                f"could not write {path}: {error.strerror}. Nothing was left half written; "
                "free some space or choose another folder, and run the same command again.",
            ) from error
        raise


def write_text(path: Path, content: str) -> None:
    """As ``write_bytes``, in UTF-8."""
    write_bytes(path, content.encode("utf-8"))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
