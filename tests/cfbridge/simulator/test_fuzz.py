"""Is there a body that breaks a server? Whatever is sent, the answer is a 2xx or a 4xx, never a 500."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Iterator
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from cfbridge.simulator import asg_rules, seed
from cfbridge.simulator.box import Box, SimulatorConfig, serve
from cfbridge.simulator.cc_lists import BadQueryError, label_selector
from cfbridge.simulator.policy_requests import UnreadableError, read_policies
from cfbridge.simulator.tokens import Tokens

WORDS = (
    "policies", "source", "destination", "id", "tag", "ports", "port", "start", "end", "protocol", "tcp", "udp", "name",
    "metadata", "labels", "annotations", "relationships", "space", "organization", "user", "data", "guid", "rules",
    "globally_enabled", "running", "staging", "suspended", "instances", "type", "code", "log", "org", "service", "mode",
    "seconds", "status", "lifecycle", "running_spaces", "error", "space_developer", "10.0.0.0/8",
    seed.ACME, seed.ACME_DEV,
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.sampled_from(WORDS)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
)
KEYS = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
ENDPOINT = st.dictionaries(st.sampled_from(["id", "protocol", "ports", "port", "tag"]), LEAVES | JSON, max_size=4)
POLICIES = st.fixed_dictionaries(
    {
        "policies": st.lists(
            st.fixed_dictionaries({}, optional={"source": ENDPOINT | JSON, "destination": ENDPOINT | JSON}) | JSON,
            max_size=3,
        )
    }
)
BODIES = st.binary(max_size=40) | (JSON | POLICIES).map(orjson.dumps)

TOKENS = Tokens("https://uaa/oauth/token")

NAMED = {"name": "fuzz"}
IN_SPACE = {"relationships": {"space": {"data": {"guid": seed.ACME_DEV}}}}
IN_ORG = {"relationships": {"organization": {"data": {"guid": seed.ACME}}}}
SHAPES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/v3/organizations", NAMED),
    ("PATCH", f"/v3/organizations/{seed.ACME}", {}),
    ("POST", "/v3/spaces", {**NAMED, **IN_ORG}),
    ("PATCH", f"/v3/spaces/{seed.ACME_DEV}", {}),
    ("PATCH", f"/v3/spaces/{seed.ACME_DEV}/relationships/isolation_segment", {}),
    ("POST", "/v3/apps", {**NAMED, **IN_SPACE}),
    ("PATCH", f"/v3/apps/{seed.FRONTEND}", {}),
    ("POST", f"/v3/processes/{seed.FRONTEND}/actions/scale", {}),
    ("POST", "/v3/security_groups", NAMED),
    ("PATCH", f"/v3/security_groups/{seed.DB_ONLY}", {}),
    ("POST", f"/v3/security_groups/{seed.DB_ONLY}/relationships/running_spaces", {}),
    ("POST", "/v3/roles", {"type": "space_auditor", **IN_SPACE}),
    ("POST", "/__sim/apps", {"org": "acme", "space": "dev", "name": "fuzz"}),
    ("POST", "/__sim/apps/scale", {"org": "acme", "space": "dev", "name": "frontend"}),
    ("POST", "/__sim/asgs/bind", {"name": "db-only"}),
)


class Loop:
    """A box in an event loop of its own, for tests that Hypothesis calls many times."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.runner = asyncio.Runner()
        self.box: Box = self.runner.run(serve(config))
        self.session = self.runner.run(self._session())
        token = self.box.tokens.for_user(self.box.state.users[seed.ADMIN], "cf", "password")[0]
        self.admin = {"Authorization": f"bearer {token}"}

    async def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    def status(self, method: str, url: str | URL, body: bytes) -> int:
        async def ask() -> int:
            async with self.session.request(method, url, data=body, headers=self.admin) as response:
                await response.read()
                return response.status

        return self.runner.run(ask())

    def close(self) -> None:
        self.runner.run(self.session.close())
        self.runner.run(self.box.stop())
        self.runner.close()


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loop]:
    running = Loop(SimulatorConfig(tmp_path_factory.mktemp("fuzz")))
    yield running
    running.close()


FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@given(body=BODIES, path=st.sampled_from(["policies", "policies/delete"]), version=st.sampled_from(["v0", "v1"]))
def test_no_body_breaks_the_policy_server(loop: Loop, body: bytes, path: str, version: str) -> None:
    url = f"{loop.box.foundation.policy_url}/networking/{version}/external/{path}"
    assert loop.status("POST", url, body) in (200, 400)


@settings(FEW, max_examples=150)
@given(shape=st.sampled_from(SHAPES), change=st.dictionaries(KEYS, JSON, max_size=3), raw=st.none() | st.binary())
def test_no_body_breaks_cloud_controller(
    loop: Loop, shape: tuple[str, str, dict[str, Any]], change: dict[str, Any], raw: bytes | None
) -> None:
    method, path, body = shape
    sent = raw if raw is not None else orjson.dumps({**body, **change})
    assert loop.status(method, loop.box.foundation.api_url + path, sent) < 500


@FEW
@given(path=st.binary(min_size=1, max_size=6).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw)))
def test_no_path_or_parameter_breaks_a_server(loop: Loop, path: str) -> None:
    api, policies = loop.box.foundation.api_url, loop.box.foundation.policy_url
    bound = f"/v3/security_groups/{seed.DB_ONLY}/relationships/running_spaces/{path}"
    for method, text in (
        ("DELETE", f"{api}{bound}"),
        ("GET", f"{api}/v3/apps?{path}={path}"),
        ("GET", f"{api}/v3/apps?names={path}"),
        ("GET", f"{policies}/networking/{path}/external/policies"),
        ("GET", f"{policies}/networking/v1/external/policies?source_id={path}&dest_id={path}"),
    ):
        assert loop.status(method, URL(text, encoded=True), b"") < 500


@FEW
@given(body=BODIES)
def test_no_form_breaks_uaa(loop: Loop, body: bytes) -> None:
    assert loop.status("POST", f"{loop.box.foundation.uaa_url}/oauth/token", body) < 500


@FEW
@given(
    key=st.sampled_from(["guids", "names", "page", "per_page", "order_by", "updated_ats[gt]", "label_selector", "x"]),
    value=st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
)
def test_no_query_breaks_cloud_controller(loop: Loop, key: str, value: str) -> None:
    async def ask() -> int:
        url = f"{loop.box.foundation.api_url}/v3/apps"
        async with loop.session.get(url, params={key: value}, headers=loop.admin) as response:
            return response.status

    assert loop.runner.run(ask()) in (200, 400)


@given(body=st.binary() | BODIES, version=st.sampled_from(["v0", "v1"]))
def test_a_request_is_read_or_called_unreadable(body: bytes, version: str) -> None:
    with contextlib.suppress(UnreadableError):
        keys = read_policies(body, version)
        assert keys
        assert all(key.source and key.destination and key.start >= 1 for key in keys)


PART = (JSON.map(orjson.dumps) | st.binary(max_size=10)).map(lambda part: base64.urlsafe_b64encode(part).rstrip(b"="))


@given(token=st.text(max_size=20) | st.lists(PART, min_size=2, max_size=5).map(lambda parts: b".".join(parts).decode()))
def test_no_token_breaks_who_verifies_it(token: str) -> None:
    assert TOKENS.verify(token) is None


@given(rules=JSON)
def test_any_rules_are_good_or_told_what_is_wrong(rules: Any) -> None:
    assert all(isinstance(fault, str) and fault for fault in asg_rules.faults_of(rules))


@given(text=st.text())
def test_any_selector_is_understood_or_refused(text: str) -> None:
    with contextlib.suppress(BadQueryError):
        assert callable(label_selector(text))
