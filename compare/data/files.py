"""Whole files read into memory, decompressed and checked on the way."""

import gzip
import io
import lzma
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from compare.data.source import DataError


def read_file(path: Path) -> bytes:
    """The content of a file, decompressed if it ends in ``.gz`` or ``.xz``.

    Args:
        path: The file.

    Returns:
        All of its bytes; the checksums of compressed files have been verified.

    Raises:
        DataError: If it cannot be read, or its compressed data are damaged or cut short.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"could not read {path}: {error.strerror}") from error
    try:
        return _decompressed(content, path.suffix)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{path}: the compressed data are damaged ({error}); replace the file by an undamaged copy"
        ) from error


def _decompressed(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.decompress(content)
    if suffix == ".xz":
        return lzma.decompress(content)
    return content


def find_file(folder: Path, *names: str) -> Path | None:
    """The first of ``names`` that is a file in ``folder``, as it is or, failing that, with ``.gz`` appended."""
    candidates = (folder / (name + suffix) for name in names for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def read_archive(path: Path) -> dict[str, bytes]:
    """The regular files in a tar archive; nothing is unpacked to disk.

    Args:
        path: ``.tar``, ``.tar.gz`` or ``.tar.xz``.

    Returns:
        Content by member name, without a leading ``./``.

    Raises:
        DataError: If the archive is damaged.
    """
    # Decompressed whole, first: tarfile takes damage in the middle of a compressed stream for the archive's end.
    content = read_file(path)
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            return {str(PurePosixPath(m.name)): _member(archive, m) for m in archive.getmembers() if m.isfile()}
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path}: not a tar archive, or a damaged one ({error})") from error


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None  # only regular files come here
    return file.read()
