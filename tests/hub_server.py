"""A small Hub on 127.0.0.1 that the real `huggingface_hub` and `datasets` talk to.

Repositories of datasets with branches, pull requests, commits, LFS files, privacy and gates, all in memory. It notes
every request, and fails as a script of `Fault`s says.

    hub = HubServer()
    hub.faults.append(Fault("POST", "/commit/", status=503))
    …
    hub.stop()
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "test" * 6
"""May write to what `user` and `org` own."""
READ_TOKEN = "hf_" + "read" * 6
"""Of `user`, but may only read."""
_LFS_BYTES = 10 << 20
_SLICE = 1 << 16


@dataclass
class Fault:
    """What happens to requests of a method (or any) whose path holds `part`: `times` of them, after `skip` that pass.

    Attributes:
        status: answered instead of doing anything, with `headers` and `message`.
        drop: bytes of the body after which the connection breaks.
        lost: it is done, but the connection breaks before the answer.
        delay: seconds before anything is done.
        call: something to do first.
    """

    method: str
    part: str
    status: int = 0
    times: int = 1
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "a fault of the script"
    drop: int | None = None
    lost: bool = False
    delay: float = 0
    call: Callable[[], None] | None = None


class Request(NamedTuple):
    """What was asked, how many bytes came with it, and the status that was answered (0: none)."""

    method: str
    path: str
    bytes: int
    status: int


class Blob(NamedTuple):
    """A file: by its own oid, or by one of a storage of its own (Xet), which alone has the content."""

    oid: str
    data: bytes
    is_lfs: bool
    xet: str | None = None
    xet_size: int = 0

    @property
    def size(self) -> int:
        return self.xet_size if self.xet else len(self.data)


@dataclass
class Repo:
    private: bool
    gated: bool = False
    # By full name of the ref; a branch by its own.
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, Blob], message: str) -> str:
        sha = hashlib.sha1(f"{ref} {len(self.messages)} {message}".encode()).hexdigest()
        self.commits[sha], self.messages[sha], self.refs[ref] = files, message, sha
        return sha

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


class Refused(Exception):
    """Answered with a status."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = headers | ({"X-Error-Code": code} if code else {}) | {"X-Error-Message": message}


class HubServer:
    """The Hub; `url` is its address."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.tokens = {TOKEN: "write", READ_TOKEN: "read"}
        self.namespaces = {"user", "org"}
        # Where Xet keeps chunks, once a test wants it.
        self.xet: Path | None = None
        self.lock = threading.RLock()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def create(self, repo_id: str, *, private: bool = True, gated: bool = False, **files: bytes) -> Repo:
        """A repository as someone else made it."""
        repo = self.repos[repo_id] = Repo(private, gated)
        first = {".gitattributes": b"*.parquet filter=lfs\n", **files}
        repo.commit("main", {name: _blob(data, name) for name, data in first.items()}, "initial commit")
        return repo

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision, without what every repository begins with."""
        repo = self.repos[repo_id]
        sha = repo.find(revision)
        assert sha is not None
        return {path: blob.data for path, blob in repo.commits[sha].items() if path != ".gitattributes"}

    def put(self, repo_id: str, path: str, data: bytes | None, ref: str = "main") -> None:
        """Write or delete a file as another user does."""
        repo = self.repos[repo_id]
        files = dict(repo.commits[repo.refs[ref]])
        files.pop(path, None)
        if data is not None:
            files[path] = _blob(data, path)
        repo.commit(ref, files, f"change {path}")

    def sent(self, part: str = "") -> int:
        """Bytes that came with requests whose path holds `part`."""
        return sum(request.bytes for request in self.requests if part in request.path)

    def asked(self, method: str, part: str = "") -> list[Request]:
        return [request for request in self.requests if request.method == method and part in request.path]

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method in (method, "") and fault.part in path and fault.times:
                    if fault.skip:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients that were killed break connections; that is what is tested.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection. Routes are tried in order; `{id}` is namespace/name."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server_hub: HubServer
    sent = 0

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        hub = self.server_hub
        self.sent = 0
        url = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        fault = hub.fault(self.command, self.path)
        try:
            self._handle(url.path, fault)
        except (BrokenPipeError, ConnectionError, TimeoutError):
            self._note(0)
            self.close_connection = True

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _handle(self, path: str, fault: Fault | None) -> None:
        if fault and fault.call:
            fault.call()
        if fault and fault.delay:
            threading.Event().wait(fault.delay)
        self.body = b"".join(self._read(fault.drop if fault else None))
        if fault and fault.drop is not None:
            self._break()
            return
        try:
            if fault and fault.status:
                raise Refused(fault.status, fault.message, **fault.headers)
            answer = self._route(path)
        except Refused as refused:
            answer = refused.status, json.dumps({"error": refused.message}).encode(), refused.headers
        if fault and fault.lost:
            self._break()
            return
        self._answer(*answer)

    def _read(self, limit: int | None) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self._count(self.rfile.read(size))
                self.rfile.readline()
                if limit is not None and self.sent >= limit:
                    return
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        if limit is not None:
            left = min(left, limit)
        while left > 0:
            if not (data := self._count(self.rfile.read(min(left, _SLICE)))):
                raise ConnectionError("the client is gone")
            left -= len(data)
            yield data

    def _count(self, data: bytes) -> bytes:
        self.sent += len(data)
        return data

    def _note(self, status: int) -> None:
        with self.server_hub.lock:
            self.server_hub.requests.append(Request(self.command, self.path, self.sent, status))

    def _break(self) -> None:
        self._note(0)
        # Without lingering the client sees a reset.
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        # Before the client knows, who may look at once.
        self._note(status)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # Who asks

    def _token(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        if token is not None and token not in self.server_hub.tokens:
            raise Refused(401, "Invalid credentials in Authorization header")
        return token

    def _repo(self, repo_id: str, *, write: bool = False, content: bool = False) -> Repo:
        token = self._token()
        repo = self.server_hub.repos.get(repo_id)
        owner = repo_id.removeprefix("buckets/").split("/")[0]
        mine = token is not None and owner in self.server_hub.namespaces
        if repo is None or (repo.private and not mine):
            # As the Hub: what may not be seen is not there.
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write and token is None:
            raise Refused(401, "Invalid username or password.")
        if write and not (mine and self.server_hub.tokens[token or ""] == "write"):
            raise Refused(403, "You need write access to this repository")
        if content and repo.gated and not mine:
            raise Refused(401 if token is None else 403, "Access to this dataset is restricted", "GatedRepo")
        return repo

    def _files(self, repo: Repo, revision: str) -> tuple[str, dict[str, Blob]]:
        sha = repo.find(unquote(revision))
        if sha is None:
            raise Refused(404, f"Invalid rev id: {unquote(revision)}", "RevisionNotFound")
        return sha, repo.commits[sha]

    # What is asked

    def _route(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        for method, pattern, handle in _ROUTES:
            match = pattern.fullmatch(path)
            if match and self.command in (method, "HEAD" if method == "GET" else ""):
                found = handle(self, **match.groupdict())
                return found if isinstance(found, tuple) else (200, json.dumps(found).encode(), _JSON)
        raise Refused(404, f"no such endpoint: {self.command} {path}")

    def _whoami(self) -> Any:
        if self._token() is None:
            raise Refused(401, "Invalid username or password.")
        return {"type": "user", "name": "user", "orgs": [{"name": "org"}], "auth": {"accessToken": {"role": "write"}}}

    def _create(self) -> Any:
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or 'user'}/{asked['name']}"
        hub = self.server_hub
        token = self._token()
        if token is None:
            raise Refused(401, "Invalid username or password.")
        if hub.tokens[token] != "write" or repo_id.split("/")[0] not in hub.namespaces:
            raise Refused(403, f'You don\'t have the rights to create a dataset under the namespace "{repo_id}"')
        with hub.lock:
            if repo_id in hub.repos:
                answer = {"url": f"{hub.url}/datasets/{repo_id}", "error": "You already created this dataset repo"}
                return 409, json.dumps(answer).encode(), _JSON
            private = asked.get("private", asked.get("visibility") == "private")
            hub.create(repo_id, private=private)
        return {"url": f"{hub.url}/datasets/{repo_id}", "name": repo_id}

    def _delete(self) -> Any:
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or 'user'}/{asked['name']}"
        self._repo(repo_id, write=True)
        del self.server_hub.repos[repo_id]
        return {}

    def _settings(self, id: str) -> Any:
        repo = self._repo(id, write=True)
        asked = json.loads(self.body)
        repo.private = asked.get("private", asked.get("visibility", "private" if repo.private else "") == "private")
        repo.gated = bool(asked.get("gated", repo.gated))
        return {}

    def _info(self, id: str, revision: str = "main") -> Any:
        repo = self._repo(id)
        sha, files = self._files(repo, revision)
        return {
            "_id": "0" * 24, "id": id, "author": id.split("/")[0], "sha": sha, "private": repo.private,
            "gated": "auto" if repo.gated else False, "disabled": False, "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": path} for path in files], "createdAt": _DATE, "lastModified": _DATE,
        }  # fmt: skip

    def _refs(self, id: str) -> Any:
        repo = self._repo(id)
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha}
            for name, sha in repo.refs.items()
            if not name.startswith("refs/")
        ]
        pulls = [
            {"name": name.removeprefix("refs/"), "ref": name, "targetCommit": sha}
            for name, sha in repo.refs.items()
            if name.startswith("refs/pr/")
        ]
        return {"branches": branches, "tags": [], "converts": [], "pullRequests": pulls}

    def _squash(self, id: str, revision: str) -> Any:
        repo = self._repo(id, write=True)
        repo.commit(unquote(revision), self._files(repo, revision)[1], "squash")
        # What no ref leads to is gone in time.
        for old in set(repo.commits) - set(repo.refs.values()):
            del repo.commits[old]
        return {}

    def _large(self, id: str) -> Any:
        self._repo(id)
        return [
            {"fileOid": oid, "filename": "?", "oid": oid, "pushedAt": _DATE, "ref": None, "size": len(data)}
            for oid, data in self.server_hub.lfs.items()
        ]

    def _delete_large(self, id: str) -> Any:
        self._repo(id, write=True)
        for oid in json.loads(self.body)["deletions"]["sha"]:
            del self.server_hub.lfs[oid]
        return {}

    def _branch(self, id: str, name: str) -> Any:
        repo = self._repo(id, write=True)
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        if unquote(name) in repo.refs:
            raise Refused(409, f"Reference already exists: {unquote(name)}")
        repo.refs[unquote(name)] = self._files(repo, start)[0]
        return {}

    def _validate(self) -> Any:
        return {"errors": [], "warnings": []}

    def _preupload(self, id: str, revision: str) -> Any:
        repo = self._repo(id, write=True)
        _, files = self._files(repo, revision)
        answers = []
        for asked in json.loads(self.body)["files"]:
            old = files.get(asked["path"])
            mode = "lfs" if _is_lfs(asked["path"], asked["size"]) else "regular"
            answers.append(
                {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": old.oid if old else None}
            )
        return {"files": answers}

    def _batch(self, id: str) -> Any:
        self._repo(id, write=True)
        hub = self.server_hub
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in hub.lfs:
                answer["actions"] = {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}"}}
            objects.append(answer)
        return 200, json.dumps({"transfer": "basic", "objects": objects}).encode(), _JSON

    def _upload(self, oid: str) -> Any:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the content does not match its checksum")
        self.server_hub.lfs[oid] = self.body
        return 200, b"", {"ETag": f'"{oid}"'}

    def _commit(self, id: str, revision: str) -> Any:
        hub = self.server_hub
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = lines[0]["value"]
        with hub.lock:
            repo = self._repo(id, write=True)
            ref = unquote(revision)
            sha, files = self._files(repo, revision)
            files = dict(files)
            is_pr = self.query.get("create_pr") == "1"
            parent = header.get("parentCommit")
            if parent and parent != sha and not is_pr:
                raise Refused(412, "The expected parent commit is not the head; a commit has happened since.")
            for line in lines[1:]:
                self._apply(files, line["key"], line["value"])
            if is_pr:
                number = 1 + sum(name.startswith("refs/pr/") for name in repo.refs)
                ref = f"refs/pr/{number}"
            oid = repo.commit(ref, files, header["summary"])
        answer = {"commitOid": oid, "commitUrl": f"{hub.url}/datasets/{id}/commit/{oid}", "hookOutput": ""}
        if is_pr:
            answer["pullRequestUrl"] = f"{hub.url}/datasets/{id}/discussions/{number}"
        return answer

    def _apply(self, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = _blob(base64.b64decode(value["content"]), path, is_lfs=False)
        elif key == "lfsFile":
            data = self._stored(value["oid"], value["size"])
            if data is None:
                raise Refused(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = data
        elif key == "deletedFile":
            if path not in files:
                raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del files[path]
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]

    def _stored(self, oid: str, size: int) -> Blob | None:
        hub = self.server_hub
        if oid in hub.lfs:
            return Blob(oid, hub.lfs[oid], True)
        if hub.xet and (xet := _xet_files(hub.xet).get(oid)):
            return Blob(oid, b"", True, xet, size)
        return None

    def _xet_token(self, id: str, kind: str, revision: str) -> Any:
        self._repo(id, write=kind == "write")
        told = {"accessToken": "x", "exp": int(time.time()) + 3600, "casUrl": f"local://{self.server_hub.xet}"}
        names = ("X-Xet-Access-Token", "X-Xet-Token-Expiration", "X-Xet-Cas-Url")
        headers = {name: str(value) for name, value in zip(names, told.values(), strict=True)}
        return 200, json.dumps(told).encode(), _JSON | headers

    def _tree(self, id: str, revision: str, path: str = "") -> Any:
        repo = self._repo(id)
        _, files = self._files(repo, revision)
        folder = unquote(path).strip("/")
        prefix = f"{folder}/" if folder else ""
        below = {name: blob for name, blob in files.items() if name.startswith(prefix)}
        if folder and not below:
            raise Refused(404, f"{folder} does not exist on {unquote(revision)}", "EntryNotFound")
        everything = self.query.get("recursive", "false").lower() in ("true", "1")
        found: list[dict[str, Any]] = []
        folders: set[str] = set()
        for name, blob in sorted(below.items()):
            parts = name[len(prefix) :].split("/")
            for depth in range(1, len(parts) if everything else min(len(parts), 2)):
                folders.add(prefix + "/".join(parts[:depth]))
            if everything or len(parts) == 1:
                found.append(_entry(name, blob))
        return [{"type": "directory", "path": one, "size": 0, "oid": "0" * 40} for one in sorted(folders)] + found

    def _paths(self, id: str, revision: str) -> Any:
        repo = self._repo(id)
        _, files = self._files(repo, revision)
        body = self.body.decode()
        asked = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        found = []
        for path in [asked] if isinstance(asked, str) else asked:
            if path in files:
                found.append(_entry(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                found.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        return found

    def _resolve(self, id: str, revision: str, path: str) -> Any:
        repo = self._repo(id, content=True)
        sha, files = self._files(repo, revision)
        blob = files.get(unquote(path))
        if blob is None:
            raise Refused(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(blob.size)}
        if blob.xet:
            route = f"{self.server_hub.url}/api/datasets/{id}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": blob.xet, "X-Xet-Refresh-Route": route}
        if blob.xet:
            return 200, blob.data, headers | {"Content-Length": str(blob.size)}
        return self._part(blob.data, headers)

    def _part(self, data: bytes, headers: dict[str, str]) -> Any:
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            return 206, data[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        return 200, data, headers

    # Buckets: repositories under another name, of which only the last state is known

    def _bucket_create(self, id: str) -> Any:
        if self._token() is None or id.split("/")[0] not in self.server_hub.namespaces:
            raise Refused(403, "You don't have the rights to create a bucket here")
        name = f"buckets/{id}"
        url = {"url": f"{self.server_hub.url}/{name}"}
        if name in self.server_hub.repos:
            return 409, json.dumps(url | {"error": "exists"}).encode(), _JSON
        asked = json.loads(self.body)
        self.server_hub.repos[name] = Repo(asked.get("private", asked.get("visibility") == "private"))
        self.server_hub.repos[name].commit("main", {}, "new")
        return url

    def _bucket_files(self, id: str, write: bool = False) -> tuple[Repo, dict[str, Blob]]:
        repo = self._repo(f"buckets/{id}", write=write)
        return repo, repo.commits[repo.refs["main"]]

    def _bucket_info(self, id: str) -> Any:
        repo, files = self._bucket_files(id)
        size = sum(blob.size for blob in files.values())
        return {"id": id, "private": repo.private, "createdAt": _DATE, "size": size, "totalFiles": len(files)}

    def _bucket_tree(self, id: str, path: str = "") -> Any:
        _, files = self._bucket_files(id)
        folder = unquote(path)
        everything = self.query.get("recursive", "false").lower() in ("true", "1")
        found: dict[str, dict[str, Any]] = {}
        for name, blob in files.items():
            if not folder or name == folder or name.startswith(f"{folder}/"):
                below = name.removeprefix(f"{folder}/" if folder else "").split("/")
                if everything or len(below) == 1:
                    found[name] = _bucket_entry(name, blob)
                else:
                    top = "/".join([*([folder] if folder else []), below[0]])
                    found[top] = {"type": "directory", "path": top, "uploadedAt": _DATE}
        return list(found.values())

    def _bucket_paths(self, id: str) -> Any:
        _, files = self._bucket_files(id)
        return [_bucket_entry(path, files[path]) for path in json.loads(self.body)["paths"] if path in files]

    def _bucket_batch(self, id: str) -> Any:
        hub = self.server_hub
        assert hub.xet
        sizes = _xet_sizes(hub.xet)
        with hub.lock:
            repo, files = self._bucket_files(id, write=True)
            files = dict(files)
            for line in self.body.splitlines():
                asked = json.loads(line)
                if asked["type"] == "addFile":
                    xet = asked["xetHash"]
                    files[asked["path"]] = Blob(xet, b"", True, xet, sizes[xet])
                else:
                    files.pop(asked["path"], None)
            repo.commit("main", files, "batch")
        return {"success": True, "processed": 1, "failed": []}

    def _bucket_token(self, id: str, kind: str) -> Any:
        return self._xet_token(f"buckets/{id}", kind, "main")

    def _bucket_resolve(self, id: str, path: str) -> Any:
        _, files = self._bucket_files(id)
        blob = files.get(unquote(path))
        if blob is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        assert blob.xet
        route = f"{self.server_hub.url}/api/buckets/{id}/xet-read-token"
        headers = {"X-Xet-Hash": blob.xet, "X-Xet-Refresh-Route": route, "X-Linked-Size": str(blob.size)}
        if self.command == "HEAD":
            return 200, b"", headers | {"Content-Length": str(blob.size)}
        return self._part(self._from_xet(blob), headers)

    def _from_xet(self, blob: Blob) -> bytes:
        import hf_xet

        with tempfile.TemporaryDirectory() as folder:
            with hf_xet.XetSession().new_file_download_group(
                endpoint=f"local://{self.server_hub.xet}", token="x", token_expiry_unix_secs=int(time.time()) + 3600
            ) as group:
                group.start_download_file(hf_xet.XetFileInfo(blob.xet, blob.size), f"{folder}/file")
            return Path(folder, "file").read_bytes()


def _is_lfs(path: str, size: int) -> bool:
    return path.endswith(".parquet") or size > _LFS_BYTES


def _blob(data: bytes, path: str, is_lfs: bool | None = None) -> Blob:
    if is_lfs or (is_lfs is None and _is_lfs(path, len(data))):
        return Blob(hashlib.sha256(data).hexdigest(), data, True)
    return Blob(hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), data, False)


def _entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    if blob.is_lfs:
        entry["oid"] = hashlib.sha1(blob.oid.encode()).hexdigest()
        entry["lfs"] = {"oid": blob.oid, "size": blob.size, "pointerSize": 130}
    if blob.xet:
        entry["xetHash"] = blob.xet
    return entry


def _xet_files(folder: Path) -> dict[str, str]:
    """SHA-256 to Xet's hash of all files that were uploaded and told it."""
    return {sha256: xet for xet, sha256, _ in _xet_shards(folder) if sha256}


def _xet_sizes(folder: Path) -> dict[str, int]:
    """Size by Xet's hash."""
    return {xet: size for xet, _, size in _xet_shards(folder)}


def _xet_shards(folder: Path) -> Iterator[tuple[str, str | None, int]]:
    """Of each file its hash, its SHA-256 and its size, as the shards of Xet tell.

    A shard: 48 bytes, then for each file a header (hash, flags, number of segments), the segments (hash, flags, bytes,
    …), as many proofs (flag 1 << 31), and the SHA-256 (flag 1 << 30); all in blocks of 48 bytes. A hash is four
    little-endian numbers.
    """
    for shard in folder.rglob("shards/*.mdb"):
        data, at = shard.read_bytes(), 48
        while (name := data[at : at + 32]) != b"\xff" * 32:
            flags, count = struct.unpack_from("<II", data, at + 32)
            size = sum(struct.unpack_from("<I", data, at + 48 * (1 + segment) + 36)[0] for segment in range(count))
            at += 48 * (1 + count * (2 if flags >> 31 else 1))
            sha256 = None
            if flags & 1 << 30:
                sha256 = _hash_text(data[at : at + 32])
                at += 48
            yield _hash_text(name), sha256, size


def _hash_text(data: bytes) -> str:
    return b"".join(data[at : at + 8][::-1] for at in range(0, 32, 8)).hex()


def _bucket_entry(path: str, blob: Blob) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": blob.size, "xetHash": blob.xet, "mtime": _DATE, "uploadedAt": _DATE}


_JSON = {"Content-Type": "application/json"}
_DATE = "2026-01-01T00:00:00.000Z"


def _route(method: str, pattern: str, handle: Callable[..., Any]) -> tuple[str, re.Pattern[str], Callable[..., Any]]:
    pattern = pattern.replace("{id}", "(?P<id>[^/]+/[^/]+?)")
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", pattern)
    return method, re.compile(pattern.replace("{*path}", "(?P<path>.+)")), handle


_ROUTES = [
    _route("GET", "/api/whoami-v2", _Handler._whoami),
    _route("POST", "/api/repos/create", _Handler._create),
    _route("DELETE", "/api/repos/delete", _Handler._delete),
    _route("PUT", "/api/datasets/{id}/settings", _Handler._settings),
    _route("GET", "/api/datasets/{id}", _Handler._info),
    _route("GET", "/api/datasets/{id}/revision/{revision}", _Handler._info),
    _route("GET", "/api/datasets/{id}/refs", _Handler._refs),
    _route("POST", "/api/datasets/{id}/branch/{name}", _Handler._branch),
    _route("POST", "/api/datasets/{id}/super-squash/{revision}", _Handler._squash),
    _route("GET", "/api/datasets/{id}/lfs-files", _Handler._large),
    _route("POST", "/api/datasets/{id}/lfs-files/batch", _Handler._delete_large),
    _route("POST", "/api/validate-yaml", _Handler._validate),
    _route("POST", "/api/datasets/{id}/preupload/{revision}", _Handler._preupload),
    _route("POST", "/datasets/{id}.git/info/lfs/objects/batch", _Handler._batch),
    _route("PUT", "/lfs/{oid}", _Handler._upload),
    _route("POST", "/api/datasets/{id}/commit/{revision}", _Handler._commit),
    _route("GET", "/api/datasets/{id}/xet-{kind}-token/{revision}", _Handler._xet_token),
    _route("GET", "/api/datasets/{id}/tree/{revision}", _Handler._tree),
    _route("GET", "/api/datasets/{id}/tree/{revision}/{*path}", _Handler._tree),
    _route("POST", "/api/datasets/{id}/paths-info/{revision}", _Handler._paths),
    _route("GET", "/datasets/{id}/resolve/{revision}/{*path}", _Handler._resolve),
    _route("POST", "/api/buckets/{id}", _Handler._bucket_create),
    _route("GET", "/api/buckets/{id}", _Handler._bucket_info),
    _route("GET", "/api/buckets/{id}/tree", _Handler._bucket_tree),
    _route("GET", "/api/buckets/{id}/tree/{*path}", _Handler._bucket_tree),
    _route("POST", "/api/buckets/{id}/paths-info", _Handler._bucket_paths),
    _route("POST", "/api/buckets/{id}/batch", _Handler._bucket_batch),
    _route("GET", "/api/buckets/{id}/xet-{kind}-token", _Handler._bucket_token),
    _route("GET", "/buckets/{id}/resolve/{*path}", _Handler._bucket_resolve),
]
