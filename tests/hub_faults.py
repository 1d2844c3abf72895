# Copyright 2026 The rq_hf authors.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""What can go wrong between a client and the Hub of the tests."""

import re
from dataclasses import dataclass, field
from typing import Literal


@dataclass
class Fault:
    """
    Something that goes wrong with some requests.

    Args:
        kind: `"status"`, an answer with an error status, the request being left undone; `"slow"`, an answer that
            waits; `"reset"`, a connection that is reset in the middle of the request's body, or of the answer's where
            the request has none; `"wrong hash"`, bytes that arrive changed, their number being right.
        method: of the requests.
        path: regular expression that is searched for in their paths.
        times: how many requests it befalls.
        status: of the answer.
        headers: of the answer, such as `Retry-After`.
        seconds: how long a slow answer waits.
    """

    kind: Literal["status", "slow", "reset", "wrong hash"]
    method: str
    path: str
    times: int = 1
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def befalls(self, method: str, path: str) -> bool:
        """Whether a request is one of those that go wrong."""
        return method == self.method and re.search(self.path, path) is not None


def corrupted(content: bytes) -> bytes:
    """As many bytes, the last one another."""
    return content[:-1] + bytes([content[-1] ^ 1]) if content else content
