"""What does that which decides look like as rows? Policies, security groups, rules, groups, machines, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cfbridge.api import naming
from cfbridge.api.naming import Naming, moment
from cfbridge.api.resources import AsgRow, GroupRow, PolicyRow, RuleRow, VmRow
from cfbridge.api.views import Facade
from policy_sync import criteria_text, nesting, translate
from policy_sync.model import Rule, Tier


def policies(facade: Facade) -> Sequence[PolicyRow]:
    named = Naming(facade.snapshot)
    numbers = facade.snapshot.held.rule_ids
    rows = []
    for state in facade.snapshot.inventory.values():
        for policy in state.policies:
            source, destination = named.app(policy.source), named.app(policy.destination)
            key = translate.policy_key(policy)
            rows.append(
                PolicyRow(
                    id=key.removeprefix("policy:"),
                    foundation=state.name,
                    source="/".join(source),
                    source_org=source[0],
                    source_space=source[1],
                    source_app=source[2],
                    destination="/".join(destination),
                    destination_org=destination[0],
                    destination_space=destination[1],
                    destination_app=destination[2],
                    protocol=str(policy.protocol),
                    ports=naming.ports_text(((policy.first_port, policy.last_port),)),
                    rule=f"R{numbers[key]}" if key in numbers else "",
                    source_id=policy.source,
                    destination_id=policy.destination,
                )
            )
    return sorted(rows, key=lambda row: (row.source, row.destination, row.protocol, row.ports, row.id))


def asgs(facade: Facade) -> Sequence[AsgRow]:
    named = Naming(facade.snapshot)
    rows = [
        AsgRow(
            id=asg.id,
            name=asg.name,
            foundation=state.name,
            rules=tuple(naming.garden_rule_text(rule) for rule in asg.rules),
            running_default=asg.running_default,
            staging_default=asg.staging_default,
            running_spaces=tuple(sorted(named.space_path(space) for space in asg.running_spaces)),
            staging_spaces=tuple(sorted(named.space_path(space) for space in asg.staging_spaces)),
        )
        for state in facade.snapshot.inventory.values()
        for asg in state.asgs.values()
    ]
    return sorted(rows, key=lambda row: (row.name, row.id))


def rules(facade: Facade) -> Sequence[RuleRow]:
    """Everything that decides, in the order of evaluation: ordered rules, and within `application` after them what
    `cf` made. A rule without a number was not compiled yet."""
    snapshot, labels = facade.snapshot, facade.ruleset.labels
    numbers = snapshot.held.rule_ids
    named = Naming(snapshot)
    found: list[tuple[Tier, str, dict[str, Any]]] = []

    def add(key: str, tier: Tier, section: str, action: str, sentence: str, rule: Rule | None, name: str) -> None:
        number = numbers.get(key)
        label = labels.get(number) if number is not None else None
        said: dict[str, Any] = {
            "id": f"R{number}" if number is not None else key,
            "name": name,
            "tier": tier.name.lower(),
            "section": section,
            "action": action,
            "sentence": sentence,
            "mode": str(rule.mode) if rule else "enforce",
            "enabled": rule.enabled if rule else True,
            "in_force": label is not None,
            "log": rule.log if rule else label is not None and label.logged,
            "expires_at": moment(rule.expires_at) if rule else None,
            "reason": rule.reason if rule else "",
            "owner": rule.owner if rule else "",
            "provenance": (rule.provenance or "cfbridge") if rule else section,
            "key": key,
        }
        found.append((tier, "" if rule else f"{section} {sentence} {key}", said))

    for rule in facade.world.rules:
        add(rule.key, rule.tier, rule.section, str(rule.action), named.sentence(rule), rule, rule.name)
    for state in snapshot.inventory.values():
        for policy in state.policies:
            ends = [named.app_path(policy.source), named.app_path(policy.destination)]
            service = f"{policy.protocol}/{naming.ports_text(((policy.first_port, policy.last_port),))}"
            sentence = f"allow {service} from {ends[0]} to {ends[1]}"
            key = translate.policy_key(policy)
            add(key, Tier.APPLICATION, "cf network policies", "allow", sentence, None, " to ".join(ends))
        # What lingers is in force too: the same entry of the same group is the same rule.
        entries = {
            (asg.id, entry): asg.name for asg in (*state.lingering_asgs, *state.asgs.values()) for entry in asg.rules
        }
        for (asg_id, entry), name in entries.items():
            sentence = f"allow {naming.garden_rule_text(entry)}, outside the container pools"
            add(translate.asg_key(asg_id, entry), Tier.APPLICATION, "cf security groups", "allow", sentence, None, name)
    rows: list[RuleRow] = []
    positions: Counter[Tier] = Counter()
    for tier, _, said in sorted(found, key=lambda each: each[:2]):
        positions[tier] += 1
        rows.append(RuleRow(**said, position=positions[tier]))
    return rows


def vms(facade: Facade) -> Sequence[VmRow]:
    named = Naming(facade.snapshot)
    return [
        VmRow(
            id=f"vm:{vm.name}",
            name=vm.name,
            addresses=vm.addresses,
            org=named.org(vm.org) if ":" in vm.org else "",
            org_id=vm.org if ":" in vm.org else "",
            port=vm.port,
            cell=vm.cell,
            grade="outside" if vm.port else "peer",
            tags=tuple(f"{key}={value}" for key, value in sorted(vm.tags.items())),
        )
        for vm in sorted(facade.snapshot.intent.vms, key=lambda vm: vm.name)
    ]


def groups(facade: Facade) -> Sequence[GroupRow]:
    named, found = Naming(facade.snapshot), {group.name: group for group in facade.snapshot.intent.groups}
    trust = nesting.trust(found)
    return [
        GroupRow(
            id=name,
            name=name,
            members=tuple(named.selector(member) for member in group.members),
            criteria="" if group.criteria is None else criteria_text.said(group.criteria),
            trust=trust[name].name.lower().replace("_", " "),
        )
        for name, group in sorted(found.items())
    ]
