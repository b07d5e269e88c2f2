"""How does the firewall get into the kernel, and what of it is there?

replace (table missing, or of another version): frame, sets, elements in one `nft` transaction, closed; then the rules
fill     1. static sets: additions, and removals but from `live` (netlink); new sets of rules    2. sets and chains of
         rules (one `nft` transaction where a chain changes; else netlink)    3. jumps to profiles, what is not needed
retire   after live connections were re-stamped: dead ids leave `live`
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from egress.values import Unavailable
from garden_plugin.cell import nft
from garden_plugin.cell.nft import Nft, Operation, Rejected
from garden_plugin.cell.nft_answers import ChainSeen, RuleSeen
from garden_plugin.cell.nft_sets import TABLE, Elements, Shape, add_text, delete_text
from garden_plugin.dataplane import owner
from garden_plugin.dataplane.base import Change, Item, Key
from garden_plugin.dataplane.grown import touched
from garden_plugin.dataplane.linux import arp, skeleton
from garden_plugin.dataplane.linux.arp import ArpItem, Neighbours
from garden_plugin.dataplane.linux.items import ChainItem, Line, SetItem
from garden_plugin.dataplane.linux.skeleton import SETS
from garden_plugin.dataplane.linux.written import Written
from policy_sync.model import Action

T = TypeVar("T")
Inside = Callable[[Callable[[], T]], T]

_FIRST = "tier0"
_CLOSED = f'add rule {TABLE} {_FIRST} drop comment "being made"'
_FOREIGN = Line(Action.PASS, -1)
"""A chain that holds this is not what we wrote: nobody wants it as it is."""


def shape_of(name: str) -> Shape | None:
    """A set's shape by its name; None for a name that we never gave."""
    if name in SETS:
        return SETS[name]
    if name[-3:] in ("_h4", "_h6", "_i4", "_i6"):
        return Shape(("ipv4_addr" if name[-1] == "4" else "ipv6_addr",), interval=name[-2] == "i")
    return None


_SHUT = ChainItem(_FIRST, (_FOREIGN,))


class _Absent:
    pass


_ABSENT = _Absent()


class Table:
    """Our table in one network namespace. Synchronous; used by one thread."""

    def __init__(
        self, inside: Callable[[Callable[[], object]], object], memory: Path | None = None, boot: str = ""
    ) -> None:
        """`memory`: where it is kept how the kernel showed our chains, for the rest of this boot."""
        self._inside = inside
        opened = inside(Nft)
        assert isinstance(opened, Nft)
        self.nft = opened
        self.own_ports = {opened.port}
        """Netlink ports by which notifications know us: our socket, and every `nft` that we started."""
        self._neighbours = Neighbours(opened)
        self._written = Written(memory, f"{boot} {skeleton.SCHEMA}")
        self.harm: tuple[str, ...] = ()
        """What somebody did to table and chains, as `observe` found it last."""

    @property
    def remembers(self) -> bool:
        """Whether a table was written in this boot, by us or by whoever was here before."""
        return bool(self._written.chains)

    def close(self) -> None:
        self.nft.close()

    def _run(self, script: str) -> None:
        pid = self._inside(lambda: nft.run(script))
        assert isinstance(pid, int)
        if len(self.own_ports) > 1000:
            self.own_ports = {self.nft.port}
        self.own_ports.add(pid)

    # --- what is there ------------------------------------------------------------------------------------------------

    def observe(self, expected: Mapping[Key, Item]) -> dict[Key, Item] | None:
        """None: there is no table of this version, or its frame was touched. Chains that carry the seal of the expected
        one, and look as they did when we wrote them, are that one."""
        for _ in range(20):
            try:
                return self._observe(expected)
            except Rejected as refused:
                if refused.number not in (errno.EINTR, errno.ENOENT):
                    raise
        raise Unavailable("the ruleset changes faster than it can be read")

    def _observe(self, expected: Mapping[Key, Item]) -> dict[Key, Item] | None:
        table = self.nft.table()
        if table is None or table.comment != skeleton.SCHEMA:
            gone = "was deleted" if table is None else "was replaced by another"
            self.harm = (f"table {TABLE} {gone}",) if self._written.chains else ()
            return None
        names, chains, strangers = self.nft.set_names(), self.nft.chains(), self.nft.strangers()
        harm = [f"set {name} was deleted" for name in sorted(SETS.keys() - names)]
        harm += (f"{name} was added to table {TABLE}" for name in sorted(strangers))
        harm += [f"table {TABLE} was made dormant"] if table.dormant else []
        framed = not harm and all(self._of_frame(name, chains.get(name)) for name in skeleton.CHAINS)
        self.harm = (*harm, *self._written.differences(chains))
        if not framed:
            return None
        if not self.remembers:  # what is not ours among them has not our seal
            self._written.keep(chains)
        items: list[Item] = []
        for name, seen in chains.items():
            if name in skeleton.CHAINS and not skeleton.dynamic(name):
                continue
            item = expected.get(("chain", name))
            if self._written.intact(name, seen) and isinstance(item, ChainItem) and _sealed(item, seen.rules):
                items.append(item)
            elif seen.rules or not skeleton.dynamic(name):
                items.append(ChainItem(name, (_FOREIGN,)))
            else:
                items.append(ChainItem(name))
        for name in names:
            shape = shape_of(name) or Shape(("mark",))
            known = shape_of(name) is not None
            items.append(SetItem(name, shape, self.nft.elements(name, shape) if known else {}))
        if (neighbours := self._neighbours.observe()) is not None:
            items.append(neighbours)
        return {item.key: item for item in items}

    def _of_frame(self, name: str, seen: ChainSeen | None) -> bool:
        """Whether a chain of the frame is there, and is what the frame says."""
        if seen is None or skeleton.dynamic(name):
            return seen is not None and seen.base is None
        return self._written.intact(name, seen) and _as_written(name, None, seen)

    # --- what to do ---------------------------------------------------------------------------------------------------

    def replace(self, wanted: Iterable[Item]) -> None:
        """Everything anew. Conntrack is not touched; counters begin again.

        In two transactions, closed between them: the kernel shows the elements of a fresh interval set only a moment
        after it shows the rules that came with it, and a packet that is in no set yet meets the wrong rule."""
        todo = list(wanted)
        self.close_all(todo)
        self._run(opened(todo))
        items = {item.name: item for item in todo if isinstance(item, ChainItem)}
        found = self.nft.chains().items()
        as_written = {name: seen for name, seen in found if _as_written(name, items.get(name), seen)}
        self._written.keep(as_written, gone=self._written.chains.keys() - as_written.keys())
        self._neighbours.written()

    def close_all(self, wanted: Iterable[Item]) -> dict[Key, Item]:
        """Everything anew without its rules: what is new is dropped in silence, so connections outlive it. Answers what
        is there."""
        todo = list(wanted)
        self._written.begin()
        self._run(closed(todo))
        found = self.nft.chains()
        self._written.keep(found, gone=self._written.chains.keys() - found.keys())
        self._neighbours.written()
        empty = (ChainItem(item.name) for item in todo if isinstance(item, ChainItem))
        made = [*(item for item in todo if isinstance(item, SetItem | ArpItem)), *empty, _SHUT]
        return {item.key: item for item in made}

    def fill(self, changes: Iterable[Change]) -> None:
        """All but removals from `live`."""
        first: list[Operation] = []
        fresh: list[str] = []
        script: list[str] = []
        last: list[Operation] = []
        todo = list(changes)
        chained = any(isinstance(change.after, ChainItem) for change in todo)
        doomed_chains: list[tuple[Operation, Operation]] = []
        doomed_sets: list[Operation] = []
        for change in todo:
            before, after = change.before, change.after
            if isinstance(after, SetItem):
                held = before if isinstance(before, SetItem) else None
                if after.name in SETS:
                    gone, new = delta(held, after)
                    if after.name == "live":
                        gone = {}
                    (last if after.shape.verdict else first).extend(_operations(after.name, after.shape, gone, new))
                elif held is None:
                    fresh.append(str(after))
                elif chained:
                    script.extend(_set_text(held, after))
                else:
                    first.extend(_operations(after.name, after.shape, *delta(held, after)))
            elif isinstance(after, ChainItem):
                script.append(_chain_text(after))
            elif isinstance(after, ArpItem) or isinstance(before, ArpItem):
                script.append(arp.script(after if isinstance(after, ArpItem) else None))
            elif isinstance(before, ChainItem):
                doomed_chains.append(nft.delete_chain(before.name))
            elif isinstance(before, SetItem):
                doomed_sets.append(nft.delete_set(before.name))
        self.nft.commit(first)
        if fresh:  # a transaction before: see `replace`
            self._run("\n".join(fresh) + "\n")
        chains = {change.key[1]: change.after for change in todo if change.key[0] == "chain"}
        if chains:
            self._written.begin()
        if script:
            self._run("\n".join(script) + "\n")
        if any(isinstance(change.after, ArpItem) for change in todo):
            self._neighbours.written()
        emptied = [flush for flush, _ in doomed_chains]  # all before the first goes: one may jump to another
        self.nft.commit([*last, *emptied, *(deletion for _, deletion in doomed_chains), *doomed_sets])
        if chains:
            found = self.nft.chains()
            as_written = {n: found[n] for n, item in chains.items() if n in found and _as_written(n, item, found[n])}
            self._written.keep(as_written, gone=chains.keys() - as_written.keys())

    def retire(self, changes: Iterable[Change]) -> None:
        """Dead ids leave `live`: whatever they admitted, and nobody re-stamped, is judged anew or ends."""
        for change in changes:
            if isinstance(change.before, SetItem) and isinstance(change.after, SetItem) and change.after.name == "live":
                gone, _ = delta(change.before, change.after)
                self.nft.commit(nft.delete_elements("live", change.after.shape, gone))


def closed(wanted: Iterable[Item]) -> str:
    """nft commands that put frame and sets in the place of whatever tables of ours are there, and admit nothing."""
    todo = list(wanted)
    items = sorted((item for item in todo if isinstance(item, SetItem | ChainItem)), key=lambda item: item.rank)
    parts = [skeleton.script(), arp.script(next((item for item in todo if isinstance(item, ArpItem)), None)), _CLOSED]
    for item in items:
        if isinstance(item, ChainItem):
            parts.append(f"add chain {TABLE} {item.name}")
        elif item.name in SETS:
            parts.extend(add_text(item.name, item.shape, item.elements))
        else:
            parts.append(str(item))
    return "\n".join(parts) + "\n"


def opened(wanted: Iterable[Item]) -> str:
    """nft commands that put the rules into what `closed` made, and end its being closed."""
    chains = {item.name: item for item in wanted if isinstance(item, ChainItem)}
    parts = [_chain_text(item) for item in chains.values()]
    if _FIRST not in chains:
        parts.append(f"flush chain {TABLE} {_FIRST}")
    return "\n".join(parts) + "\n"


def delta(before: SetItem | None, after: SetItem) -> tuple[Elements, Elements]:
    """(what has to go, what has to come). Another data under the same key has to go first."""
    was: Elements = before.elements if before is not None else {}
    now = after.elements
    new: dict[bytes, bytes | None] = {}
    gone: dict[bytes, bytes | None] = {}
    for key in touched(was, now):
        there, wanted = was.get(key, _ABSENT), now.get(key, _ABSENT)
        if there == wanted:
            continue
        if not isinstance(there, _Absent):
            gone[key] = there
        if not isinstance(wanted, _Absent):
            new[key] = wanted
    return gone, new


def _operations(name: str, shape: Shape, gone: Elements, new: Elements) -> Iterator[Operation]:
    yield from nft.delete_elements(name, shape, gone)
    yield from nft.add_elements(name, shape, new)


def _set_text(before: SetItem | None, after: SetItem) -> Iterator[str]:
    """In the same transaction as the chains: no packet meets an old rule with new addresses, or the other way round."""
    if before is not None and before.elements == after.elements:
        return
    if before is None:
        yield str(after)
        return
    gone, new = delta(before, after)  # never flushed: what stays must not be away for a moment
    yield from delete_text(after.name, after.shape, gone)
    yield from add_text(after.name, after.shape, new)


def _chain_text(item: ChainItem) -> str:
    lines = [str(line) for line in item.lines]
    head = [f"add chain {TABLE} {item.name}", f"flush chain {TABLE} {item.name}"]
    rules = [f'continue comment "{owner.seal(lines)}"', *lines]
    return "\n".join([*head, *(f"add rule {TABLE} {item.name} {rule}" for rule in rules)])


def _as_written(name: str, item: object, seen: ChainSeen) -> bool:
    """Nobody put in a rule between our writing and our reading."""
    if isinstance(item, ChainItem):
        return _sealed(item, seen.rules)
    if name not in skeleton.CHAINS or skeleton.dynamic(name):
        return not seen.rules
    return len(seen.rules) == skeleton.rule_count(name)


def _sealed(item: ChainItem, rules: tuple[RuleSeen, ...]) -> bool:
    lines = [str(line) for line in item.lines]
    return bool(rules) and rules[0].comment == owner.seal(lines) and len(rules) == len(lines) + 1
