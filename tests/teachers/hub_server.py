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
OLDER = "76543210fedcba9876543210fedcba9876543210"
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": OLDER, OLDER: OLDER}
KNOWN_TOKEN = "hf_knownknownknownknown"
"""A token the server knows, of an account that has accepted no licence."""


@contextmanager
def hub_server(
    repositories: dict[str, Path], gated: set[str], older: dict[str, Path] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Serves folders as repositories; yields its address and the list of requests it gets.

    Args:
        repositories: at the branch main.
        gated: their names; no token opens them.
        older: the same repositories at the tag v1.
    """
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
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token and token != KNOWN_TOKEN:
                return self.fail(401, "", "Invalid credentials in Authorization header")
            if name in gated:
                return self.fail(403 if token else 401, "GatedRepo")
            if name not in repositories:
                return self.fail(401, "RepoNotFound")
            # api: owner/name[/revision|tree|auth-check/...]; files: owner/name/resolve/revision/...
            revision = parts[3] if len(parts) > 3 else "main"
            if revision not in REVISIONS:
                return self.fail(404, "RevisionNotFound")
            commit = REVISIONS[revision]
            root = (older or {}).get(name) if commit == OLDER else repositories[name]
            if root is None:
                return self.fail(404, "RevisionNotFound")
            if is_api:
                answer = self.tree(root) if "tree" in parts else self.info(name, root, commit)
                return self.send(json.dumps(answer).encode(), commit, body)
            file = root / "/".join(parts[4:])
            if not file.is_file():
                return self.fail(404, "EntryNotFound")
            return self.send(file.read_bytes(), commit, body)

        def info(self, name: str, root: Path, commit: str) -> dict[str, object]:
            siblings = [
                {"rfilename": entry["path"], "size": entry["size"]} for entry in self.tree(root)
            ]
            return {"id": name, "sha": commit, "siblings": siblings}

        def tree(self, root: Path) -> list[dict[str, object]]:
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

        def send(self, content: bytes, commit: str, body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def fail(self, status: int, code: str, message: str = "") -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
