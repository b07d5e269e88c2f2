"""How does the API say no? RFC 9457 problems: one sentence, a stable code, and where in the request it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

import orjson
from aiohttp import web

CONTENT_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class Fault:
    pointer: str
    """`/query/limit`, `/path/id`: JSON pointer into path, query or body."""
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    type: str
    """`urn:cfbridge:problem:not-found`; `about:blank` is not used, so that programs can tell our kinds apart."""
    title: str
    status: int
    detail: str
    code: str
    errors: tuple[Fault, ...] = ()


class ProblemError(Exception):
    """A problem on its way to whoever asked."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: tuple[Fault, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        kind = code.lower().replace("_", "-")
        self.problem = Problem(f"urn:cfbridge:problem:{kind}", HTTPStatus(status).phrase, status, detail, code, errors)
        self.headers = dict(headers or {})

    def response(self) -> web.Response:
        return web.Response(
            body=orjson.dumps(self.problem),
            status=self.problem.status,
            content_type=CONTENT_TYPE,
            headers={**self.headers, "Cache-Control": "no-store"},
        )
