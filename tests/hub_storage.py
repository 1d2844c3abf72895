# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What the Hub of the tests stores: repositories with branches, tags and commits, as real files."""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

USER = "tester"
LARGE_FILE_SUFFIXES = (".arrow", ".bin", ".parquet", ".png", ".pt", ".safetensors", ".tar", ".zip")


class HubError(Exception):
    """An error response: `code` is the X-Error-Code by which the client picks the exception it raises."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code


class Repository:
    """Branches, tags and commits of one repository; the files of each commit are a folder of their own."""

    def __init__(self, folder: Path, repo_id: str, private: bool):
        self.folder, self.repo_id, self.private = folder, repo_id, private
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.commits: dict[str, dict] = {}
        self.branches["main"] = self.commit({}, "initial commit", parent=None)

    def commit(self, files: dict[str, Path], title: str, parent: str | None, message: str = "") -> str:
        """Stores `files` (path in the repository -> file to link to) as a new commit and returns its sha."""
        date = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        tree = sorted((path, blob_id(file)) for path, file in files.items())
        sha = hashlib.sha1(repr((self.repo_id, parent, len(self.commits), title, date, tree)).encode()).hexdigest()
        (self.folder / sha).mkdir(parents=True)
        for path, file in files.items():
            target = self.folder / sha / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, target)
        authors = [{"user": USER}]
        self.commits[sha] = dict(id=sha, title=title, message=message, date=date, authors=authors, parent=parent)
        return sha

    def resolve(self, revision: str) -> str:
        """The sha that a branch, a tag or a (short) sha stands for."""
        if sha := self.branches.get(revision) or self.tags.get(revision):
            return sha
        found = [sha for sha in self.commits if len(revision) >= 7 and sha.startswith(revision)]
        if len(found) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def files(self, revision: str = "main") -> dict[str, Path]:
        """Files at a revision: path in the repository -> the file on disk."""
        root = self.folder / self.resolve(revision)
        return {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}


def is_large(path: str, size: int) -> bool:
    """Whether a file goes through LFS; the client never sends an empty one there."""
    return size > 0 and path.endswith(LARGE_FILE_SUFFIXES)


def blob_id(file: Path) -> str:
    """Git's object id of a file, the same that the client computes to leave out unchanged files."""
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def describe(path: str, file: Path) -> dict:
    """A file as the tree endpoints list it."""
    size = file.stat().st_size
    entry = {"type": "file", "path": path, "oid": blob_id(file), "size": size}
    if is_large(path, size):
        entry["lfs"] = {"oid": hashlib.sha256(file.read_bytes()).hexdigest(), "size": size, "pointerSize": 134}
    return entry
