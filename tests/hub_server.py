# Copyright 2026 The rq_hf authors. SPDX-License-Identifier: Apache-2.0
"""A Hub on 127.0.0.1: the endpoints that the real `huggingface_hub` client calls, over real HTTP and real files.

The clients read `HF_ENDPOINT`, `HF_HOME` and the like once, at import. So importing this module starts the server and
sets the environment, and conftest.py imports it before the clients. From then on this process and the processes that
it starts know no other Hub. The fixture `hub` gives a test the server, emptied. It stores models only, and takes large
files like small ones, without LFS and Xet.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

USER = "tester"
DATE = "2026-01-01T00:00:00.000Z"


class HubError(Exception):
    """A response of a status, a message and the code by which the client picks the exception that it raises."""

    def __init__(self, message: str, code: str = "", status: int = 404, **body: str):
        self.status, self.body = status, {"error": message, **body}
        self.headers = {"X-Error-Message": message, "X-Error-Code": code}


class Repository:
    """Branches and commits of a repository. With a `token` only requests that send it find the repository."""

    def __init__(self, repo_id: str, private: bool):
        self.repo_id, self.private, self.token = repo_id, private, None
        self.commits: dict[str, dict] = {}
        self.branches = {"main": self.commit({}, "initial commit", parent=None)}

    def commit(self, files: dict[str, Path], title: str, parent: str | None) -> str:
        """Stores `files` (path in the repository -> blob on the disk) as a new commit and returns its sha."""
        tree = sorted((path, blob_id(file)) for path, file in files.items())
        sha = hashlib.sha1(repr((self.repo_id, parent, len(self.commits), title, tree)).encode()).hexdigest()
        about = dict(id=sha, title=title, message="", date=DATE, authors=[{"user": USER}], parent=parent)
        self.commits[sha] = {"about": about, "files": dict(sorted(files.items()))}
        return sha

    def resolve(self, revision: str) -> str:
        """The sha of a branch, or the sha itself."""
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HubError(f"No such revision: {revision}", "RevisionNotFound")
        return sha

    def files(self, revision: str = "main") -> dict[str, Path]:
        """Files at a revision: path in the repository -> blob on the disk."""
        return dict(self.commits[self.resolve(revision)]["files"])


class Hub:
    """The server, listening from the start. `environment` holds the variables that make a process use it, `cache` is
    the cache folder of the clients, and `num_requests` counts the requests answered so far."""

    def __init__(self, folder: Path):
        self.lock, self.blobs, self.cache = threading.RLock(), folder / "blobs", folder / "home" / "hub"
        self.reset()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        self.environment = {
            "HF_ENDPOINT": self.endpoint, "HF_HOME": str(folder / "home"), "HF_HUB_CACHE": str(self.cache),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_loopback", "NO_PROXY": "127.0.0.1", "TRANSFORMERS_OFFLINE": "0", "no_proxy": "127.0.0.1",
        }  # fmt: skip
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Forgets all repositories and requests, and empties the clients' cache."""
        self.repositories: dict[str, Repository] = {}
        self.num_requests = 0
        for folder in (self.blobs, self.cache):
            shutil.rmtree(folder, ignore_errors=True)
        self.blobs.mkdir(parents=True)

    def repository(self, repo_id: str) -> Repository:
        if repo_id not in self.repositories:
            raise HubError("Repository not found", "RepoNotFound")
        return self.repositories[repo_id]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, Path]:
        """Files of a repository at a revision: path in the repository -> blob on the disk."""
        return self.repository(repo_id).files(revision)


class Handler(BaseHTTPRequestHandler):
    """One connection. A route is a method that returns bytes or JSON, or raises a `HubError`."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body leave in one packet

    def log_message(self, *args) -> None:
        pass

    def do_request(self) -> None:
        self.url, self.answer_headers, status = urlsplit(self.path), {}, 200
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            answer = self.route()
        except HubError as error:
            answer, status, self.answer_headers = error.body, error.status, error.headers
        except Exception:  # 501, since the client would try again and again on a 500
            answer, status = {"error": traceback.format_exc()}, 501
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.hub.num_requests += 1
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **self.answer_headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_request

    def route(self) -> Any:
        method = "GET" if self.command == "HEAD" else self.command
        for route_method, pattern, function in ROUTES:
            if route_method == method and (match := re.fullmatch(pattern, self.url.path)):
                arguments = {name: unquote(value or "") for name, value in match.groupdict().items()}
                with self.hub.lock:
                    if "repo_id" in arguments:
                        arguments["repository"] = repository = self.hub.repository(arguments.pop("repo_id"))
                        if repository.token and self.headers["Authorization"] != f"Bearer {repository.token}":
                            raise HubError("Repository not found", "RepoNotFound")
                    return function(self, **arguments)
        raise HubError(f"No such endpoint: {method} {self.url.path}", "RepoNotFound")

    def create_repository(self) -> Any:
        payload = json.loads(self.body)
        repo_id = f"{payload.get('organization') or USER}/{payload['name']}"
        body = {"url": f"{self.hub.endpoint}/{repo_id}", "name": repo_id}
        if repo_id in self.hub.repositories:
            raise HubError("You already created this repo", status=409, **body)
        is_private = payload.get("private") or payload.get("visibility") == "private"
        self.hub.repositories[repo_id] = Repository(repo_id, is_private)
        return body

    def who_am_i(self) -> Any:
        return {"name": USER}

    def validate_yaml(self) -> Any:
        if re.search("^license: .* ", json.loads(self.body)["content"], re.MULTILINE):
            raise HubError("license must be one of a list", status=400)
        return {"errors": [], "warnings": []}

    def information(self, repository: Repository, revision: str) -> Any:
        sha = repository.resolve(revision or "main")
        siblings = [{"rfilename": path} for path in repository.files(sha)]
        return {"id": repository.repo_id, "sha": sha, "private": repository.private, "siblings": siblings}

    def tree(self, repository: Repository, revision: str, path: str) -> Any:
        """The files of a repository or of a folder in it, and those of all folders below."""
        return [
            {"type": "file", "path": name, "oid": blob_id(file), "size": file.stat().st_size}
            for name, file in repository.files(revision).items()
            if not path or name.startswith(f"{path}/")
        ]

    def commits(self, repository: Repository, revision: str) -> Any:
        history, sha = [], repository.resolve(revision)
        while sha is not None:
            history.append(repository.commits[sha]["about"])
            sha = history[-1]["parent"]
        return history

    def create_branch(self, repository: Repository, branch: str) -> Any:
        repository.branches[branch] = repository.resolve("main")
        return {}

    def preupload(self, repository: Repository, revision: str) -> Any:
        known, answers = repository.files(revision), []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            oid = blob_id(known[path]) if path in known else None
            answers.append({"path": path, "uploadMode": "regular", "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    def commit(self, repository: Repository, revision: str) -> Any:
        parent = repository.branches[revision]
        files, title = repository.files(parent), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
            elif key == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = self.hub.blobs / hashlib.sha256(content).hexdigest()
                files[value["path"]].write_bytes(content)
            else:
                del files[value["path"]]
        sha = repository.commit(files, title, parent)
        url = f"{self.hub.endpoint}/{repository.repo_id}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}", "hookOutput": ""}
        if "create_pr" in parse_qs(self.url.query):
            revision, answer["pullRequestUrl"] = "refs/pr/1", f"{url}/discussions/1"
        repository.branches[revision] = sha
        return answer

    def download(self, repository: Repository, revision: str, path: str) -> Any:
        sha, files = repository.resolve(revision), repository.files(revision)
        if path not in files:
            raise HubError(f"{path} does not exist on {revision}", "EntryNotFound")
        self.answer_headers = {"X-Repo-Commit": sha, "ETag": f'"{blob_id(files[path])}"'}
        return files[path].read_bytes()


def blob_id(file: Path) -> str:
    """Git's object id of a file, which the client computes to leave out unchanged files."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


REPO = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
API = rf"/api/models/{REPO}"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    ("POST", "/api/repos/create", Handler.create_repository),
    ("GET", "/api/whoami-v2", Handler.who_am_i),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("GET", rf"{API}(?:/revision/{REVISION})?", Handler.information),
    ("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?", Handler.tree),
    ("GET", rf"{API}/commits/{REVISION}", Handler.commits),
    ("POST", rf"{API}/branch/(?P<branch>[^/]+)", Handler.create_branch),
    ("POST", rf"{API}/preupload/{REVISION}", Handler.preupload),
    ("POST", rf"{API}/commit/{REVISION}", Handler.commit),
    ("GET", rf"/{REPO}/resolve/{REVISION}/(?P<path>.+)", Handler.download),
]


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
