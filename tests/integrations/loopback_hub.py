"""A hub on the loopback interface: the part of its HTTP interface that pushing, loading and streaming datasets uses.

Repositories live in memory. Each has one branch, `main`, and a commit is a list of (path -> content).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

USER = "tester"
_DATE = "2026-01-01T00:00:00.000Z"
_UPLOADED_APART = (".parquet", ".arrow", ".bin", ".mp4", ".wav", ".jpg", ".png")


@dataclass
class Repository:
    """The commits of a repository: digest -> files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""

    def commit(self, files: dict[str, bytes]) -> str:
        told = json.dumps([len(self.commits), sorted((name, digest(data)) for name, data in files.items())])
        self.head = hashlib.sha1(told.encode()).hexdigest()
        self.commits[self.head] = files
        return self.head

    def files(self, revision: str | None) -> dict[str, bytes]:
        return self.commits[revision if revision in self.commits else self.head]


@dataclass
class Hub:
    """What is stored, and what was asked for: (method, path) of each request."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def card(self, name: str) -> str:
        return self.repositories[name].files(None)["README.md"].decode()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((self.command, url.path))
        try:
            for pattern, answer in ROUTES:
                found = re.fullmatch(pattern, url.path)
                if found:
                    answer(self, **{name: unquote(part) for name, part in found.groupdict().items() if part})
                    return
            raise Refused(404, "EntryNotFound", f"no route {self.command} {self.path}")
        except Refused as refused:
            self.reply(
                refused.status,
                json.dumps({"error": str(refused)}).encode(),
                {"X-Error-Code": refused.code, "X-Error-Message": str(refused)},
            )

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def reply(
        self, status: int, data: bytes, headers: dict[str, str] | None = None, length: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def json(self, value: object) -> None:
        self.reply(200, json.dumps(value).encode())

    def repository(self, name: str) -> Repository:
        if name not in self.hub.repositories:
            raise Refused(404, "RepoNotFound", f"no repository {name}")
        return self.hub.repositories[name]

    # ------------------------------------------------------------------------------------------ accounts, repositories

    def who_am_i(self) -> None:
        self.json({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": {}}})

    def validate(self) -> None:
        self.json({"errors": [], "warnings": []})

    def create(self) -> None:
        asked = json.loads(self.content)
        name = f"{asked.get('organization') or USER}/{asked['name']}"
        if name in self.hub.repositories:
            raise Refused(409, "", "You already created this dataset repo")
        self.hub.repositories[name] = Repository()
        self.hub.repositories[name].commit({".gitattributes": b""})
        self.json({"url": f"{self.hub.endpoint}/datasets/{name}", "name": name, "id": name})

    def describe(self, name: str, revision: str | None = None) -> None:
        repository = self.repository(name)
        self.json(
            {
                "_id": "0",
                "id": name,
                "sha": revision if revision in repository.commits else repository.head,
                "lastModified": _DATE,
                "createdAt": _DATE,
                "private": False,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [{"rfilename": path} for path in sorted(repository.files(revision))],
            }
        )

    # -------------------------------------------------------------------------------------------------- files, commits

    def entry(self, path: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": path, "oid": digest(data)[:40], "size": len(data)}
        if path.endswith(_UPLOADED_APART):
            entry["lfs"] = {"oid": digest(data), "size": len(data), "pointerSize": 130}
        return entry

    def tree(self, name: str, revision: str, path: str = "") -> None:
        files = self.repository(name).files(revision)
        below = f"{path}/" if path else ""
        found = [file for file in sorted(files) if file.startswith(below)]
        if path and not found:
            raise Refused(404, "EntryNotFound", f"no {path}")
        entries, folders = [], set()
        for file in found:
            parts = file[len(below) :].split("/")
            for depth in range(1, len(parts)):
                folder = below + "/".join(parts[:depth])
                if folder not in folders and (depth == 1 or "recursive" in self.query):
                    folders.add(folder)
                    entries.append({"type": "directory", "path": folder, "oid": digest(folder.encode())[:40]})
            if len(parts) == 1 or self.query.get("recursive", ["false"])[0].lower() in ("true", "1"):
                entries.append(self.entry(file, files[file]))
        self.json(entries)

    def paths_info(self, name: str, revision: str) -> None:
        files = self.repository(name).files(revision)
        typed = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(self.content) if typed else parse_qs(self.content.decode())
        found = []
        for path in asked["paths"]:
            if path in files:
                found.append(self.entry(path, files[path]))
            elif any(file.startswith(f"{path}/") for file in files):
                found.append({"type": "directory", "path": path, "oid": digest(path.encode())[:40]})
        self.json(found)

    def preupload(self, name: str, revision: str) -> None:
        answers = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(_UPLOADED_APART) else "regular"}
            for file in json.loads(self.content)["files"]
        ]
        self.json({"files": [{**answer, "shouldIgnore": False} for answer in answers]})

    def upload_plan(self, name: str) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.endpoint}/upload/{one['oid']}", "header": {}}}}
            for one in json.loads(self.content)["objects"]
        ]
        self.json({"transfer": "basic", "objects": objects})

    def upload(self, oid: str) -> None:
        if digest(self.content) != oid:
            raise Refused(400, "", "the content is not what was announced")
        self.hub.uploads[oid] = self.content
        self.reply(200, b"")

    def commit(self, name: str, revision: str) -> None:
        repository = self.repository(name)
        files = dict(repository.files(None))
        for line in filter(None, self.content.splitlines()):
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(files)
        url = f"{self.hub.endpoint}/datasets/{name}"
        self.json({"success": True, "commitOid": oid, "commitUrl": f"{url}/commit/{oid}", "hookOutput": ""})

    def download(self, name: str, revision: str, path: str) -> None:
        repository = self.repository(name)
        data = repository.files(revision).get(path)
        if data is None:
            raise Refused(404, "EntryNotFound", f"no {path}")
        head = revision if revision in repository.commits else repository.head
        headers = {"ETag": f'"{digest(data)}"', "X-Repo-Commit": head, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted is None:
            self.reply(200, data, headers)
            return
        start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self.reply(206, data[start : end + 1], headers)


_NAME = r"(?P<name>[^/]+/[^/]+)"
_REPOSITORY, _REVISION = rf"/api/datasets/{_NAME}", r"(?P<revision>[^/]+)"
ROUTES = (
    (r"/api/whoami-v2", Handler.who_am_i),
    (r"/api/validate-yaml", Handler.validate),
    (r"/api/repos/create", Handler.create),
    (rf"{_REPOSITORY}/tree/{_REVISION}(?:/(?P<path>.*))?", Handler.tree),
    (rf"{_REPOSITORY}/paths-info/{_REVISION}", Handler.paths_info),
    (rf"{_REPOSITORY}/preupload/{_REVISION}", Handler.preupload),
    (rf"{_REPOSITORY}/commit/{_REVISION}", Handler.commit),
    (rf"{_REPOSITORY}(?:/revision/{_REVISION})?", Handler.describe),
    (rf"/datasets/{_NAME}\.git/info/lfs/objects/batch", Handler.upload_plan),
    (r"/upload/(?P<oid>[0-9a-f]{64})", Handler.upload),
    (rf"/datasets/{_NAME}/resolve/{_REVISION}/(?P<path>.+)", Handler.download),
)


def hub_environment(hub: Hub, home: Path) -> dict[str, str]:
    """The environment of a process that takes this hub for its own.

    Args:
        hub: The hub, which must be running.
        home: Folder for what the client keeps.
    """
    repository = str(Path(__file__).parents[2])
    paths = os.pathsep.join([repository, *filter(None, [os.environ.get("PYTHONPATH")])])
    kept = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_OFFLINE"}
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_TOKEN": "hf_test"}
    return {**kept, **own, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": paths}


@contextmanager
def loopback_hub() -> Iterator[Hub]:
    """Runs a hub for as long as the context lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
