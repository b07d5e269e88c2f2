"""Which rules should somebody look at? What `policy_sync.review` found, by name and in words."""

from __future__ import annotations

import time
from collections.abc import Sequence

from cfbridge.api.naming import Naming
from cfbridge.api.resources import ReviewRow
from cfbridge.api.views import Facade
from policy_sync.model import Action, Rule
from policy_sync.review import Finding, review


def findings(facade: Facade) -> Sequence[ReviewRow]:
    """Of people's rules, in the order of evaluation."""
    rules = {rule.key: rule for rule in facade.world.rules}
    mine = [rule for rule in facade.world.rules if rule.key.startswith("rule:")]
    numbers, named = facade.snapshot.held.rule_ids, Naming(facade.snapshot)
    rows = []
    for found in review(mine, facade.ruleset, time.time()):
        rule = rules[found.rule]
        number = f"R{numbers[rule.key]}" if rule.key in numbers else rule.key
        rows.append(
            ReviewRow(
                id=f"{found.kind}:{rule.name}",
                finding=found.kind,
                rule=number,
                name=rule.name,
                tier=rule.tier.name.lower(),
                section=rule.section,
                sentence=_words(found, rule, rules.get(found.other), named),
            )
        )
    return rows


def _words(found: Finding, rule: Rule, other: Rule | None, named: Naming) -> str:
    before = f"{other.name or other.key!r}: {named.sentence(other)}" if other else ""
    match found.kind:
        case "shadowed" if other and other.action is Action.PASS:
            return f"never reached: an earlier rule passes all of it on ({before})"
        case "shadowed":
            return f"never reached: an earlier rule decides all of it otherwise ({before})"
        case "redundant":
            return f"not needed: an earlier rule decides all of it the same ({before})"
        case "wide":
            return "allows everything to everybody"
    return "expired" if _is_over(rule) else "nobody is at one of its ends at the moment"


def _is_over(rule: Rule) -> bool:
    return rule.expires_at is not None and rule.expires_at <= time.time()
