"""A small world for the API's tests: two orgs, three containers, a VM, policies, an ASG, rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cfbridge.api.views import Alarm
from cfbridge.audit import Audit
from cfbridge.drafts import Draft, Drafts
from cfbridge.intent import Intent, Vm
from cfbridge.inventory import App, FoundationState, HeldBack, Look, Org, Space
from cfbridge.revisions import Revisions
from cfbridge.snapshot import CellState, Held, Snapshot
from cfbridge.store import Audited, Drafted, Revised
from egress.model import Lease, NetworkMode, OrgNetwork, OrgWish, Pool, PoolKind, SnatAddress
from egress.values import QualifiedId, Refused, RefusedError, Unavailable, parse_range
from garden_plugin.wire import MappedPort, PortReport
from policy_sync import translate
from policy_sync.criteria import Attribute, Comparison
from policy_sync.model import (
    Action,
    Asg,
    CfPolicy,
    GardenRule,
    Group,
    Protocol,
    Rule,
    Selector,
    SelectorKind,
    Service,
    Tier,
    World,
)
from policy_sync.ruleset import RuleLabel, Ruleset


def q(guid: str) -> QualifiedId:
    return QualifiedId(f"cf:{guid}")


POLICY = CfPolicy(q("app-front"), q("app-back"), Protocol.TCP, 8080, 8080)
RANGE_POLICY = CfPolicy(q("app-back"), q("app-front"), Protocol.UDP, 5000, 5100)
ASG = Asg(
    q("asg-1"),
    "public",
    (
        GardenRule(Protocol.TCP, (parse_range("10.0.0.0/8"),), ((443, 443), (8000, 8100))),
        GardenRule(Protocol.ICMP, (parse_range("0.0.0.0/0"),), icmp_type=8),
        GardenRule(Protocol.ALL, (parse_range("192.0.2.1-192.0.2.9"),)),
    ),
    running_spaces=frozenset({q("space-dev")}),
    running_default=False,
)
HELD = HeldBack(
    kind="policies",
    objects=frozenset({POLICY, RANGE_POLICY}),
    known=2,
    since=1_800_000_000.0,
    until=1_800_000_060.0,
    looks=1,
    looks_needed=3,
)
STATE = FoundationState(
    "cf",
    orgs={q("org-acme"): Org(q("org-acme"), "acme"), q("org-globex"): Org(q("org-globex"), "globex", suspended=True)},
    spaces={q("space-dev"): Space(q("space-dev"), "dev", q("org-acme"))},
    apps={
        q("app-front"): App(q("app-front"), "frontend", q("space-dev")),
        q("app-back"): App(q("app-back"), "backend", q("space-dev")),
    },
    policies=frozenset({POLICY, RANGE_POLICY}),
    asgs={ASG.id: ASG},
    looks={kind: Look(complete_at=1_800_000_000.0) for kind in ("orgs", "spaces", "apps", "policies", "asgs")},
    held=(HELD,),
)
INTENT_RULE = Rule(
    key="rule:web to database",
    name="web to database",
    tier=Tier.APPLICATION,
    section="payments",
    sources=(Selector(SelectorKind.APP, q("app-front")),),
    destinations=(Selector(SelectorKind.WORKLOAD, "vm:db-1"), Selector(SelectorKind.GROUP, "databases")),
    services=(Service(Protocol.TCP, ((5432, 5432),)),),
    action=Action.ALLOW,
    owner="payments",
    provenance="intent file",
)
INTENT = Intent(
    tenants=(OrgWish(q("org-acme"), NetworkMode.NAT, name="acme"),),
    vms=(Vm("db-1", ("10.240.3.11",), q("org-acme"), "tap-db1", "cell-1", {"tier": "db"}),),
    groups=(
        Group("databases", (Selector(SelectorKind.WORKLOAD, "vm:db-1"), Selector(SelectorKind.ORG, "?gone"))),
        Group("blue", criteria=Comparison(Attribute("label", "team"), "=", ("blue",))),
        Group("blue-or-old", (Selector(SelectorKind.GROUP, "blue"),), Comparison(Attribute("tag", "age"), "exists")),
    ),
    rules=(INTENT_RULE,),
)
PORTS = {
    "cf:handle-1": PortReport("handle-1", (), "org-acme", "space-dev", "app-front", "app", instance_index=0),
    "cf:handle-2": PortReport(
        *("handle-2", (), "org-acme", "space-dev", "app-back", "app"),
        instance_index=0,
        mapped_ports=(MappedPort(61001, 8080),),
    ),
    "cf:handle-3": PortReport(
        *("handle-3", (), "org-new", "space-new", "app-new", "app"),
        org_name="newcomer",
        space_name="prod",
        app_name="first",
        instance_index=2,
    ),
}
LEASES = {
    "cf:handle-1": (Lease("10.240.1.4", "cf:handle-1", q("org-acme"), "cell-1"),),
    "cf:handle-2": (Lease("10.240.1.5", "cf:handle-2", q("org-acme"), "cell-1"),),
    "cf:handle-3": (Lease("10.240.2.4", "cf:handle-3", q("org-new"), "cell-1"),),
}
SNAPSHOT = Snapshot(
    revision=41,
    inventory={"cf": STATE},
    intent=INTENT,
    held=Held(
        version=7,
        org_networks=(OrgNetwork(q("org-acme"), "10.240.1.0/24", "overlay"),),
        leases=LEASES,
        snat_addresses={q("org-acme"): (SnatAddress(q("org-acme"), "203.0.113.7", "snat"),)},
        rule_ids={
            INTENT_RULE.key: 42,
            translate.policy_key(POLICY): 50,
            translate.asg_key(ASG.id, ASG.rules[0]): 60,
            "baseline:any-to-any": 1,
        },
        pool_use={"overlay": 0.25},
    ),
    cells={
        "cell-1": CellState(
            "cell-1", "cf", True, "boot", ("10.0.0.5",), heard_at=1_800_000_001.0, reached=41, ports=PORTS
        ),
        "cell-9": CellState("cell-9", "cf"),
    },
    pools=(
        Pool("overlay", PoolKind.CONTAINER, ("10.240.0.0/14",)),
        Pool("snat", PoolKind.SNAT, ("203.0.113.0/26",), reserved=(("acme", ("203.0.113.7",)),)),
    ),
)
LABELS = {
    42: RuleLabel(INTENT_RULE.key, "web to database", Tier.APPLICATION),
    50: RuleLabel(translate.policy_key(POLICY), "", Tier.APPLICATION),
    60: RuleLabel(translate.asg_key(ASG.id, ASG.rules[0]), "", Tier.APPLICATION),
    1: RuleLabel("baseline:any-to-any", "", Tier.BASELINE),
}


@dataclass
class FakeStore:
    """Of a store, what keeps revisions."""

    kept: list[Revised] = field(default_factory=list)
    audit: list[Audited] = field(default_factory=list)
    away: str = ""
    late: bool = False
    """What is written comes in, but nobody hears of it in time."""

    async def append(self, entries: Sequence[Audited]) -> None:
        if self.away:
            raise Unavailable(self.away)
        self.audit += (replace(each, id=len(self.audit) + at) for at, each in enumerate(entries, 1))

    async def audited(self, before: int | None, limit: int) -> tuple[Audited, ...]:
        if self.away:
            raise Unavailable(self.away)
        return tuple(each for each in reversed(self.audit) if before is None or each.id < before)[:limit]

    async def draft(self, name: str, content: Drafted | None) -> None:
        if self.away:
            raise Unavailable(self.away)

    async def revise(self, revision: Revised) -> None:
        if self.away and not self.late:
            raise Unavailable(self.away)
        if revision.number != len(self.kept) + 1:
            raise RefusedError(Refused("REVISION_OUTDATED", f"The newest revision is {len(self.kept)} by now."))
        self.kept.append(revision)
        if self.away:
            raise Unavailable(self.away)

    async def revision(self, number: int | None = None) -> Revised | None:
        if self.away:
            raise Unavailable(self.away)
        found = [each for each in self.kept if number in (None, each.number)]
        return found[-1] if found else None

    async def revisions(self) -> tuple[Revised, ...]:
        return tuple(replace(each, content=b"") for each in reversed(self.kept))


@dataclass
class FakeFacade:
    """What the bridge is to the API, without a bridge."""

    started_at: float = 1_800_000_000.0
    snapshot: Snapshot = SNAPSHOT
    ruleset: Ruleset = field(default_factory=lambda: Ruleset(labels=LABELS))
    world: World = field(
        default_factory=lambda: World(
            rules=(*translate.system_rules(dns_listeners=("169.254.0.53",)), INTENT_RULE, *translate.baseline_rules()),
            policies=STATE.policies,
            container_pools=("10.240.0.0/14",),
        )
    )
    alarms: tuple[Alarm, ...] = ()
    removed: list[str] = field(default_factory=list)
    store_away: str = ""
    decided: list[tuple[str, str, bool]] = field(default_factory=list)
    store: FakeStore = field(default_factory=FakeStore)

    def __post_init__(self) -> None:
        self.revisions = Revisions(self.store)  # type: ignore[arg-type]
        self.audit = Audit(self.store)  # type: ignore[arg-type]
        self.drafts = Drafts(self.store, self.revisions)  # type: ignore[arg-type]

    @property
    def drafted(self) -> Mapping[str, Draft]:
        return self.drafts.drafts

    @property
    def history(self) -> tuple[Revised, ...]:
        return self.revisions.history

    async def remove_cell(self, name: str) -> Refused | None:
        if self.store_away:
            raise Unavailable(self.store_away)
        if (cell := self.snapshot.cells.get(name)) is None:
            return Refused("CELL_UNKNOWN", f"No cell is called {name}.")
        if cell.connected:
            return Refused("CELL_CONNECTED", f"The agent of {name} is connected; stop it first.")
        self.removed.append(name)
        return None

    def decide_held(self, foundation: str, kind: str, apply: bool) -> HeldBack | Refused:
        state = self.snapshot.inventory.get(foundation)
        for held in state.held if state else ():
            if held.kind == kind:
                self.decided.append((foundation, kind, apply))
                return held
        return Refused("NOTHING_HELD", f"Nothing of {foundation} is held of this kind: {kind}.")
