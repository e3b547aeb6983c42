"""Original files from their authors' or a mirror's server, accepted only with the checksum that is known of them."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from compare.data.source import DataError


@dataclass(frozen=True)
class Remote:
    """One file on a server.

    Attributes:
        url: Its last part is the file's name.
        checksum: Algorithm and digest, such as ``"md5:..."``.
    """

    url: str
    checksum: str

    @property
    def file(self) -> str:
        """The name to store it under."""
        return self.url.rsplit("/", 1)[-1]


_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"

REMOTES: Mapping[str, tuple[Remote, ...]] = MappingProxyType(
    {
        "mnist": (
            Remote(_MNIST + "train-images-idx3-ubyte.gz", "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            Remote(_MNIST + "train-labels-idx1-ubyte.gz", "md5:d53e105ee54ea40749a09fcbcd1e9432"),
            Remote(_MNIST + "t10k-images-idx3-ubyte.gz", "md5:9fb629c4189551a2d022fa330f9573f3"),
            Remote(_MNIST + "t10k-labels-idx1-ubyte.gz", "md5:ec29112dd5afa0611ce80d1b7f02629c"),
        ),
        "fashion-mnist": (
            Remote(_FASHION + "train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            Remote(_FASHION + "train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe"),
            Remote(_FASHION + "t10k-images-idx3-ubyte.gz", "md5:bef4ecab320f06d8554ea6380940ec79"),
            Remote(_FASHION + "t10k-labels-idx1-ubyte.gz", "md5:bb300cfdad3c16e7a12a480ee83cd310"),
        ),
        "cifar10": (
            Remote(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "md5:c32a1d4ab5d03f1284b67883e8d87530",
            ),
        ),
    }
)


def fetch(name: str, folder: Path) -> None:
    """Fetch the files of a data set that are not in ``folder`` yet, with a progress bar on a terminal.

    Args:
        name: A key of ``REMOTES``.
        folder: Made if it is missing. Each file appears there whole, once its checksum is verified.

    Raises:
        DataError: Naming the address, if it cannot be reached, or its content is not what is expected.
    """
    import pooch

    for remote in REMOTES[name]:
        try:
            pooch.retrieve(remote.url, remote.checksum, fname=remote.file, path=folder, progressbar=sys.stderr.isatty())
        except (OSError, ValueError) as error:  # no connection or no space; another checksum
            raise DataError(
                f"{name}: could not fetch {remote.url} into {folder}: {error}. "
                "Check the connection and try again, or put the file there yourself."
            ) from error


def cache() -> Path:
    """Where fetched files go when no folder is given: the user's cache folder of the operating system."""
    import pooch

    return Path(pooch.os_cache("binarynets"))
