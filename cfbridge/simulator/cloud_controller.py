"""Which orgs, spaces, apps and security groups are there? Cloud Controller's v3, as much as bridge and CLI use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler

from cfbridge.simulator import sight
from cfbridge.simulator.cc_reading import KINDS
from cfbridge.simulator.cc_requests import (
    INVALID_TOKEN,
    NOT_AUTHENTICATED,
    UNKNOWN,
    ComplainedError,
    answer,
    complaint,
    of_refusal,
)
from cfbridge.simulator.cc_writing import Writing
from cfbridge.simulator.misbehaviour import misbehave
from cfbridge.simulator.sight import Sight
from cfbridge.simulator.tokens import Tokens
from egress.values import RefusedError

API_VERSION = "3.228.0"

Reply = Callable[[web.Request, Sight], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Links:
    api: str = ""
    uaa: str = ""
    policy_server: str = ""


@dataclass(slots=True)
class CloudController(Writing):
    tokens: Tokens
    version: str = API_VERSION
    links: Links = field(default_factory=Links)

    def application(self, control: Iterable[web.RouteDef] = ()) -> web.Application:
        faults = misbehave(self.state, ("cloud_controller",))
        application = web.Application(middlewares=[faults, _complaints], client_max_size=2 * 1024 * 1024)
        application.add_routes([web.get("/", self.root), web.get("/v2/info", self.v2_info)])
        application.add_routes([web.get("/v3", self.v3), web.get("/v3/info", self.v3_info), *control])
        kinds = "|".join(KINDS)
        routes: tuple[tuple[str, str, Reply], ...] = (
            ("GET", f"/v3/{{kind:{kinds}}}", self.list_kind),
            ("GET", f"/v3/{{kind:{kinds}}}/{{guid}}", self.get_one),
            ("GET", "/v3/apps/{guid}/processes", self.processes_of_app),
            ("GET", "/v3/spaces/{guid}/relationships/isolation_segment", self.space_segment),
            ("PATCH", "/v3/spaces/{guid}/relationships/isolation_segment", self.set_space_segment),
            ("GET", "/v3/spaces/{guid}/{lifecycle:running|staging}_security_groups", self.effective_groups),
            ("GET", "/v3/isolation_segments/{guid}/relationships/{of:organizations|spaces}", self.segment_members),
            ("GET", "/v3/jobs/{guid}", self.job),
            ("POST", "/v3/organizations", self.create_org),
            ("PATCH", "/v3/organizations/{guid}", self.change_org),
            ("DELETE", "/v3/organizations/{guid}", self.delete_org),
            ("POST", "/v3/spaces", self.create_space),
            ("PATCH", "/v3/spaces/{guid}", self.change_space),
            ("DELETE", "/v3/spaces/{guid}", self.delete_space),
            ("POST", "/v3/apps", self.create_app),
            ("PATCH", "/v3/apps/{guid}", self.change_app),
            ("DELETE", "/v3/apps/{guid}", self.delete_app),
            ("POST", "/v3/apps/{guid}/actions/{action:start|stop|restart}", self.start_or_stop),
            ("POST", "/v3/processes/{guid}/actions/scale", self.scale),
            ("POST", "/v3/apps/{app}/processes/{type}/actions/scale", self.scale),
            ("POST", "/v3/security_groups", self.create_group),
            ("PATCH", "/v3/security_groups/{guid}", self.change_group),
            ("DELETE", "/v3/security_groups/{guid}", self.delete_group),
            ("POST", "/v3/security_groups/{guid}/relationships/{lifecycle:running|staging}_spaces", self.bind),
            (
                "DELETE",
                "/v3/security_groups/{guid}/relationships/{lifecycle:running|staging}_spaces/{space}",
                self.unbind,
            ),
            ("POST", "/v3/roles", self.create_role),
            ("DELETE", "/v3/roles/{guid}", self.delete_role),
        )
        for method, path, reply in routes:
            application.router.add_route(method, path, self._authenticated(reply))
        return application

    def _authenticated(self, reply: Reply) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            header = request.headers.get("Authorization", "")
            if not header:
                raise ComplainedError(NOT_AUTHENTICATED, "Authentication error")
            scheme, _, token = header.partition(" ")
            claims = self.tokens.verify(token) if scheme.lower() == "bearer" else None
            if claims is None:
                raise ComplainedError(INVALID_TOKEN, "Invalid Auth Token")
            return await reply(request, sight.of_caller(claims, self.state))

        return handle

    # -- what needs no token

    async def root(self, request: web.Request) -> web.Response:
        api, policies = self.links.api, f"{self.links.policy_server}/networking"
        return answer(
            {
                "links": {
                    "self": {"href": api},
                    "cloud_controller_v3": {"href": f"{api}/v3", "meta": {"version": self.version}},
                    "network_policy_v0": {"href": f"{policies}/v0/external"},
                    "network_policy_v1": {"href": f"{policies}/v1/external"},
                    "login": {"href": self.links.uaa},
                    "uaa": {"href": self.links.uaa},
                    "credhub": None,
                    "routing": None,
                    "logging": None,
                    "log_cache": {"href": f"{api}/logcache"},
                    "log_stream": None,
                    "app_ssh": None,
                }
            }
        )

    async def v3(self, request: web.Request) -> web.Response:
        url = self.written.url
        links = {kind: {"href": f"{url}/v3/{kind}"} for kind in KINDS}
        return answer({"links": {"self": {"href": f"{url}/v3"}, **links}})

    async def v3_info(self, request: web.Request) -> web.Response:
        return answer(
            {
                "build": "",
                "cli_version": {"minimum": "", "recommended": ""},
                "custom": {},
                "description": "a simulated foundation",
                "name": "",
                "version": 0,
                "osbapi_version": "2.15",
                "rate_limits": {"enabled": False, "general_limit": 2000, "reset_interval_in_minutes": 60},
                "links": {"self": {"href": f"{self.written.url}/v3/info"}, "support": {"href": ""}},
            }
        )

    async def v2_info(self, request: web.Request) -> web.Response:
        return answer({"name": "", "support": "CF API v2 is disabled", "version": 0, "api_version": ""})


@web.middleware
async def _complaints(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ComplainedError as complained:
        return complaint(complained)
    except RefusedError as refused:
        return complaint(of_refusal(refused.refused))
    except (web.HTTPNotFound, web.HTTPMethodNotAllowed):
        return complaint(ComplainedError(UNKNOWN, "Unknown request"))
