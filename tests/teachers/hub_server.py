"""A local server that speaks as much of the hub's protocol as its own client needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def hub_server(repositories: dict[str, Path], gated: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Serves folders as repositories; yields its address and the list of requests it gets."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def log_message(self, *args: object) -> None:
            pass

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0].strip("/")
            requests.append(f"{self.command} {path}")
            is_api = path.startswith("api/models/")
            parts = path.removeprefix("api/models/").split("/")
            name = "/".join(parts[:2])
            if name in gated:
                return self.fail(403, "GatedRepo")
            if name not in repositories:
                return self.fail(401, "RepoNotFound")
            if is_api:
                answer = self.tree(name) if "tree" in parts else self.info(name)
                return self.send(json.dumps(answer).encode(), body)
            file = repositories[name] / "/".join(parts[4:])
            if not file.is_file():
                return self.fail(404, "EntryNotFound")
            return self.send(file.read_bytes(), body)

        def info(self, name: str) -> dict[str, object]:
            siblings = [{"rfilename": entry["path"]} for entry in self.tree(name)]
            return {"id": name, "sha": COMMIT, "siblings": siblings}

        def tree(self, name: str) -> list[dict[str, object]]:
            root = repositories[name]
            return [
                {
                    "type": "file",
                    "path": file.relative_to(root).as_posix(),
                    "size": file.stat().st_size,
                    "oid": hashlib.sha1(file.read_bytes()).hexdigest(),
                }
                for file in sorted(root.rglob("*"))
                if file.is_file()
            ]

        def send(self, content: bytes, body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def fail(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
