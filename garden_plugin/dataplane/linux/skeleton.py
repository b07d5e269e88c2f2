"""Which chains and sets of the linux firewall never change? The frame that rules and elements are hung into.

prerouting ─ guard: the port's own source? ─ mark for the workload routes ─ (pieces are put together) ─ dnat
forward ──> forwarded ─┐                  ┌─> policies4/6 (destination in a container pool) ─┐
input ────> received ──┼─> tiers: tier0 … ┤                                                  ├─> baseline: tier4
output ───> sent ──────┘   (`pass`: next) └─> asg4/6: the source's profile (forward only) ───┘
                                   any of them: admit, refuse_drop, refuse_reject

Marks: meta mark 0x7712_0000 opens the workload routes (decisions 4). Later it carries the rule id to the log, and in
`policies` the source's identity beside the destination's in ct mark. Identities have bit 30, rule ids are below: what
a lost race leaves behind can never be in `live`, and every way out of `policies` writes the ct mark anew.

The guard sees the pieces of a packet before they are put together: else one that says it is a neighbour's completes
what the neighbour began. An ICMP error is related to the flow that it quotes, whoever sends it; a workload's must be
about a flow of its own (`errors`).
"""

from __future__ import annotations

import hashlib

from garden_plugin.cell.nft_sets import TABLE, Shape

ROUTE_MARK = 0x77120000
NFLOG_GROUP = 5
TIERS = 5
_V4, _V6 = ("ipv4_addr",), ("ipv6_addr",)
_POLICY = ("mark", "mark", "inet_proto", "inet_service")

SETS: dict[str, Shape] = {
    "uplinks": Shape(("ifname",)),
    "vm_ports": Shape(("ifname",)),
    "port_src4": Shape(("ifname", "ipv4_addr", "ether_addr")),
    "port_src6": Shape(("ifname", "ipv6_addr", "ether_addr")),
    "vm_src4": Shape(("ifname", "ipv4_addr")),
    "vm_src6": Shape(("ifname", "ipv6_addr")),
    "workload4": Shape(_V4),
    "workload6": Shape(_V6),
    "pools4": Shape(_V4, interval=True),
    "pools6": Shape(_V6, interval=True),
    "identity4": Shape(_V4, ("mark",)),
    "identity6": Shape(_V6, ("mark",)),
    "allow": Shape(_POLICY, ("mark",)),
    "allow_range": Shape(_POLICY, ("mark",), interval=True),
    "live": Shape(("mark",), counter=True),
    "refused": Shape(("mark",), counter=True),
    "logged": Shape(("mark",)),
    "netin4": Shape(("ipv4_addr", "inet_service"), ("ipv4_addr", "inet_service")),
    "netin6": Shape(("ipv6_addr", "inet_service"), ("ipv6_addr", "inet_service")),
    "netin_ok4": Shape(("ipv4_addr", "inet_service")),
    "netin_ok6": Shape(("ipv6_addr", "inet_service")),
    "hairpin4": Shape(("ipv4_addr", "ipv4_addr")),
    "hairpin6": Shape(("ipv6_addr", "ipv6_addr")),
    "snat4": Shape(_V4, _V4, interval=True),
    "snat6": Shape(_V6, _V6, interval=True),
    "snat_address4": Shape(_V4),
    "snat_address6": Shape(_V6),
    "blocked4": Shape(_V4, interval=True),
    "blocked6": Shape(_V6, interval=True),
    "asg4": Shape(_V4, ("verdict",)),
    "asg6": Shape(_V6, ("verdict",)),
}
"""What every table has. `live`: ids of allowing rules in force. `refused`: ids that refuse or watch, to count them."""

_LOG = f'limit rate 200/second burst 400 packets log prefix "cfb %s " group {NFLOG_GROUP}'
_POLICIES = """
meta mark set 0
meta mark set {ip} saddr map @identity{n}
ct mark set {ip} daddr map @identity{n}
ct mark set meta mark . ct mark . meta l4proto . th dport map @allow goto admit
ct mark set meta mark . ct mark . meta l4proto . th dport map @allow_range goto admit
ct mark set 0
goto baseline
"""
_DNAT = """
dnat ip to ip daddr . tcp dport map @netin4
dnat ip6 to ip6 daddr . tcp dport map @netin6
"""
_UNFOLLOWED = "ct state != new jump unfollowed"

CHAINS: dict[str, str] = {
    **{f"tier{tier}": "" for tier in range(TIERS)},
    "admit": f"""
oifname @uplinks jump way_out
ct mark @logged meta mark set ct mark log prefix "cfb allow " group {NFLOG_GROUP}
accept
""",
    "way_out": """
ip saddr @blocked4 goto no_way_out
ip6 saddr @blocked6 goto no_way_out
""",
    "no_way_out": """
ct mark set 0
counter reject with icmpx no-route comment "allowed, but there is no way out for this source"
""",
    "unfollowed": """
ct state invalid,untracked counter drop comment "no connection"
ct direction reply counter drop comment "reply of a dead flow"
ct state related counter drop comment "error about a dead flow"
""",
    "hairpin": """
ip saddr . ip daddr @hairpin4 masquerade fully-random
ip6 saddr . ip6 daddr @hairpin6 masquerade fully-random
""",
    "source_nat": """
ip saddr @blocked4 counter drop comment "no way out for this source"
ip6 saddr @blocked6 counter drop comment "no way out for this source"
snat ip to ip saddr map @snat4 fully-random
snat ip6 to ip6 saddr map @snat6 fully-random
""",
    "watched": f"""
meta mark @refused
{_LOG % "watch"}
""",
    "refuse_drop": f"""
ct mark set 0
meta mark @refused
{_LOG % "drop"}
counter drop
""",
    "refuse_reject": f"""
ct mark set 0
meta mark @refused
{_LOG % "reject"}
meta l4proto tcp counter reject with tcp reset
counter reject with icmpx port-unreachable
""",
    "baseline": """
jump tier4
meta mark set 0
goto refuse_reject
""",
    "policies4": _POLICIES.format(ip="ip", n=4),
    "policies6": _POLICIES.format(ip="ip6", n=6),
    "tiers": "".join(f"\njump tier{tier}" for tier in range(TIERS - 1)),
    "forwarded": f"""
{_UNFOLLOWED}
jump tiers
ip daddr @pools4 goto policies4
ip6 daddr @pools6 goto policies6
ip saddr vmap @asg4
ip6 saddr vmap @asg6
goto baseline
""",
    "arriving": """
iifname @uplinks fib saddr type local counter drop comment "the cell is not outside"
goto forwarded
""",
    "errors": """
iifname "cf-*" goto errors_of_containers
iifname @vm_ports goto errors_of_vms
accept
""",
    "errors_of_containers": """
iifname . ct original ip saddr . ether saddr @port_src4 accept
iifname . ct reply ip saddr . ether saddr @port_src4 accept
iifname . ct original ip6 saddr . ether saddr @port_src6 accept
iifname . ct reply ip6 saddr . ether saddr @port_src6 accept
counter drop comment "error about a flow of others"
""",
    "errors_of_vms": """
iifname . ct original ip saddr @vm_src4 accept
iifname . ct reply ip saddr @vm_src4 accept
iifname . ct original ip6 saddr @vm_src6 accept
iifname . ct reply ip6 saddr @vm_src6 accept
counter drop comment "error about a flow of others"
""",
    "received": f"""
ct state established ct mark @live accept
ct state related ct mark @live goto errors
iifname @vm_ports icmpv6 type {{ 135, 136 }} ip6 hoplimit 255 accept
icmpv6 type {{ 130, 131, 132, 133, 134, 135, 136, 143 }} drop
{_UNFOLLOWED}
jump tiers
goto baseline
""",
    "snat_address": """
ct state established,related accept
icmpv6 type { 135, 136 } accept
meta l4proto tcp counter reject with tcp reset
counter reject with icmpx port-unreachable
""",
    "sent": f"""
ct state established,related ct mark @live accept
ct state related accept comment "resets and errors of our own carry the entry of what they answer"
icmpv6 type {{ 135, 136 }} accept
{_UNFOLLOWED}
jump tiers
ip daddr @pools4 goto policies4
ip6 daddr @pools6 goto policies6
goto baseline
""",
    "port": f"""
iifname . ip saddr . ether saddr @port_src4 meta mark set {ROUTE_MARK:#x} accept
iifname . ip6 saddr . ether saddr @port_src6 meta mark set {ROUTE_MARK:#x} accept
goto foreign
""",
    "vm_port": f"""
iifname . ip saddr @vm_src4 meta mark set {ROUTE_MARK:#x} accept
iifname . ip6 saddr @vm_src6 meta mark set {ROUTE_MARK:#x} accept
ip6 saddr fe80::/10 icmpv6 type {{ 135, 136 }} accept
goto foreign
""",
    "foreign": """
ip6 saddr { ::, fe80::/10 } drop
counter drop comment "not the port's own source"
""",
    "guard": f"""
type filter hook prerouting priority -450; policy accept;
iifname "cf-*" goto port
iifname @vm_ports goto vm_port
iifname != "lo" ip saddr @workload4 counter drop comment "a workload is behind its own port"
iifname != "lo" ip6 saddr @workload6 counter drop comment "a workload is behind its own port"
meta mark set {ROUTE_MARK:#x}
""",
    "nat_prerouting": f"type nat hook prerouting priority dstnat; policy accept;\n{_DNAT}",
    "nat_output": f"type nat hook output priority -100; policy accept;\n{_DNAT}",
    "nat_postrouting": """
type nat hook postrouting priority srcnat; policy accept;
ct status dnat jump hairpin
oifname @uplinks jump source_nat
""",
    "forward": """
type filter hook forward priority filter; policy accept;
ct state established ct mark @live accept
ct state related ct mark @live goto errors
iifname "cf-*" goto forwarded
iifname @vm_ports goto forwarded
oifname "cf-*" goto arriving
oifname @vm_ports goto arriving
""",
    "input": """
type filter hook input priority filter; policy accept;
iifname "cf-*" goto received
iifname @vm_ports goto received
iifname != "lo" ip daddr @snat_address4 goto snat_address
iifname != "lo" ip6 daddr @snat_address6 goto snat_address
""",
    "output": """
type filter hook output priority filter; policy accept;
ip daddr @workload4 goto sent
ip6 daddr @workload6 goto sent
""",
}
"""Name → rules. `output` goes by address: to that hook a mapped port that the cell itself uses leaves by `lo`.
`fully-random`: two connections that begin at once must not choose the same port, or the first packet of one is lost.
`snat_address`: the cell holds what its orgs leave by, but none of its services is to be reached there."""


def rule_count(chain: str) -> int:
    """How many rules the kernel shows for a chain of the frame."""
    return sum(1 for line in CHAINS[chain].splitlines() if line.strip() and not line.startswith("type "))


def _body() -> str:
    declared = [shape.declaration(name) for name, shape in SETS.items()]
    chains = [
        f"chain {name} {{\n" + "".join(f"\t{line}\n" for line in rules.splitlines() if line.strip()) + "}"
        for name, rules in CHAINS.items()
    ]
    return "\n".join([*declared, *chains])


SCHEMA = "cfbridge schema=" + hashlib.sha256(_body().encode()).hexdigest()[:16]
"""The table's comment. A table with another was made by another version, and is replaced as a whole."""


def script() -> str:
    """nft commands that put the empty frame in the place of whatever table of ours is there."""
    return f'add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\ncomment "{SCHEMA}"\n{_body()}\n}}\n'


def dynamic(chain: str) -> bool:
    """Part of the frame, but filled by the rules."""
    return chain in {f"tier{tier}" for tier in range(TIERS)}
