import hashlib
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlsplit

import numpy as np
import pytest

from compare.data import DATA_SETS, DataError, cifar, idx, load_data
from compare.data import fetch as remote
from compare.data.fetch import REMOTES, Remote, fetch


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address of a server on this machine and the folder it serves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/", folder
        running.shutdown()
        thread.join()


def _batch(level: int) -> bytes:
    return bytes([3]) + np.full(3072, level, np.uint8).tobytes()


def _offer(monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path], *, damaged: bool = False) -> None:
    """Serve a small binary CIFAR-10 under the names of its loose files."""
    address, folder = server
    remotes = []
    for name in ("data_batch_1.bin", "test_batch.bin"):
        content = _batch(len(remotes))
        checksum = f"md5:{hashlib.md5(content).hexdigest()}"
        (folder / name).write_bytes(content[:-1] + b"\x07" if damaged else content)
        remotes.append(Remote(address + name, checksum))
    monkeypatch.setattr(remote, "REMOTES", MappingProxyType({"cifar10": tuple(remotes)}))


def test_files_are_fetched_into_the_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    _offer(monkeypatch, server)
    root = tmp_path / "not" / "there" / "yet"
    data = load_data("cifar10", root, download=True)
    assert data.train.x.unique().tolist() == [-255]
    assert data.test.x.unique().tolist() == [-253]
    assert sorted(path.name for path in (root / "cifar10").iterdir()) == ["data_batch_1.bin", "test_batch.bin"]
    monkeypatch.setattr("compare.data.load.fetch", lambda *_: pytest.fail("fetched again"))
    assert load_data("cifar10", root, download=True).train.x.tolist() == data.train.x.tolist()
    assert load_data("cifar10", root).train.x.tolist() == data.train.x.tolist()


def test_without_a_folder_files_go_to_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    _offer(monkeypatch, server)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    assert len(load_data("cifar10", download=True).train) == 1
    assert (tmp_path / "cache" / "binarynets" / "cifar10" / "test_batch.bin").is_file()


def test_a_file_with_another_checksum_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: tuple[str, Path]
) -> None:
    _offer(monkeypatch, server, damaged=True)
    with pytest.raises(DataError, match=r"could not fetch http://.*data_batch_1\.bin into .*hash"):
        load_data("cifar10", tmp_path, download=True)
    assert list((tmp_path / "cifar10").iterdir()) == []


def test_a_file_that_is_not_on_the_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server) -> None:
    _offer(monkeypatch, server)
    (server[1] / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"could not fetch .*test_batch\.bin into .*404"):
        fetch("cifar10", tmp_path / "here")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["data_batch_1.bin"]


def test_a_server_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    nobody = Remote("http://127.0.0.1:1/data_batch_1.bin", "md5:" + "0" * 32)
    monkeypatch.setattr(remote, "REMOTES", {"cifar10": (nobody,)})
    with pytest.raises(DataError, match="Check the connection"):
        fetch("cifar10", tmp_path)


def test_what_is_fetched_is_what_is_looked_for() -> None:
    assert set(REMOTES) == set(DATA_SETS) - {"digits", "images"}
    for name, remotes in REMOTES.items():
        assert all(re.fullmatch("md5:[0-9a-f]{32}", file.checksum) for file in remotes)
        assert all(urlsplit(file.url).path.endswith(file.file) for file in remotes)
        if name == "cifar10":
            assert all(file.file in cifar.EXPECTED for file in remotes)
        else:
            assert {file.file.removesuffix(".gz") for file in remotes} == set(idx.FILES)
