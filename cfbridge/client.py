"""How does automation ask the bridge? One async client, by unix socket or URL and token, typed by the API's rows.

async with AdminClient.local("/var/vcap/data/cfbridge/api.sock") as client:
    async for org in client.orgs(name="acme"): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import aiohttp
import orjson
import stamina
from pydantic import TypeAdapter

from cfbridge.api.operations import RESOURCES, ROOT
from cfbridge.api.resources import (
    AsgRow,
    CellRow,
    Explained,
    FoundationRow,
    GroupRow,
    HeldRow,
    IntentText,
    LeaseRow,
    OrgRow,
    Planned,
    PolicyRow,
    PoolRow,
    RevisionRow,
    RuleRow,
    Status,
    VmRow,
    WorkloadRow,
)
from egress.values import Refused, RefusedError, Unavailable

Filter = str | int | bool
_EXPLAINED: TypeAdapter[Explained] = TypeAdapter(Explained)
_INTENT: TypeAdapter[IntentText] = TypeAdapter(IntentText)
_PLANNED: TypeAdapter[Planned] = TypeAdapter(Planned)
_STATUS: TypeAdapter[Status] = TypeAdapter(Status)
_NOT_NOW = frozenset({429, 500, 502, 503, 504})


class AdminClient:
    """Retries on Unavailable; a refusal is raised at once, as RefusedError."""

    def __init__(
        self, url: str, token: str = "", *, socket: str = "", attempts: int = 5, timeout_seconds: float = 10.0
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._socket = socket
        self._attempts = attempts
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def local(cls, socket: str, **settings: Any) -> Self:
        """By the unix socket, as root."""
        return cls("http://cfbridge", socket=socket, **settings)

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(self._socket) if self._socket else None
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, query: Mapping[str, Filter] | None = None) -> bytes:
        """The body of one answer. RefusedError for what was asked wrongly, Unavailable when all attempts failed."""
        retrying = stamina.retry_context(on=Unavailable, attempts=self._attempts, wait_initial=0.1, wait_max=2.0)
        async for attempt in retrying:
            with attempt:
                return await self._ask("GET", path, query or {})
        raise AssertionError("the last attempt returns or raises")

    async def _ask(
        self, method: str, path: str, query: Mapping[str, Filter], body: object = None, base: int | None = None
    ) -> bytes:
        assert self._session is not None, "use the client in `async with`"
        said = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in query.items()}
        headers = {} if method == "GET" else {"If-Match": "*" if base is None else f'"revision-{base}"'}
        try:
            asked = self._session.request(method, self._url + path, params=said, json=body, headers=headers)
            async with asked as response:
                answered = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            where = self._socket or self._url
            raise Unavailable(f"the bridge at {where} does not answer: {error or type(error).__name__}") from error
        if response.status == 200:
            return answered
        refused = _refusal(response.status, answered)
        if response.status in _NOT_NOW:
            raise Unavailable(f"{refused.message} ({refused.code})")
        raise RefusedError(refused)

    async def export(self, scope: str = "") -> IntentText:
        """The policy file of what is in force: of one team, or the whole."""
        return _INTENT.validate_json(await self.get(f"{ROOT}/intent", {"scope": scope} if scope else {}))

    async def plan(self, content: str) -> Planned:
        """What a policy file would change."""
        return _PLANNED.validate_json(await self._ask("POST", f"{ROOT}/plan", {}, {"content": content}))

    async def apply(self, content: str, reason: str = "", base: int | None = None) -> Planned:
        """Publish a policy file. `base`: the revision that it was planned for; None: whatever there is. It is not tried
        again, since nobody knows whether what failed was published; but a file that is in force already changes
        nothing."""
        said = {"content": content, "reason": reason}
        return _PLANNED.validate_json(await self._ask("PUT", f"{ROOT}/intent", {}, said, base))

    async def roll_back(self, revision: int, reason: str = "", base: int | None = None) -> Planned:
        """Publish what a revision said. Not tried again, as `apply`."""
        path = f"{ROOT}/revisions/{revision}/rollback"
        return _PLANNED.validate_json(await self._ask("POST", path, {}, {"reason": reason}, base))

    async def set_group(
        self, name: str, members: Sequence[str] = (), criteria: str | None = None, **how: Any
    ) -> Planned:
        """`how`, here and below: `reason`, `scope` (of what is new), `base`; `plan=True` changes nothing,
        `draft="name"` collects it there."""
        said = {"members": list(members), "criteria": criteria}
        return await self._edit("PUT", f"groups/{quote(name, safe='')}", said, **how)

    async def remove_group(self, name: str, **how: Any) -> Planned:
        return await self._edit("DELETE", f"groups/{quote(name, safe='')}", None, **how)

    async def set_vm(self, name: str, said: Mapping[str, Any], **how: Any) -> Planned:
        """As a policy file says it: `addresses`, `org`, `port`, `cell`, `tags`."""
        return await self._edit("PUT", f"vms/{quote(name, safe='')}", said, **how)

    async def remove_vm(self, name: str, **how: Any) -> Planned:
        return await self._edit("DELETE", f"vms/{quote(name, safe='')}", None, **how)

    async def tag(self, whose: str, tags: Mapping[str, str | None], **how: Any) -> Planned:
        """None takes a tag away. `whose`: `org:acme`, `space:acme/dev`, `acme/dev/web`, `vm:db-1`."""
        return await self._edit("PATCH", f"tags/{quote(whose, safe='')}", {"tags": dict(tags)}, **how)

    async def add_rule(self, said: Mapping[str, Any], **how: Any) -> Planned:
        """As a policy file says it, and its place: `tier` and `section`, or `before` or `after` which rule."""
        return await self._edit("POST", "rules", said, **how)

    async def change_rule(self, name: str, said: Mapping[str, Any], **how: Any) -> Planned:
        """What is named changes, None takes it away; a place moves it. `name` may be `R42`."""
        return await self._edit("PATCH", f"rules/{quote(name, safe='')}", said, **how)

    async def remove_rule(self, name: str, **how: Any) -> Planned:
        return await self._edit("DELETE", f"rules/{quote(name, safe='')}", None, **how)

    async def plan_draft(self, name: str) -> Planned:
        """What it would change now."""
        return _PLANNED.validate_json(await self.get(f"{ROOT}/drafts/{quote(name, safe='')}/plan"))

    async def publish_draft(self, name: str, reason: str = "", base: int | None = None) -> Planned:
        path = f"{ROOT}/drafts/{quote(name, safe='')}/publish"
        return _PLANNED.validate_json(await self._ask("POST", path, {}, {"reason": reason}, base))

    async def discard_draft(self, name: str) -> None:
        await self._ask("DELETE", f"{ROOT}/drafts/{quote(name, safe='')}", {})

    async def _edit(
        self,
        method: str,
        path: str,
        said: object,
        *,
        reason: str = "",
        scope: str = "",
        plan: bool = False,
        draft: str = "",
        base: int | None = None,
    ) -> Planned:
        query: dict[str, Filter] = {"reason": reason, "scope": scope, "plan": plan, "draft": draft}
        return _PLANNED.validate_json(await self._ask(method, f"{ROOT}/{path}", query, said, base))

    async def status(self) -> Status:
        return _STATUS.validate_json(await self.get(f"{ROOT}/status"))

    async def list(self, resource: str, **query: Filter) -> AsyncIterator[Any]:
        """Every row that matches, page by page."""
        asked = {"limit": 500, **query}
        while True:
            page = orjson.loads(await self.get(f"{ROOT}/{resource}", asked))
            for row in RESOURCES[resource].many.validate_python(page["items"]):
                yield row
            if page["next"] is None:
                return
            asked = {**asked, "after": page["next"]}

    async def show(self, resource: str, id_: str) -> Any:
        return RESOURCES[resource].one.validate_json(await self.get(f"{ROOT}/{resource}/{quote(id_, safe='')}"))

    async def explain(self, source: str, destination: str, protocol: str = "tcp", port: int | None = None) -> Explained:
        """Whether a connection passes, by which rule, and what would allow it."""
        asked: dict[str, Filter] = {"source": source, "destination": destination, "protocol": protocol}
        if port is not None:
            asked["port"] = port
        return _EXPLAINED.validate_json(await self.get(f"{ROOT}/explain", asked))

    def foundations(self, **query: Filter) -> AsyncIterator[FoundationRow]:
        return self.list("foundations", **query)

    def held(self, **query: Filter) -> AsyncIterator[HeldRow]:
        return self.list("held", **query)

    def cells(self, **query: Filter) -> AsyncIterator[CellRow]:
        return self.list("cells", **query)

    def orgs(self, **query: Filter) -> AsyncIterator[OrgRow]:
        return self.list("orgs", **query)

    def pools(self, **query: Filter) -> AsyncIterator[PoolRow]:
        return self.list("pools", **query)

    def leases(self, **query: Filter) -> AsyncIterator[LeaseRow]:
        return self.list("leases", **query)

    def workloads(self, **query: Filter) -> AsyncIterator[WorkloadRow]:
        return self.list("workloads", **query)

    def policies(self, **query: Filter) -> AsyncIterator[PolicyRow]:
        return self.list("policies", **query)

    def asgs(self, **query: Filter) -> AsyncIterator[AsgRow]:
        return self.list("asgs", **query)

    def rules(self, **query: Filter) -> AsyncIterator[RuleRow]:
        return self.list("rules", **query)

    def vms(self, **query: Filter) -> AsyncIterator[VmRow]:
        return self.list("vms", **query)

    def groups(self, **query: Filter) -> AsyncIterator[GroupRow]:
        return self.list("groups", **query)

    def revisions(self, **query: Filter) -> AsyncIterator[RevisionRow]:
        return self.list("revisions", **query)


def _refusal(status: int, body: bytes) -> Refused:
    try:
        said = orjson.loads(body)
        errors = cast("list[dict[str, str]]", said.get("errors") or [{}])
        return Refused(str(said["code"]), str(said["detail"]), errors[0].get("pointer", ""))
    except (ValueError, KeyError, AttributeError, TypeError):
        return Refused("BAD_ANSWER", f"the bridge answered {status} with something else than a problem")
