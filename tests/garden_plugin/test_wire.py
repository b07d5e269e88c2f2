"""Does the network that an agent holds stay the one that the bridge means, change by change, over real bytes?"""

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.topology import Port, PortKind, Topology
from garden_plugin import wire
from garden_plugin.dataplane.base import LogicalNetwork
from policy_sync.ruleset import IDENTITY_BIT, PolicyMatch, Ruleset

matches = st.builds(
    PolicyMatch,
    st.integers(IDENTITY_BIT, IDENTITY_BIT + 3),
    st.integers(IDENTITY_BIT, IDENTITY_BIT + 3),
    st.sampled_from((6, 17)),
    st.just(80),
    st.integers(80, 82),
)
networks = st.builds(
    LogicalNetwork,
    st.just(0),
    st.builds(
        Topology,
        ports=st.dictionaries(
            st.sampled_from("abc"), st.just(Port("x", PortKind.CONTAINER, "cell-1", ("10.240.0.3",)))
        ),
        pools=st.sampled_from(((), ("10.240.0.0/14",))),
    ),
    st.builds(
        Ruleset,
        policies=st.dictionaries(matches, st.integers(1, 9)),
        identities=st.dictionaries(st.sampled_from(("10.240.0.3", "fd00::3")), st.just(IDENTITY_BIT)),
    ),
)


def across(span: wire.Span) -> wire.Span:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(span), type=wire.FromBridge)


@given(st.lists(networks, min_size=1, max_size=6))
def test_spans_put_together_are_the_network_that_was_meant(meant: list[LogicalNetwork]):
    sent: LogicalNetwork | None = None
    held: LogicalNetwork | None = None
    for revision, network in enumerate(meant, 1):
        network = replace(network, revision=revision)
        held = wire.merge(held, across(wire.span(sent, network)))
        sent = network
        assert held == network
        assert all(isinstance(match, PolicyMatch) for match in held.ruleset.policies)


def test_a_mapping_without_news_stays_the_same_object():
    before = LogicalNetwork(1, ruleset=Ruleset(identities={"10.240.0.3": IDENTITY_BIT}))
    after = replace(before, revision=2, topology=Topology(pools=("10.240.0.0/14",)))
    assert wire.merge(before, across(wire.span(before, after))).ruleset.identities is before.ruleset.identities


def test_what_left_is_told_with_the_type_it_had():
    match = PolicyMatch(IDENTITY_BIT, IDENTITY_BIT, 6, 80, 80)
    before = LogicalNetwork(1, ruleset=Ruleset(policies={match: 1}))
    held = wire.merge(before, across(wire.span(before, LogicalNetwork(2))))
    assert getattr(held.ruleset.policies, "touched", None) == (match,)
    assert all(isinstance(each, PolicyMatch) for each in held.ruleset.policies.touched)  # type: ignore[attr-defined]


def test_a_change_against_a_revision_that_is_not_held_is_refused():
    change = wire.span(LogicalNetwork(4), LogicalNetwork(5))
    with pytest.raises(ValueError, match="change against 4, held is 3"):
        wire.merge(LogicalNetwork(3), change)
