"""Does an explanation say what the firewall does, by which rule, and what would change it?"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest

from cfbridge.api import explaining, server
from cfbridge.api.explaining import Explainer, Question
from cfbridge.api.resources import Explained
from cfbridge.inventory import App
from cfbridge.settings import ApiConfig
from egress.values import RefusedError
from policy_sync import compiler, translate, verdict
from policy_sync.model import (
    Action,
    CfPolicy,
    Kind,
    Lifecycle,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Tier,
    Workload,
    World,
)
from tests.cfbridge.api.world import SNAPSHOT, STATE, FakeFacade, q
from tests.parity import worlds

FRONT, BACK, IDLE = q("app-front"), q("app-back"), q("app-idle")
PLACES = {"org": q("org-acme"), "space": q("space-dev"), "cell": "cell-1"}


def container(handle: str, app: str, address: str, name: str, **more: object) -> Workload:
    said = {"lifecycle": Lifecycle.APP, "app": q(app), **PLACES, **more}
    return Workload(f"cf:{handle}", Kind.CONTAINER, (address,), name=name, **said)


WORKLOADS = (
    container("handle-1", "app-front", "10.240.1.4", "acme/dev/frontend/0"),
    container("handle-4", "app-front", "10.240.1.7", "acme/dev/frontend/1"),
    container("handle-2", "app-back", "10.240.1.5", "acme/dev/backend/0"),
    container("handle-5", "app-back", "10.240.1.8", "staging", lifecycle=Lifecycle.STAGING),
    Workload("vm:db-1", Kind.VM, ("10.240.3.11",), "cell-1", name="db-1"),
    Workload("vm:far", Kind.VM, ("192.0.2.9",), name="far", protected=False),
)


def facade(*rules: Rule, policies: frozenset[CfPolicy] = frozenset()) -> FakeFacade:
    """The API's world, with an app that doesn't run, and the ruleset that these rules make of it."""
    apps = {**STATE.apps, IDLE: App(IDLE, "idle", q("space-dev"))}
    state = replace(STATE, apps=apps, policies=policies)
    world = World(
        workloads=WORKLOADS,
        rules=(*rules, *translate.baseline_rules()),
        policies=policies,
        asgs_known=frozenset({"cf"}),
        container_pools=("10.240.0.0/14",),
        cell_addresses=("10.0.0.5",),
    )
    ids = worlds.numbered(world)
    held = replace(SNAPSHOT.held, rule_ids=ids)
    snapshot = replace(SNAPSHOT, inventory={"cf": state}, held=held)
    return FakeFacade(snapshot=snapshot, world=world, ruleset=compiler.compile_ruleset(world, ids).ruleset)


def explain(seen: FakeFacade, source: str, destination: str, port: int = 8080, **more: object) -> Explained:
    asked = {"protocol": Protocol.TCP, "port": port, **more}
    return Explainer().explain(seen, Question(source, destination, **asked))


def rule(action: Action, tier: Tier, **more: object) -> Rule:
    app = (Selector(SelectorKind.APP, FRONT),)
    said = {"sources": app, "destinations": (Selector(SelectorKind.APP, BACK),), **more}
    return Rule("rule:r", "r", tier, action=action, **said)


def test_what_nobody_allowed_is_refused_by_the_default_and_the_command_that_allows_it_is_said() -> None:
    said = explain(facade(), "acme/dev/frontend", "acme/dev/backend")
    assert said.verdict == "reject"
    assert said.sentence == "acme/dev/frontend may not open tcp/8080 to acme/dev/backend"
    assert said.decided_by.tier == "baseline"
    assert said.decided_by.rule.startswith("R")
    assert said.enforced_at == "acme/dev/backend/0"
    assert said.would_allow is not None
    assert (
        said.would_allow.command == "cf add-network-policy frontend backend --protocol tcp --port 8080 -s dev -o acme"
    )
    assert said.would_allow.by_whom.startswith("a space developer of acme/dev with")


def test_the_command_that_is_said_allows_it() -> None:
    policy = CfPolicy(FRONT, BACK, Protocol.TCP, 8080, 8080)
    said = explain(facade(policies=frozenset({policy})), "acme/dev/frontend", "acme/dev/backend")
    assert (said.verdict, said.would_allow, said.decided_by.section) == ("allow", None, "cf network policies")


@pytest.mark.parametrize("tier", [Tier.EMERGENCY, Tier.INFRASTRUCTURE, Tier.ENVIRONMENT, Tier.APPLICATION])
def test_where_a_rule_forbids_it_its_owner_is_named_and_no_command(tier: Tier) -> None:
    policy = CfPolicy(FRONT, BACK, Protocol.TCP, 8080, 8080)
    seen = facade(rule(Action.DROP, tier, owner="blue team"), policies=frozenset({policy}))
    said = explain(seen, "acme/dev/frontend", "acme/dev/backend")
    assert (said.verdict, said.decided_by.owner, said.decided_by.tier) == ("drop", "blue team", tier.name.lower())
    assert said.would_allow is not None
    assert said.would_allow.command == ""
    assert "blue team" in said.would_allow.by_whom


def test_an_emergency_is_enforced_at_both_ends() -> None:
    said = explain(facade(rule(Action.DROP, Tier.EMERGENCY)), "acme/dev/frontend/0", "acme/dev/backend/0")
    assert said.enforced_at == "acme/dev/backend/0 and acme/dev/frontend/0"


@pytest.mark.parametrize(
    ("source", "destination"),
    [("acme/dev/frontend", "vm:db-1"), ("vm:db-1", "acme/dev/backend"), ("10.240.1.8", "acme/dev/backend")],
)
def test_machines_and_staging_get_no_command_of_cf(source: str, destination: str) -> None:
    said = explain(facade(), source, destination)
    assert said.verdict == "reject"
    assert said.would_allow is not None
    assert said.would_allow.command == ""


def test_icmp_gets_no_command_of_cf() -> None:
    said = explain(facade(), "acme/dev/frontend", "acme/dev/backend", 0, protocol=Protocol.ICMP)
    assert (said.verdict, said.sentence) == ("reject", "acme/dev/frontend may not open icmp to acme/dev/backend")
    assert said.would_allow is not None
    assert "tcp and udp only" in said.would_allow.by_whom


def test_what_is_outside_needs_a_security_group_and_its_way_out_is_shown() -> None:
    said = explain(facade(), "acme/dev/frontend", "198.51.100.9", 443)
    assert said.would_allow is not None
    assert "a security group with 198.51.100.9 for acme/dev" in said.would_allow.by_whom
    assert said.path == ("acme/dev/frontend at 10.240.1.4", "leaves as 203.0.113.7", "198.51.100.9")
    assert (said.enforced_at, said.grade) == ("acme/dev/frontend/0", "outside")


def test_a_machine_without_a_port_of_ours_is_protected_at_the_other_end_alone() -> None:
    said = explain(facade(), "acme/dev/frontend", "vm:far")
    assert (said.enforced_at, said.grade) == ("acme/dev/frontend/0", "peer")


def test_who_comes_from_outside_comes_by_the_mapped_port() -> None:
    said = explain(facade(), "198.51.100.9", "acme/dev/backend")
    assert said.verdict == "allow"
    assert said.path[1] == "a mapped port of the cell"
    assert explain(facade(), "198.51.100.9", "acme/dev/backend", 9090).verdict == "reject"


def test_an_app_without_instances_is_judged_as_one_that_would_run() -> None:
    policy = CfPolicy(FRONT, IDLE, Protocol.TCP, 8080, 8080)
    assert explain(facade(), "acme/dev/frontend", "acme/dev/idle").verdict == "reject"
    said = explain(facade(policies=frozenset({policy})), "acme/dev/frontend", "acme/dev/idle")
    assert (said.verdict, said.assumed) == ("allow", ("acme/dev/idle",))


def test_instances_that_are_judged_otherwise_are_told_and_the_refused_one_first() -> None:
    one = (Selector(SelectorKind.WORKLOAD, "cf:handle-1"),)
    said = explain(facade(rule(Action.ALLOW, Tier.ENVIRONMENT, sources=one)), "acme/dev/frontend", "acme/dev/backend")
    assert (said.verdict, said.path[0]) == ("reject", "acme/dev/frontend at 10.240.1.7")
    assert [(each.source, each.verdict) for each in said.otherwise] == [("10.240.1.4", "allow")]


def test_a_name_alone_is_of_the_targeted_space() -> None:
    asked = {"org": "acme", "space": "dev"}
    assert explain(facade(), "frontend", "backend", **asked).source == "acme/dev/frontend"


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("frontend", "BAD_END", "write ORG/SPACE/APP"),
        ("acme/dev/fronted", "APP_UNKNOWN", "did you mean 'acme/dev/frontend'?"),
        ("acme/dev/frontend/9", "INSTANCE_UNKNOWN", "No instance 9"),
        ("vm:db-2", "VM_UNKNOWN", "did you mean 'db-1'?"),
        ("10.0.0.0/8", "BAD_END", "names nobody"),
        ("acme/dev/backend/0", "NO_WAY_BETWEEN", "the same one"),
        ("fd00::1", "NO_WAY_BETWEEN", "of one family"),
    ],
)
def test_an_end_that_is_nobody_is_refused_with_what_to_write(source: str, code: str, says: str) -> None:
    with pytest.raises(RefusedError) as refused:
        explain(facade(), source, "acme/dev/backend/0")
    assert refused.value.refused.code == code
    assert says in refused.value.refused.message


def test_tcp_without_a_port_is_no_question() -> None:
    with pytest.raises(RefusedError) as refused:
        explaining.check({"source": "a", "destination": "b", "protocol": "tcp", "port": None, "org": "", "space": ""})
    assert refused.value.refused.field == "port"


@pytest.mark.parametrize("seed", range(40))
def test_every_explanation_agrees_with_the_oracle(seed: int) -> None:
    rng = random.Random(seed)
    world = worlds.random_world(rng)
    ids = worlds.numbered(world)
    seen = FakeFacade(
        snapshot=replace(SNAPSHOT, cells={}, held=replace(SNAPSHOT.held, rule_ids=ids)),
        world=world,
        ruleset=compiler.compile_ruleset(world, ids).ruleset,
    )
    explainer = Explainer()
    for packet in worlds.random_packets(rng, world, 30):
        if packet.mapped or packet.icmp_type not in (0, 8, 128) or not isinstance(packet.protocol, Protocol):
            continue
        said = explainer.explain(seen, Question(packet.source, packet.destination, packet.protocol, packet.port))
        judged = verdict.verdict(world, packet, ids)
        assert said.verdict == judged.action
        assert said.decided_by.rule in (f"R{ids.get(judged.rule)}", judged.rule)


@pytest.fixture
async def asked(tmp_path: object) -> AsyncIterator[aiohttp.ClientSession]:
    made = await server.serve(facade(), ApiConfig(listen=("127.0.0.1:0",)), str(tmp_path))
    headers = {"Authorization": f"Bearer {made.token}"}
    async with aiohttp.ClientSession(made.addresses[0], headers=headers) as session:
        yield session
    await made.close()


async def test_the_api_explains_and_names_what_is_wrong_with_a_question(asked: aiohttp.ClientSession) -> None:
    query = {"source": "acme/dev/frontend", "destination": "acme/dev/backend", "port": "8080"}
    async with asked.get("/api/v1/explain", params=query) as answer:
        said = await answer.json()
        assert (answer.status, said["verdict"], said["evaluated_at_revision"]) == (200, "reject", 41)
    async with asked.get("/api/v1/explain", params={**query, "destination": "acme/dev/nobody"}) as answer:
        problem = await answer.json()
        assert (answer.status, problem["code"]) == (404, "APP_UNKNOWN")
        assert problem["errors"][0]["pointer"] == "/query/destination"
    async with asked.get("/api/v1/explain", params={**query, "port": "0"}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (400, "BAD_QUERY")
