"""What does a request to the policy server ask for? Its JSON, read and judged as Go and the real mapper would.

Errors are the server's own sentences: clients show them to people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import orjson

from cfbridge.simulator.policy_table import PolicyKey


class UnreadableError(ValueError):
    """The sentence says what is wrong with the body, after `mapper: `."""


@dataclass(frozen=True, slots=True)
class _Asked:
    key: PolicyKey
    tagged: bool


def _go_json_text(text: str, error: json.JSONDecodeError) -> str:
    if error.pos >= len(text) or error.msg.startswith("Unterminated string"):
        return "unexpected end of JSON input"
    where = {
        "Expecting property name enclosed in double quotes": "looking for beginning of object key string",
        "Expecting ':' delimiter": "after object key",
        "Extra data": "after top-level value",
        "Expecting value": "looking for beginning of value",
    }.get(error.msg, "in string literal" if "control character" in error.msg else "after array element")
    return f"invalid character '{text[error.pos]}' {where}"


def _refuse_constant(name: str) -> NoReturn:
    raise UnreadableError(f"unmarshal json: invalid character '{name[0]}' looking for beginning of value")


def loads(body: bytes) -> Any:
    """JSON as Go reads it: bad UTF-8 and lone surrogates become U+FFFD; NaN is no number."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    text = body.decode(errors="replace")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        return orjson.loads(
            json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
    except json.JSONDecodeError as error:
        raise UnreadableError(f"unmarshal json: {_go_json_text(text, error)}") from None
    except RecursionError:
        raise UnreadableError("unmarshal json: exceeded max depth") from None
    except ValueError as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError("unmarshal json: invalid number or text") from None


def _cannot(value: object, where: str, wanted: str) -> UnreadableError:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "bool"), (str, "string"), (int, "number"), (float, "number"), (list, "array"), (dict, "object"),
    )  # fmt: skip
    kind = next(name for python, name in kinds if isinstance(value, python))
    return UnreadableError(f"unmarshal json: json: cannot unmarshal {kind} into Go {where} of type {wanted}")


def _object(value: object, where: str, wanted: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _cannot(value, where, wanted)
    return value


def _text(value: object, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _cannot(value, where, "string")
    return value


def _number(value: object, where: str) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise _cannot(value, where, "int")
    return value


def _asked(value: object, version: str) -> _Asked:
    policy = _object(value, "struct field Policies.policies", "api.Policy")
    source = _object(policy.get("source"), "struct field Policy.policies.source", "api.Source")
    target = _object(policy.get("destination"), "struct field Policy.policies.destination", "api.Destination")
    field = "struct field Destination.policies.destination"
    source_id = _text(source.get("id"), "struct field Source.policies.source.id")
    tags = [_text(side.get("tag"), "struct field Policy.policies.tag") for side in (source, target)]
    destination_id = _text(target.get("id"), f"{field}.id")
    protocol = _text(target.get("protocol"), f"{field}.protocol")
    if version == "v0":
        start = end = _number(target.get("port"), f"{field}.port")
    else:
        ports = _object(target.get("ports"), f"{field}.ports", "api.Ports")
        start = _number(ports.get("start"), f"{field}.ports.start")
        end = _number(ports.get("end"), f"{field}.ports.end")
    return _Asked(PolicyKey(source_id, destination_id, protocol, start, end), any(tags))


def _fault_of(asked: _Asked, version: str) -> str:
    """The first thing wrong with a policy, in the real validator's order; empty = nothing."""
    key = asked.key
    if not key.source:
        return "missing source id"
    if not key.destination:
        return "missing destination id"
    if key.protocol not in ("tcp", "udp"):
        return "invalid destination protocol, specify either udp or tcp"
    if version == "v0":
        if key.start < 0:
            return f"invalid port {key.start}, must be in range 1-65535"
        if key.start == 0:
            return "missing port"
    else:
        if key.start > key.end:
            return f"invalid port range {key.start}-{key.end}, start must be less than or equal to end"
        if key.start < 0:
            return f"invalid start port {key.start}, must be in range 1-65535"
        if key.start == 0:
            return "missing start port"
        if key.end > 65535:
            return f"invalid end port {key.end}, must be in range 1-65535"
    return "tags may not be specified" if asked.tagged else ""


def read_policies(body: bytes, version: str) -> tuple[PolicyKey, ...]:
    """The policies of a create or delete request. One bad policy refuses all: raises UnreadableError."""
    document = _object(loads(body), "value", "api.PoliciesPayload")
    listed = document.get("policies")
    if listed is not None and not isinstance(listed, list):
        raise _cannot(listed, "struct field PoliciesPayload.policies", "[]api.Policy")
    asked = [_asked(value, version) for value in listed or ()]
    if not asked:
        raise UnreadableError("validate policies: missing policies")
    for one in asked:
        if wrong := _fault_of(one, version):
            raise UnreadableError(f"validate policies: {wrong}")
    return tuple(one.key for one in asked)


def go_duration(seconds: float) -> str:
    """As Go prints a duration of at least a microsecond, e.g. `1h2m3.5s`."""
    nanoseconds = int(seconds * 1e9)
    if nanoseconds < 1_000_000_000:
        unit, size = ("ms", 1_000_000) if nanoseconds >= 1_000_000 else ("µs", 1000)
        return f"{nanoseconds / size:.9f}".rstrip("0").rstrip(".") + unit
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    text = f"{rest // 1_000_000_000}.{rest % 1_000_000_000:09d}".rstrip("0").rstrip(".") + "s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = (f"{hours}h" if hours else "") + f"{minutes}m{text}"
    return text
