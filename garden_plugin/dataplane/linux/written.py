"""Are the chains as we wrote them? Remembered beside the table, so that a new agent knows a foreign rule as well.

A chain's seal says what it was made from, not that its rules are still those: a rule that was replaced by another has
the right number and the right comment above it. So the kernel's own answer after we wrote is kept, and compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from garden_plugin.cell.nft_answers import ChainSeen, RuleSeen
from garden_plugin.cell.spool import write_whole

Chains = dict[str, ChainSeen]


class _Memory(msgspec.Struct, frozen=True):
    boot: str
    chains: Chains


class Written:
    """`path`: None keeps it in this process alone. `boot`: what was written in another boot is gone with it."""

    def __init__(self, path: Path | None, boot: str) -> None:
        self._path = path
        self._boot = boot
        self.chains: Chains = _read(path, boot) if path is not None else {}

    def begin(self) -> None:
        """Something will be written. Whoever finds no memory trusts the seals: a death between the two writes must not
        make strangers of our own rules."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def keep(self, chains: Mapping[str, ChainSeen], gone: Collection[str] = ()) -> None:
        """How the kernel shows them; `gone`: chains of which nothing is known any more."""
        self.chains = {name: seen for name, seen in {**self.chains, **chains}.items() if name not in gone}
        if self._path is not None:
            write_whole(self._path, msgspec.msgpack.encode(_Memory(self._boot, self.chains)))

    def intact(self, name: str, seen: ChainSeen) -> bool:
        """Also for one that we know nothing of: its seal must do."""
        return self.chains.get(name, seen) == seen

    def differences(self, found: Mapping[str, ChainSeen]) -> Iterator[str]:
        """What somebody did to the chains, in words."""
        for name, was in self.chains.items():
            now = found.get(name)
            if now is None:
                yield f"chain {name} was deleted"
            elif now != was:
                yield from _rules(name, was.rules, now.rules)
                if now.base != was.base:
                    yield f"chain {name} was {_hung(now)}"
        if self.chains:
            yield from (f"chain {name} was added" for name in sorted(found.keys() - self.chains.keys()))


def _hung(chain: ChainSeen) -> str:
    if chain.base is None:
        return "taken from its hook"
    return f"given the policy {'drop' if chain.base.drops else 'accept'} at priority {chain.base.priority}"


def _rules(name: str, was: Iterable[RuleSeen], now: Iterable[RuleSeen]) -> Iterator[str]:
    before, after = Counter(was), Counter(now)
    for deed, rules in (("added to", after - before), ("taken from", before - after)):
        if number := rules.total():
            said = sorted({rule.comment for rule in rules if rule.comment})
            which = f" ({', '.join(said[:3])})" if said else ""
            yield f"{number} {'rule was' if number == 1 else 'rules were'} {deed} chain {name}{which}"
    if before == after and tuple(was) != tuple(now):
        yield f"rules of chain {name} were put in another order"


def _read(path: Path, boot: str) -> Chains:
    try:
        memory = msgspec.msgpack.decode(path.read_bytes(), type=_Memory)
    except (OSError, msgspec.DecodeError):
        return {}
    return memory.chains if memory.boot == boot else {}
