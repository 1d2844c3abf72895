# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""A Hub on 127.0.0.1: the endpoints that the real `huggingface_hub` client calls, over real HTTP and real files.

The clients read `HF_ENDPOINT`, `HF_HOME` and the like once, at import, and some keep what they made of them
(transformers one `HfApi`, datasets its own constants). Hence importing this module starts the server and sets the
environment, and conftest.py imports it before any of them. From then on this process and the processes that it starts
know no other Hub, so that a stray download fails at once. The fixture `hub` gives a test the server, emptied.

Xet is off: its client does not speak HTTP to the endpoint. Pull requests are not served.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml
from hub_faults import Fault, corrupted
from hub_storage import USER, HubError, Repository, describe, is_large

TOKEN = "hf_loopback"
CONTENT_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
METADATA_BLOCK = re.compile(r"\A\s*---\r?\n(.*?)\r?\n---", re.DOTALL)


class Request(NamedTuple):
    """What a client sent, and the status it got; 0 if the connection was reset."""

    method: str
    path: str
    status: int


class Response(NamedTuple):
    """What a route answers: a JSON-able object, bytes, or text."""

    body: object = ""
    status: int = 200
    headers: dict[str, str] = {}


class Hub:
    """The server, listening from the start, and what it stores under `folder`.

    Attributes:
        endpoint: what `HF_ENDPOINT` must be.
        token: the only token that is accepted.
        blobs: the folder of uploaded contents, each named by its sha256.
        cache: the cache folder of clients; delete it to download anew.
        environment: the variables that make a process use this Hub.
        requests: all requests answered so far.
        faults: what is to go wrong, see `fail`.
    """

    def __init__(self, folder: Path):
        self.folder, self.token = folder, TOKEN
        self.blobs, self.cache = folder / "blobs", folder / "home" / "hub"
        self.lock = threading.RLock()
        self.reset()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.environment = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(folder / "home"),
            "HF_HUB_CACHE": str(self.cache),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": self.token,
            "NO_PROXY": "127.0.0.1",
            "TRANSFORMERS_OFFLINE": "0",
            "no_proxy": "127.0.0.1",
        }
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Forgets all repositories, requests and faults, and empties the clients' cache."""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        for folder in ("blobs", "models", "datasets", "spaces", "home/hub"):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        self.blobs.mkdir(parents=True)

    def fail(self, kind: str, method: str, path: str, **options) -> Fault:
        """Lets requests fail until the next `reset`; see [`Fault`] for what can go wrong, and how often."""
        fault = Fault(kind, method, path, **options)
        self.faults.append(fault)
        return fault

    def fault(self, method: str, path: str) -> Fault | None:
        """The fault that befalls a request, one time less of which is left."""
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.befalls(method, path):
                    fault.times -= 1
                    return fault
        return None

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        if (repo_type, repo_id) not in self.repositories:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return self.repositories[repo_type, repo_id]

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, Path]:
        """Files of a repository at a revision: path in the repository -> the file on the server's disk."""
        return self.repository(repo_id, repo_type).files(revision)


class Handler(BaseHTTPRequestHandler):
    """One connection. A route is a method that returns a `Response` or raises a `HubError`; `send` writes either."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet

    def log_message(self, *args) -> None:
        pass

    def do_request(self) -> None:
        self.url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(self.url.query).items()}
        self.fault = self.hub.fault(self.command, self.path)
        kind = self.fault.kind if self.fault else None
        if kind == "reset" and int(self.headers.get("Content-Length", 0)) > 1:
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            return self.reset_connection()
        self.body = self.read_body()
        if kind == "slow":
            time.sleep(self.fault.seconds)
        if kind == "wrong hash" and self.command == "PUT":
            self.body = corrupted(self.body)
        try:
            if kind == "status":
                raise HubError(self.fault.status, f"The server was told to fail with {self.fault.status}")
            response = self.route()
        except HubError as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            response = Response({"error": error.message}, error.status, headers)
        except Exception:  # 501, since the client would try again and again on a 500
            response = Response({"error": traceback.format_exc()}, 501)
        if kind == "status":
            response = response._replace(headers=response.headers | self.fault.headers)
        self.send(response)

    def reset_connection(self) -> None:
        """Ends the connection at once, as a network that fails: the client reads "connection reset by peer"."""
        self.hub.requests.append(Request(self.command, self.path, 0))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        os.close(self.connection.detach())

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_request

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(self, response: Response) -> None:
        body = response.body
        if isinstance(body, dict | list):
            body = json.dumps(body)
        content = body if isinstance(body, bytes) else body.encode()
        kind = self.fault.kind if self.fault else None
        if kind == "wrong hash" and self.command == "GET":
            content = corrupted(content)
        self.hub.requests.append(Request(self.command, self.path, response.status))
        self.send_response(response.status)
        for name, value in {"Content-Length": str(len(content)), **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "reset":
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.reset_connection()
        else:
            self.wfile.write(content)

    def route(self) -> Response:
        method = "GET" if self.command == "HEAD" else self.command
        for route_method, pattern, function in ROUTES:
            if route_method == method and (match := re.fullmatch(pattern, self.url.path)):
                authorization = self.headers.get("Authorization")
                if authorization not in (None, f"Bearer {self.hub.token}"):
                    raise HubError(401, "Invalid credentials in Authorization header")
                if authorization is None and function in NEEDS_TOKEN:
                    raise HubError(401, "Invalid username or password.")
                with self.hub.lock:
                    arguments = {name: unquote(value or "") for name, value in match.groupdict().items()}
                    if "repo_id" in arguments:
                        kind = arguments.pop("kind").rstrip("/s") or "model"
                        arguments["repository"] = self.readable_repository(arguments.pop("repo_id"), kind)
                    return function(self, **arguments)
        raise HubError(404, f"No such endpoint: {method} {self.url.path}")

    def readable_repository(self, repo_id: str, kind: str) -> Repository:
        """Like the real Hub, never says to a client without a token whether a repository exists."""
        known = self.hub.repositories.get((kind, repo_id))
        if self.headers.get("Authorization") is None and (known is None or known.private):
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        return self.hub.repository(repo_id, kind)

    def create_repository(self) -> Response:
        payload = json.loads(self.body)
        kind, repo_id = payload.get("type") or "model", f"{payload.get('organization') or USER}/{payload['name']}"
        prefix = "" if kind == "model" else f"{kind}s/"
        body = {"url": f"{self.hub.endpoint}/{prefix}{repo_id}", "name": repo_id}
        if (kind, repo_id) in self.hub.repositories:
            return Response(body | {"error": "You already created this repo"}, 409)
        private = payload.get("private") or payload.get("visibility") == "private"
        self.hub.repositories[kind, repo_id] = Repository(self.hub.folder / f"{kind}s" / repo_id, repo_id, private)
        return Response(body)

    def who_am_i(self) -> Response:
        auth = {"type": "access_token", "accessToken": {"displayName": "loopback", "role": "write"}}
        return Response({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": auth})

    def validate_yaml(self) -> Response:
        """Only that the metadata block is a mapping; the real Hub also checks its values."""
        match = METADATA_BLOCK.match(json.loads(self.body)["content"])
        try:
            metadata = yaml.safe_load(match.group(1)) if match else {}
        except yaml.YAMLError as error:
            metadata = str(error)
        if not isinstance(metadata, dict):
            return Response({"errors": [{"message": f"Invalid metadata: {metadata}"}], "warnings": []}, 400)
        return Response({"errors": [], "warnings": []})

    def information(self, repository: Repository, revision: str) -> Response:
        sha = repository.resolve(revision or "main")
        files = [describe(path, file) for path, file in repository.files(sha).items()]
        siblings = [{"rfilename": entry["path"]} for entry in files]
        if "blobs" in self.query:
            for sibling, entry in zip(siblings, files, strict=True):
                sibling |= {"size": entry["size"], "blobId": entry["oid"]}
                if "lfs" in entry:
                    sibling["lfs"] = entry["lfs"] | {"sha256": entry["lfs"]["oid"]}
        fixed = {"downloads": 0, "likes": 0, "gated": False, "disabled": False, "tags": []}
        answer = {"id": repository.repo_id, "sha": sha, "private": repository.private, "siblings": siblings}
        return Response(answer | {"lastModified": repository.commits[sha]["date"]} | fixed)

    def tree(self, repository: Repository, revision: str, path: str) -> Response:
        files = repository.files(revision)
        inside = {name: file for name, file in files.items() if not path or name.startswith(f"{path}/")}
        if path and not inside:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        entries = [describe(name, file) for name, file in inside.items()]
        depth = len(Path(path).parts) + 1
        for folder in {folder for name in inside for folder in Path(name).parents if len(folder.parts) >= depth}:
            entries.append({"type": "directory", "path": str(folder), "oid": "0" * 40, "size": 0})
        if self.query.get("recursive", "").lower() != "true":
            entries = [entry for entry in entries if len(Path(entry["path"]).parts) == depth]
        return Response(sorted(entries, key=lambda entry: entry["path"]))

    def commits(self, repository: Repository, revision: str) -> Response:
        history, sha = [], repository.resolve(revision)
        while sha is not None:
            history.append(repository.commits[sha])
            sha = repository.commits[sha]["parent"]
        return Response(history)

    def create_branch(self, repository: Repository, branch: str) -> Response:
        if branch in repository.branches:
            raise HubError(409, "Reference already exists")
        repository.branches[branch] = repository.resolve(json.loads(self.body).get("startingPoint", "main"))
        return Response({})

    def create_tag(self, repository: Repository, revision: str) -> Response:
        tag = json.loads(self.body)["tag"]
        if tag in repository.tags:
            raise HubError(409, "Tag reference exists already")
        repository.tags[tag] = repository.resolve(revision or "main")
        return Response({})

    def preupload(self, repository: Repository, revision: str) -> Response:
        known, answers = repository.files(revision), []
        for file in json.loads(self.body)["files"]:
            path, mode = file["path"], "lfs" if is_large(file["path"], file["size"]) else "regular"
            answer = {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}
            if path in known:
                entry = describe(path, known[path])
                answer["oid"] = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
            answers.append(answer)
        return Response({"files": answers})

    def lfs_batch(self, repository: Repository) -> Response:
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if not (self.hub.blobs / item["oid"]).exists():
                item["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}"}}
        return Response({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid: str) -> Response:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, f"The uploaded bytes do not hash to {oid}")
        (self.hub.blobs / oid).write_bytes(self.body)
        return Response()

    def commit(self, repository: Repository, revision: str) -> Response:
        if revision not in repository.branches:
            raise HubError(404, f"{revision} is not a branch", "RevisionNotFound")
        parent = repository.branches[revision]
        files, header = repository.files(parent), {}
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                header = value
            elif key == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = self.hub.blobs / hashlib.sha256(content).hexdigest()
                files[value["path"]].write_bytes(content)
            elif key == "lfsFile":
                files[value["path"]] = self.hub.blobs / value["oid"]
                if not files[value["path"]].exists():
                    raise HubError(400, f"{value['path']}: its content was never uploaded")
            elif key in ("deletedFile", "deletedFolder"):
                path = value["path"].rstrip("/")
                gone = [name for name in files if name == path or name.startswith(f"{path}/")]
                if not gone:
                    raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
                for name in gone:
                    del files[name]
        if not parent.startswith(header.get("parentCommit", "")):
            raise HubError(412, f"{revision} is at {parent}, not at {header['parentCommit']}")
        sha = repository.commit(files, header["summary"], parent, header.get("description", ""))
        url = f"{self.hub.endpoint}/{repository.repo_id}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}", "hookOutput": ""}
        if "create_pr" in self.query:
            number = 1 + sum(name.startswith("refs/pr/") for name in repository.branches)
            revision, answer["pullRequestUrl"] = f"refs/pr/{number}", f"{url}/discussions/{number}"
        repository.branches[revision] = sha
        return Response(answer)

    def download(self, repository: Repository, revision: str, path: str) -> Response:
        sha, files = repository.resolve(revision), repository.files(revision)
        if path not in files:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        entry, content = describe(path, files[path]), files[path].read_bytes()
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(entry["size"])}
        if not (match := CONTENT_RANGE.fullmatch(self.headers.get("Range", ""))):
            return Response(content, 200, headers)
        first, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
        if first > last:
            return Response("", 416, headers | {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return Response(content[first : last + 1], 206, headers)


NAME = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{NAME}"
REPO = rf"/(?P<kind>datasets/|spaces/|){NAME}"
REVISION = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Response]]] = [
    ("POST", "/api/repos/create", Handler.create_repository),
    ("GET", "/api/whoami-v2", Handler.who_am_i),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("GET", rf"{API}(?:/revision/{REVISION})?", Handler.information),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?", Handler.tree),
    ("GET", rf"{API}/commits/{REVISION}", Handler.commits),
    ("POST", rf"{API}/branch/(?P<branch>[^/]+)", Handler.create_branch),
    ("POST", rf"{API}/tag/{REVISION}", Handler.create_tag),
    ("POST", rf"{API}/preupload/{REVISION}", Handler.preupload),
    ("POST", rf"{API}/commit/{REVISION}", Handler.commit),
    ("POST", rf"{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", "/lfs/(?P<oid>[0-9a-f]{64})", Handler.lfs_upload),
    ("GET", rf"{REPO}/resolve/{REVISION}/(?P<path>.+)", Handler.download),
]
NEEDS_TOKEN = {
    Handler.create_repository,
    Handler.who_am_i,
    Handler.create_branch,
    Handler.create_tag,
    Handler.preupload,
    Handler.commit,
    Handler.lfs_batch,
}  # the address that an upload goes to is the permission to upload, as with signed addresses


if "huggingface_hub" in sys.modules:
    raise ImportError("hub_server must be imported before huggingface_hub, which reads HF_ENDPOINT at import.")
STORAGE = tempfile.TemporaryDirectory(prefix="rq_hf_hub_")
HUB = Hub(Path(STORAGE.name))
os.environ.update(HUB.environment)


@pytest.fixture
def hub() -> Hub:
    """The Hub that all clients use, with nothing on it and an empty cache."""
    HUB.reset()
    return HUB
