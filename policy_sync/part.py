"""What does one part of a ruleset hold while it is made, and which ids did it use?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from egress.values import Refused
from policy_sync.ruleset import IDENTITY_BIT, AddressSet, CompiledRule, PolicyMatch, RuleLabel


@dataclass(slots=True)
class Part:
    """One part of a ruleset, with the ids that it used."""

    labels: dict[int, RuleLabel] = field(default_factory=dict)
    sets: dict[str, AddressSet] = field(default_factory=dict)
    tiers: dict[int, list[CompiledRule]] = field(default_factory=dict)
    identities: dict[str, int] = field(default_factory=dict)
    policies: dict[PolicyMatch, int] = field(default_factory=dict)
    profiles: dict[str, tuple[CompiledRule, ...]] = field(default_factory=dict)
    egress: dict[str, str] = field(default_factory=dict)
    quarantined: list[Refused] = field(default_factory=list)
    used: dict[str, int | None] = field(default_factory=dict)

    def id_of(self, key: str, ids: Mapping[str, int]) -> int | None:
        number = self.used[key] = ids.get(key)
        if number is not None and 0 < number < IDENTITY_BIT:
            return number
        self.refuse("RULE_WITHOUT_ID", f"{short(key)} has no id from the store; it is not in force until it has one")
        return None

    def refuse(self, code: str, message: str) -> None:
        self.quarantined.append(Refused(code, message))


def short(written: str) -> str:
    return repr(written[:80] + "…" if len(written) > 80 else written)
