"""What does a request to Cloud Controller carry? Read defensively; every complaint is one of its errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

from egress.values import Refused


@dataclass(frozen=True, slots=True)
class Complaint:
    status: int
    code: int
    title: str


NOT_AUTHENTICATED = Complaint(401, 10002, "CF-NotAuthenticated")
INVALID_TOKEN = Complaint(401, 1000, "CF-InvalidAuthToken")
NOT_AUTHORIZED = Complaint(403, 10003, "CF-NotAuthorized")
NOT_FOUND = Complaint(404, 10010, "CF-ResourceNotFound")
UNKNOWN = Complaint(404, 10000, "CF-NotFound")
BAD_QUERY = Complaint(400, 10005, "CF-BadQueryParameter")
PARSE_ERROR = Complaint(400, 1001, "CF-MessageParseError")
UNPROCESSABLE = Complaint(422, 10008, "CF-UnprocessableEntity")
UNIQUENESS = Complaint(422, 10016, "CF-UniquenessError")
TOO_LARGE = Complaint(413, 10011, "CF-RequestEntityTooLarge")

_OF_REFUSAL = {"UNPROCESSABLE": UNPROCESSABLE, "UNIQUENESS": UNIQUENESS, "NOT_FOUND": NOT_FOUND}


class ComplainedError(Exception):
    def __init__(self, kind: Complaint, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def of_refusal(refused: Refused) -> ComplainedError:
    return ComplainedError(_OF_REFUSAL[refused.code], refused.message)


def answer(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = orjson.dumps(document)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json", charset="utf-8")


def complaint(complained: ComplainedError) -> web.Response:
    kind = complained.kind
    error = {"code": kind.code, "title": kind.title, "detail": complained.detail}
    return answer({"errors": [error]}, kind.status)


async def body_of(request: web.Request) -> dict[str, Any]:
    """The request's JSON object; an empty body is an empty object."""
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise ComplainedError(TOO_LARGE, "The request is too large") from None
    if not raw.strip():
        return {}
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise ComplainedError(PARSE_ERROR, "Request invalid due to parse error: invalid request body") from None
    if not isinstance(value, dict):
        raise ComplainedError(PARSE_ERROR, "Request invalid due to parse error: invalid request body")
    return value


def only(body: Mapping[str, Any], *known: str) -> None:
    unknown = sorted(body.keys() - set(known))
    if unknown:
        names = ", ".join(f"'{name}'" for name in unknown)
        raise ComplainedError(UNPROCESSABLE, f"Unknown field(s): {names}")


def name_of(body: Mapping[str, Any], default: str | None = None) -> str:
    name = body.get("name", default)
    if not isinstance(name, str):
        raise ComplainedError(UNPROCESSABLE, "Name must be a string")
    if not 1 <= len(name) <= 255:
        raise ComplainedError(
            UNPROCESSABLE, "Name is too short (minimum is 1 character), or longer than 255 characters"
        )
    return name


def guid_in(body: Mapping[str, Any], relationship: str) -> str:
    """`relationships.<relationship>.data.guid`, said wrong in as many ways as there are."""
    value: Any = body.get("relationships")
    for key in (relationship, "data", "guid"):
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, str) or not value:
        raise ComplainedError(UNPROCESSABLE, f"Relationships {relationship} must have data with a guid")
    return value


def guids_of(value: object) -> list[str]:
    """`{"data": [{"guid": …}]}`"""
    listed = value.get("data") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise ComplainedError(UNPROCESSABLE, "Data must be an array")
    found = [item.get("guid") if isinstance(item, dict) else None for item in listed]
    guids = [guid for guid in found if isinstance(guid, str) and guid]
    if len(guids) != len(found):
        raise ComplainedError(UNPROCESSABLE, "Invalid data type: Data[0] guid should be a string.")
    return guids


def flag_in(body: Mapping[str, Any], name: str, default: bool) -> bool:
    value = body.get(name, default)
    if not isinstance(value, bool):
        raise ComplainedError(UNPROCESSABLE, f"{name.capitalize()} must be a boolean")
    return value


def whole_in(body: Mapping[str, Any], name: str, default: int, top: int = 100_000) -> int:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ComplainedError(UNPROCESSABLE, f"{name.capitalize()} is not a number")
    if not 0 <= value <= top:
        raise ComplainedError(UNPROCESSABLE, f"{name.capitalize()} must be between 0 and {top}")
    return value


def metadata_of(
    body: Mapping[str, Any], labels: Mapping[str, str], annotations: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """What was there, with what the body says on top; a null takes a key away."""
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict) or metadata.keys() - {"labels", "annotations"}:
        raise ComplainedError(UNPROCESSABLE, "Metadata must be an object of labels and annotations")
    merged: list[dict[str, str]] = []
    for kind, before, longest in (("labels", labels, 63), ("annotations", annotations, 5000)):
        changes = metadata.get(kind, {})
        if not isinstance(changes, dict):
            raise ComplainedError(UNPROCESSABLE, f"Metadata {kind} must be an object")
        after = dict(before)
        for key, value in changes.items():
            if value is None:
                after.pop(key, None)
            elif isinstance(value, str) and 0 < len(key) <= 317 and len(value) <= longest:
                after[key] = value
            else:
                raise ComplainedError(UNPROCESSABLE, f"Metadata {kind[:-1]} '{key}' has an invalid key or value")
        merged.append(after)
    return merged[0], merged[1]
