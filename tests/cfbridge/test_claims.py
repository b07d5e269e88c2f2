"""Is a container that is not what it says shut off, alone, and one that nobody knows yet served?"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfbridge import claims
from cfbridge.compile import Compiler
from cfbridge.inventory import App, FoundationState, Look, Org, Space
from cfbridge.settings import FirewallConfig
from cfbridge.snapshot import CellState, Snapshot
from egress.model import Lease, Pool, PoolKind
from egress.values import parse_range, qualify
from garden_plugin.wire import PortReport
from policy_sync import verdict
from policy_sync.model import Asg, CfPolicy, GardenRule, Lifecycle, Packet, Protocol

POOLS = (Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/14",), 24),)
FRONT, BACK, OUTSIDE = "10.240.0.2", "10.240.0.3", "198.51.100.10"


def known(**more: object) -> FoundationState:
    """Two orgs with a space and an app each."""
    named = {
        "orgs": {id_: Org(id_, id_) for id_ in map(_id, ("acme", "globex"))},
        "spaces": {_id(s): Space(_id(s), s, _id(o)) for s, o in (("dev", "acme"), ("prod", "globex"))},
        "looks": {kind: Look(1.0) for kind in ("orgs", "spaces", "apps", "policies", "asgs")},
        "apps": {_id(a): App(_id(a), a, _id(s)) for a, s in (("front", "dev"), ("back", "dev"), ("bank", "prod"))},
    }
    return FoundationState("cf", **{**named, **more})  # type: ignore[arg-type]


def _id(guid: str) -> str:
    return qualify("cf", guid)


def port(org: str = "acme", space: str = "dev", app: str = "front", handle: str = "h") -> PortReport:
    return PortReport(handle, org=org, space=space, app=app, lifecycle="app")


@pytest.mark.parametrize(
    "said",
    [
        port(app="bank"),
        port(space="prod"),
        port(org="globex"),
        port(space="", app="bank"),
        port(org="", app="front"),
        port(org="globex", app="new"),
        port(org="globex", space="prod"),
        port(org="newer", app="new"),
        port(space="new"),
    ],
)
def test_what_cloud_controller_knows_otherwise_is_not_believed(said: PortReport) -> None:
    refused = claims.contradiction(said, known())
    assert refused is not None
    assert refused.code == "CLAIM_MISMATCH"


@pytest.mark.parametrize(
    "said",
    [
        port(),
        port("globex", "prod", "bank"),
        port(app="new"),
        port(space="new", app="new"),
        port("new", "new", "new"),
        port("new", "new", ""),
        port("", "", ""),
    ],
)
def test_what_is_true_or_newer_than_the_last_look_is_believed(said: PortReport) -> None:
    assert claims.contradiction(said, known()) is None


def test_nothing_is_held_against_anybody_before_cloud_controller_was_read() -> None:
    assert claims.contradiction(port("globex", "dev", "bank"), FoundationState("cf")) is None


@given(st.text(), st.text(), st.text(), st.text(max_size=20_000))
def test_why_is_one_short_line_of_what_a_terminal_can_show(org: str, space: str, app: str, handle: str) -> None:
    refused = claims.contradiction(port(org, "dev", app, handle), known())
    if org != "acme":
        assert refused is not None
        assert refused.message.isprintable()
        assert len(refused.message) < 4_000


class Bridge:
    """As much of one as compiles: two containers of acme, one of which says what `lie` says."""

    def __init__(self) -> None:
        self.compiler = Compiler(FirewallConfig(), POOLS)
        entry = GardenRule(Protocol.TCP, (parse_range("0.0.0.0/0"),), ((443, 443),))
        state = known(
            policies=frozenset(
                CfPolicy(_id(a), _id("back"), Protocol.TCP, 8080, 8080)  # type: ignore[arg-type]
                for a in ("front", "bank")
            ),
            asgs={_id("open"): Asg(_id("open"), "open", (entry,), running_default=True)},  # type: ignore[arg-type]
        )
        self.snapshot = Snapshot(inventory={"cf": state}, cells={"cell": CellState("cell", "cf")}, pools=POOLS)
        self.up("front", FRONT, port(handle="front"))
        self.up("back", BACK, port(app="back", handle="back"))

    def up(self, handle: str, address: str, said: PortReport) -> None:
        cell, held, workload = self.snapshot.cells["cell"], self.snapshot.held, _id(handle)
        lease = Lease(address, workload, qualify("cf", said.org), "cell")
        self.snapshot = replace(
            self.snapshot,
            cells={"cell": replace(cell, ports={**cell.ports, workload: said})},
            held=replace(held, leases={**held.leases, workload: (lease,)}),
        )

    def allowed(self) -> list[str]:
        """Which of: front to back, front to outside, outside to front by a mapped port, the cell to front."""
        world = self.compiler.world(self.snapshot)
        packets = {
            "to back": Packet(FRONT, BACK, Protocol.TCP, 8080),
            "out": Packet(FRONT, OUTSIDE, Protocol.TCP, 443),
            "in": Packet(OUTSIDE, FRONT, Protocol.TCP, 8080, mapped=True),
            "dns": Packet(FRONT, "169.254.0.53", Protocol.UDP, 53),
        }
        return [name for name, packet in packets.items() if verdict.verdict(world, packet).allowed]


def test_one_that_is_not_what_it_says_reaches_nobody_and_nobody_reaches_it() -> None:
    bridge = Bridge()
    assert bridge.allowed() == ["to back", "out", "in", "dns"]
    bridge.up("front", FRONT, port(app="bank", handle="front"))
    assert bridge.allowed() == []
    (workload, other) = bridge.compiler.world(bridge.snapshot).workloads
    assert (workload.org, workload.space, workload.app, workload.lifecycle) == (None, None, None, Lifecycle.NONE)
    assert other.app == _id("back")


def test_it_is_an_alarm_that_names_it_until_it_is_gone_and_holds_up_nobody_else() -> None:
    bridge = Bridge()
    bridge.up("liar", "10.240.0.9", port(org="globex", handle="liar"))
    keys = bridge.compiler.missing_ids(bridge.snapshot)
    ids = {key: number for number, key in enumerate(sorted(keys), 1)}
    bridge.snapshot = replace(bridge.snapshot, held=replace(bridge.snapshot.held, rule_ids=ids))
    compiled = bridge.compiler.compile(bridge.snapshot, 1_700_000_000.0)
    assert not compiled.quarantined
    (refused,) = compiled.untrue
    assert "liar" in refused.message
    assert bridge.allowed() == ["to back", "out", "in", "dns"]
    cell = bridge.snapshot.cells["cell"]
    left = {name: said for name, said in cell.ports.items() if name != "cf:liar"}
    bridge.snapshot = replace(bridge.snapshot, cells={"cell": replace(cell, ports=left)})
    again = bridge.compiler.compile(bridge.snapshot, 1_700_000_000.0)
    assert not again.untrue
    assert not [rule for rule in again.world.rules if rule.key.startswith("system:untrue")]


def test_one_whose_app_is_read_later_is_shut_off_then() -> None:
    bridge = Bridge()
    state = bridge.snapshot.inventory["cf"]
    bridge.snapshot = replace(bridge.snapshot, inventory={"cf": replace(state, spaces={})})
    bridge.up("front", FRONT, port(org="globex", handle="front"))
    assert "out" in bridge.allowed()
    bridge.snapshot = replace(bridge.snapshot, inventory={"cf": state})
    assert bridge.allowed() == []
