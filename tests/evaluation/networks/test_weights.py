"""Weights are found, checked, pinned, downloaded and asked for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workbench.errors import RequestError
from workbench.evaluation.catalog import EXTRACTORS
from workbench.evaluation.networks import KNOWN, KnownWeights, WeightFiles

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT, cut short once, and remembers the ranges it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}/file"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        wanted = self.headers["Range"]
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = CONTENT[start:] if wanted else CONTENT[:5000]
        self.send_response(206 if wanted else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


def known(url: str | None, sha256: str | None = SHA256) -> dict[str, KnownWeights]:
    one = replace(KNOWN["inception"], url=url, size=len(CONTENT), sha256=sha256)
    return {"inception": one}


def test_a_broken_download_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    files = WeightFiles(tmp_path, known=known(server.url))
    with pytest.raises(RequestError, match=r"should be of size 10240 but has size 5000"):
        files.find("inception")
    assert not (tmp_path / KNOWN["inception"].file).exists()
    found = files.find("inception")
    assert found.path.read_bytes() == CONTENT
    assert found.sha256 == SHA256
    assert server.asked == [None, "bytes=5000-"]
    assert files.find("inception") == found
    assert len(server.asked) == 2


def test_another_file_than_the_published_one_is_not_kept(tmp_path: Path, server: Server) -> None:
    files = WeightFiles(tmp_path, known=known(server.url, "0" * 64))
    (tmp_path / f"{KNOWN['inception'].file}.part").write_bytes(CONTENT[:5000])
    with pytest.raises(RequestError, match=f"another file .*{SHA256}"):
        files.find("inception")
    assert not list(tmp_path.glob("inception*"))


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_missing_file_says_all_that_helps(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    published = KNOWN[name]
    offline = {name: replace(published, url=published.url and "http://127.0.0.1:9/none")}
    with pytest.raises(RequestError) as caught:
        WeightFiles(tmp_path, known=offline).find(name)
    message = str(caught.value)
    for part in (published.file, published.source, f"--weights {name}=PATH", str(tmp_path)):
        assert part in message
    if published.sha256 and published.size:
        assert published.sha256 in message
        assert f"{published.size:,} bytes" in message
        assert "download failed" in message


def test_a_file_of_the_published_name_must_be_the_published_file(tmp_path: Path) -> None:
    (tmp_path / KNOWN["inception"].file).write_bytes(b"something else")
    with pytest.raises(RequestError, match=r"SHA-256 is [0-9a-f]{64}, not f58cb9b6"):
        WeightFiles(tmp_path).find("inception")


def test_what_a_person_points_to_is_used_and_pinned(tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(b"one")
    files = WeightFiles(tmp_path, {"clip": path})
    first = files.find("clip")
    assert first.sha256 == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    with pytest.raises(RequestError, match=r"changed since its first use.*mine\.pt\.pin\.json"):
        files.find("clip")
    (tmp_path / "mine.pt.pin.json").unlink()
    assert files.find("clip").sha256 != first.sha256


def test_a_folders_hash_knows_names_and_contents(tmp_path: Path) -> None:
    def hash_of(contents: dict[str, str]) -> str:
        folder = tmp_path / f"f{len(list(tmp_path.iterdir()))}"
        for name, text in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        return WeightFiles(tmp_path, {"pickscore": folder}).find("pickscore").sha256

    base = hash_of({"a": "1", "b": "2"})
    assert hash_of({"a": "1", "b": "2", ".cache/x": "3"}) == base
    assert base not in (hash_of({"a": "2", "b": "1"}), hash_of({"a": "1", "c": "2"}))


def test_requests_that_cannot_be_met(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="Did you mean 'inception'"):
        WeightFiles(tmp_path, {"inceptoin": tmp_path})
    with pytest.raises(RequestError, match="no such file"):
        WeightFiles(tmp_path, {"clip": tmp_path / "nowhere"}).find("clip")
    with pytest.raises(RequestError, match="Unknown weights"):
        WeightFiles(tmp_path).find("resnet")


def test_every_network_is_needed_by_a_metric() -> None:
    assert all(weights.needed_by for weights in KNOWN.values())
    assert {"inception", "clip", "hpsv2", "pickscore", "aesthetic", "dinov2"} <= set(EXTRACTORS)
