"""How is the API described? One OpenAPI 3.1 document, made from the same classes that answer."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter

from cfbridge.api import editing
from cfbridge.api.auditing import AuditQuery
from cfbridge.api.operations import RESOURCES, ROOT, ExplainQuery, Resource
from cfbridge.api.problems import CONTENT_TYPE, Problem
from cfbridge.api.publishing import IntentQuery, PlanBody, PublishBody, ReasonBody
from cfbridge.api.resources import AuditPage, Decided, Explained, IntentText, Planned, Removed, Status

_REFS = "#/components/schemas/{model}"
_WORDS = {
    "304": "Not changed since the ETag in If-None-Match",
    "400": "The query or the body is wrong; errors[] says where",
    "401": "No valid token",
    "403": "The permission is missing",
    "404": "There is no such thing",
    "409": "It is not in the state for that",
    "412": "It was made for an older revision than what is in force by now",
    "422": "It is well written, and asks for what can not be; errors[] says where",
    "428": "If-Match is missing",
    "503": "Not now; nothing was done",
}

_VERDICTS = {
    "apply": "The answer is believed now: what is held of this kind is withdrawn",
    "discard": "The answer is not believed: what is held of this kind stays, until an answer has some of it again",
}


@cache
def document() -> bytes:
    adapters: list[tuple[Any, Any, TypeAdapter[Any]]] = [
        ("Status", "serialization", TypeAdapter(Status)),
        ("Problem", "serialization", TypeAdapter(Problem)),
        ("Removed", "serialization", TypeAdapter(Removed)),
        ("Decided", "serialization", TypeAdapter(Decided)),
        ("Explained", "serialization", TypeAdapter(Explained)),
        ("AuditPage", "serialization", TypeAdapter(AuditPage)),
        ("IntentText", "serialization", TypeAdapter(IntentText)),
        ("Planned", "serialization", TypeAdapter(Planned)),
    ]
    adapters += [(r.row.__name__, "serialization", r.one) for r in RESOURCES.values()]
    _, schemas = TypeAdapter.json_schemas(adapters, ref_template=_REFS)
    paths: dict[str, Any] = {
        f"{ROOT}/status": {"get": _operation("get_status", "The verdict, and why", _ref("Status"), [], "304 401 403")}
    }
    for resource in RESOURCES.values():
        paths[f"{ROOT}/{resource.name}"] = {"get": _listing(resource)}
        paths[f"{ROOT}/{resource.name}/{{id}}"] = {"get": _showing(resource)}
    asked = ExplainQuery.model_json_schema()
    summary = "Whether a connection passes, which rule says so, and what would allow it"
    parameters = [
        {**_parameter(name, schema), "required": name in asked["required"]}
        for name, schema in asked["properties"].items()
    ]
    paths[f"{ROOT}/explain"] = {
        "get": _operation("explain", summary, _ref("Explained"), parameters, "304 400 401 403 404 422")
    }
    asked = AuditQuery.model_json_schema()["properties"]
    parameters = [_parameter(name, schema) for name, schema in asked.items()]
    listed = _operation(
        "list_audit", "What people did, the newest first", _ref("AuditPage"), parameters, "304 400 401 403 503"
    )
    paths[f"{ROOT}/audit"] = {"get": listed}
    paths |= _publishing()
    for edit in editing.OPERATIONS:
        paths.setdefault(f"{ROOT}{edit.path}", {})[edit.method.lower()] = _editing(edit)
    paths[f"{ROOT}/cells/{{id}}"]["delete"] = _acting(
        "remove_cell",
        "A cell that is gone for good: its workloads leave the groups, its addresses rest",
        "Removed",
        "It is removed",
        "400 401 403 404 409 503",
    )
    paths[f"{ROOT}/drafts/{{id}}"]["delete"] = _acting(
        "discard_draft", "Throw a draft away", "Removed", "It is gone", "400 401 403 404 503"
    )
    for verdict, summary in _VERDICTS.items():
        deed = _acting(f"{verdict}_held", summary, "Decided", "What was held, and is decided", "400 401 403 404")
        paths[f"{ROOT}/held/{{id}}/{verdict}"] = {"post": deed}
    for path, operations in paths.items():
        for operation in operations.values():
            operation["tags"] = [path.removeprefix(f"{ROOT}/").partition("/")[0]]
    written = {
        "openapi": "3.1.0",
        "info": {
            "title": "cfbridge",
            "version": metadata.version("cfbridge"),
            "description": "What an open networking and security bridge for Cloud Foundry knows and does.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The token in the bridge's state folder. By the unix socket none is needed.",
                }
            },
        },
    }
    return orjson.dumps(written, option=orjson.OPT_SORT_KEYS)


def _publishing() -> dict[str, Any]:
    """Policy files: shown, planned, published, rolled back."""
    id_ = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    scope = [_parameter(name, schema) for name, schema in IntentQuery.model_json_schema()["properties"].items()]
    shown = _operation(
        "get_intent", "The policy file of what is in force", _ref("IntentText"), scope, "400 401 403 404"
    )
    read = _operation(
        "get_revision_intent", "The policy file of a revision", _ref("IntentText"), [id_], "400 401 403 404 503"
    )
    plan = _writing("plan", "What a policy file would change", PlanBody, "400 401 403 422", "cfbridge.read")
    publish = _writing(
        "publish_intent", "Publish a policy file", PublishBody, "400 401 403 409 412 422 428 503", "cfbridge.publish"
    )
    back = _writing(
        "roll_back",
        "Publish what a revision said",
        ReasonBody,
        "400 401 403 404 409 412 422 428 503",
        "cfbridge.publish",
    )
    back["parameters"].append(id_)
    for operation in (publish, back):
        operation["parameters"].append(_IF_MATCH)
    planned = _operation("plan_draft", "What a draft would change", _ref("Planned"), [id_], "400 401 403 404 409 422")
    drafted = _writing(
        "publish_draft", "Publish a draft", ReasonBody, "400 401 403 404 409 412 422 428 503", "cfbridge.publish"
    )
    drafted["parameters"] += [id_, _IF_MATCH]
    return {
        f"{ROOT}/drafts/{{id}}/plan": {"get": planned},
        f"{ROOT}/drafts/{{id}}/publish": {"post": drafted},
        f"{ROOT}/intent": {"get": shown, "put": publish},
        f"{ROOT}/plan": {"post": plan},
        f"{ROOT}/revisions/{{id}}/intent": {"get": read},
        f"{ROOT}/revisions/{{id}}/rollback": {"post": back},
    }


_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": True,
    "description": "The ETag that /intent had when this was made; * for whatever is there.",
    "schema": {"type": "string", "pattern": r'^(\*|"revision-[0-9]{1,9}")$'},
}


def _editing(edit: editing.Operation) -> dict[str, Any]:
    """One thing set, changed or taken away."""
    described = _writing(edit.name, edit.summary, edit.body, "400 401 403 404 409 412 422 428 503", "cfbridge.publish")
    asked = editing.EditQuery.model_json_schema()["properties"]
    described["parameters"] = [*(_parameter(name, schema) for name, schema in asked.items()), _IF_MATCH]
    if "{id}" in edit.path:
        described["parameters"].append(
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        )
    return described


def _writing(name: str, summary: str, body: type[BaseModel] | None, refusals: str, permission: str) -> dict[str, Any]:
    described = _operation(name, summary, _ref("Planned"), [], refusals, permission)
    described["parameters"] = []
    if body is None:
        return described
    schema = {key: value for key, value in body.model_json_schema().items() if key != "title"}
    described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REFS.format(model=name)}


def _listing(resource: Resource) -> dict[str, Any]:
    answer = {
        "type": "object",
        "additionalProperties": False,
        "required": ["items", "next", "total", "revision"],
        "properties": {
            "items": {"type": "array", "items": _ref(resource.row.__name__)},
            "next": {"type": ["string", "null"], "description": "Cursor for `after`; null on the last page."},
            "total": {"type": "integer", "description": "Rows that match, on all pages."},
            "revision": {"type": "integer"},
        },
    }
    properties = resource.query.model_json_schema()["properties"]
    parameters = [_parameter(name, schema) for name, schema in properties.items()]
    name = resource.name.replace("-", "_")
    return _operation(f"list_{name}", resource.summary, answer, parameters, "304 400 401 403", resource.permission)


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is there or not; it is never null."""
    schema = {key: value for key, value in schema.items() if key != "title"}
    description = schema.pop("description", f"Only rows with this {name.replace('_', ' ')}.")
    if "anyOf" in schema:
        (inner,) = (each for each in schema.pop("anyOf") if each != {"type": "null"})
        schema = {**{k: v for k, v in schema.items() if k != "default"}, **inner}
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _showing(resource: Resource) -> dict[str, Any]:
    parameter = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return _operation(
        f"show_{resource.name}",
        f"One of: {resource.summary}",
        _ref(resource.row.__name__),
        [parameter],
        "304 400 401 403 404",
        resource.permission,
    )


def _acting(name: str, summary: str, answer: str, done: str, refusals: str) -> dict[str, Any]:
    """What an operator tells the bridge to do with one thing."""
    parameter = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    described = _operation(name, summary, _ref(answer), [parameter], refusals, "cfbridge.operate")
    described["parameters"] = [parameter]
    described["responses"]["200"] = {"description": done, "content": {"application/json": {"schema": _ref(answer)}}}
    return described


def _operation(
    name: str,
    summary: str,
    answer: dict[str, Any],
    parameters: list[dict[str, Any]],
    refusals: str,
    permission: str = "cfbridge.read",
) -> dict[str, Any]:
    problem = {"content": {CONTENT_TYPE: {"schema": _ref("Problem")}}}
    responses: dict[str, Any] = {
        "200": {
            "description": "As of one revision",
            "headers": {"ETag": {"schema": {"type": "string"}, "description": "Give it back in If-None-Match."}},
            "content": {"application/json": {"schema": answer}},
        },
        "default": {"description": "Anything else that goes wrong", **problem},
    }
    for status in refusals.split():
        responses[status] = {"description": _WORDS[status], **({} if status == "304" else problem)}
    header = {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "ETags that are known already.",
        "schema": {"type": "string"},
    }
    return {
        "operationId": name,
        "summary": summary,
        "parameters": [*parameters, header],
        "responses": responses,
        "x-permission": permission,
    }
