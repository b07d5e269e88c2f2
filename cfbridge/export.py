"""Which policy file says an intent? The same text for the same intent, and `policyfile.read` makes the same of it.

Groups, machines, tenants and tags in the order of their names; rules as they are, since their order means something.
What is as it would be without being said is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import yaml

from cfbridge.intent import Intent, Intents, Tagged, Vm
from cfbridge.rulebook import GUID
from egress.model import OrgWish
from policy_sync import criteria_text
from policy_sync.model import ANY, Group, Mode, Protocol, Rule, Selector, SelectorKind, Service, Tier

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_ENDLESS = 1 << 20
"""Characters of a line: an expression that is folded is hard to read and to compare."""


def text(intents: Intents) -> str:
    """Every scope, each as a document of its own."""
    scopes = sorted(intents)
    if scopes and scopes[0]:
        scopes = ["", *scopes]  # else it would be about these scopes only, and not the whole
    return "---\n".join(document(scope, intents.get(scope, Intent())) for scope in scopes or [""])


def document(scope: str, intent: Intent) -> str:
    """Of one scope."""
    written: str = yaml.dump(
        tree(scope, intent),
        Dumper=_DUMPER,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=_ENDLESS,
    )
    return written


def tree(scope: str, intent: Intent) -> dict[str, Any]:
    """The same as mappings, lists and values."""
    said: dict[str, Any] = {"cfbridge": "v1", **({"scope": scope} if scope else {})}
    sections: Mapping[str, Any] = {
        "groups": {group.name: group_said(group) for group in _named(intent.groups)},
        "rules": _rules(intent.rules),
        "tenants": {wish.name: tenant_said(wish) for wish in _named(intent.tenants)},
        "vms": {vm.name: vm_said(vm) for vm in _named(intent.vms)},
        "tags": dict(sorted(map(tags_said, intent.tags), key=lambda named: named[0])),
    }
    return said | {section: content for section, content in sections.items() if content}


def _named(things: Iterable[Any]) -> list[Any]:
    return sorted(things, key=lambda each: each.name)


def _rules(rules: Iterable[Rule]) -> dict[str, dict[str, list[Any]]]:
    said: dict[str, dict[str, list[Any]]] = {}
    for rule in rules:
        said.setdefault(tier_said(rule.tier), {}).setdefault(rule.section, []).append(rule_said(rule))
    return said


# One thing each ------------------------------------------------------------------------------------------------------


def group_said(group: Group) -> Any:
    """An expression, a list of members, or both."""
    members = [_selector(each, bare_groups=False) for each in group.members]
    if group.criteria is None:
        return members
    criteria = criteria_text.said(group.criteria)
    return {"members": members, "criteria": criteria} if members else criteria


def rule_said(rule: Rule) -> dict[str, Any]:
    said: dict[str, Any] = {"name": rule.name}
    if rule.sources != ANY:
        said["from"] = _ends(rule.sources)
    if rule.destinations != ANY:
        said["to"] = _ends(rule.destinations)
    if rule.services != (Service(),):
        said["services"] = [service_said(service) for service in rule.services]
    said["action"] = str(rule.action)
    if rule.applied_to:
        said["applied_to"] = _ends(rule.applied_to)
    if rule.mode is not Mode.ENFORCE:
        said["mode"] = str(rule.mode)
    if rule.log:
        said["log"] = True
    said |= {name: value for name in ("reason", "owner") if (value := getattr(rule, name))}
    if rule.expires_at is not None:
        said["expires"] = _moment(rule.expires_at)
    if not rule.enabled:
        said["enabled"] = False
    return said


def tenant_said(wish: OrgWish) -> dict[str, Any]:
    said: dict[str, Any] = {} if wish.mode is None else {"mode": str(wish.mode)}
    said |= {name: value for name in ("pool", "snat_pool") if (value := getattr(wish, name))}
    return said | ({"snat": list(wish.snat)} if wish.snat else {})


def vm_said(vm: Vm) -> dict[str, Any]:
    said: dict[str, Any] = {name: value for name in ("org", "port", "cell") if (value := getattr(vm, name))}
    said["addresses"] = list(vm.addresses)
    return said | ({"tags": dict(sorted(vm.tags.items()))} if vm.tags else {})


def tags_said(tagged: Tagged) -> tuple[str, dict[str, str]]:
    """Of whom, and which."""
    return _selector(tagged.subject, bare_groups=False), dict(sorted(tagged.tags.items()))


def tier_said(tier: Tier) -> str:
    return tier.name.lower()


# Parts ---------------------------------------------------------------------------------------------------------------


def _ends(selectors: tuple[Selector, ...]) -> str | list[str]:
    said = [_selector(each, bare_groups=True) for each in selectors]
    return said[0] if len(said) == 1 else said


def _selector(selector: Selector, *, bare_groups: bool) -> str:
    match selector.kind:
        case SelectorKind.GROUP:
            name = selector.value if bare_groups else f"group:{selector.value}"
            return f"not {name}" if selector.negated else name
        case SelectorKind.ORG | SelectorKind.SPACE | SelectorKind.KIND:
            return f"{selector.kind}:{selector.value}"
        case SelectorKind.APP if GUID.fullmatch(selector.value):
            return f"app:{selector.value}"
        case SelectorKind.ANY:
            return "any"
    return selector.value  # an app's path, `vm:NAME`, an address, a prefix or a range


def service_said(service: Service) -> str:
    name = str(service.protocol)
    if service.protocol in (Protocol.TCP, Protocol.UDP):
        ports = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in service.ports)
        return f"{name}/{ports}" if ports else name
    numbers = [each for each in (service.icmp_type, service.icmp_code) if each is not None]
    return "/".join([name, *map(str, numbers)])


def _moment(at: float) -> str | date:
    """A day where it is the end of one, since that is how people say it."""
    moment = datetime.fromtimestamp(at, UTC)
    if (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0):
        return (moment - timedelta(days=1)).date()
    return moment.isoformat().replace("+00:00", "Z")
