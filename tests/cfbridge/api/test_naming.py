"""Are things called as people call them, and ranges written so that they can be read back?"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from cfbridge.api import naming
from cfbridge.api.naming import Naming
from egress.values import PackedRange, parse_range
from policy_sync.model import Selector, SelectorKind
from tests.cfbridge.api.world import INTENT_RULE, PORTS, SNAPSHOT, STATE, q


def spans(size: int) -> st.SearchStrategy[PackedRange]:
    ends = st.binary(min_size=size, max_size=size)
    return st.tuples(ends, ends).map(lambda pair: (min(pair), max(pair)))


@given(spans(4) | spans(16))
def test_a_range_reads_back_as_it_was(span: PackedRange) -> None:
    assert parse_range(naming.range_text(span)) == span


@given(st.ip_addresses().flatmap(lambda a: st.tuples(st.just(a), st.integers(0, a.max_prefixlen))))
def test_a_prefix_is_written_as_a_prefix(asked: tuple[object, int]) -> None:
    import ipaddress

    network = ipaddress.ip_network(f"{asked[0]}/{asked[1]}", strict=False)
    written = naming.range_text((network.network_address.packed, network.broadcast_address.packed))
    assert written == (str(network) if network.num_addresses > 1 else str(network.network_address))


def test_a_rename_is_followed() -> None:
    app = replace(STATE.apps[q("app-front")], name="web")
    renamed = replace(SNAPSHOT, inventory={"cf": replace(STATE, apps={**STATE.apps, app.id: app})})
    assert Naming(renamed).workload("cf:handle-1") == "acme/dev/web/0"


def test_the_names_of_a_container_stand_in_until_the_foundation_was_read() -> None:
    port = PORTS["cf:handle-3"]
    assert Naming(SNAPSHOT).workload("cf:handle-3") == "newcomer/prod/first/2"
    assert Naming(SNAPSHOT).app(q(port.app)) == ("newcomer", "prod", "first")


def test_what_nobody_named_is_called_unknown_and_never_by_its_guid() -> None:
    cell = replace(SNAPSHOT.cells["cell-1"], ports={})
    named = Naming(replace(SNAPSHOT, inventory={}, cells={"cell-1": cell}))
    said = [named.org(q("org-acme")), *named.app(q("app-front")), named.space_path(q("space-dev"))]
    assert said == ["(unknown org)", "(unknown org)", "(unknown space)", "(unknown app)", "(unknown space)"]
    assert named.workload("cf:handle-1") == "(gone)"


def test_a_sentence_says_everything_that_narrows_a_rule() -> None:
    narrowed = replace(
        INTENT_RULE,
        sources=(Selector(SelectorKind.GROUP, "databases", negated=True),),
        destinations=(Selector(SelectorKind.KIND, "container"),),
        applied_to=(Selector(SelectorKind.ORG, q("org-acme")), Selector(SelectorKind.SPACE, q("space-dev"))),
        mapped_only=True,
    )
    assert Naming(SNAPSHOT).sentence(narrowed) == (
        "allow tcp/5432 from not group:databases to every container, by a mapped port, on org:acme, space:acme/dev only"
    )
