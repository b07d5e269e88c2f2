"""Is everything that people did kept, in order, and nothing lost while the store is away?"""

from __future__ import annotations

import asyncio

import pytest

from cfbridge import audit as audit_module
from cfbridge.audit import Audit
from cfbridge.store import Audited
from egress.values import Unavailable
from tests.cfbridge.api.world import FakeStore


def entry(number: int) -> Audited:
    return Audited(float(number), "root", "local", "PUT /intent", "", 200)


def kept(store: FakeStore) -> list[float]:
    return [each.at for each in store.audit]


async def test_what_is_recorded_is_kept_in_order_also_what_came_while_the_store_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(audit_module, "AGAIN_SECONDS", 0.01)
    store = FakeStore(away="asleep")
    audit = Audit(store)  # type: ignore[arg-type]
    running = asyncio.create_task(audit.run())
    audit.record(entry(1))
    await asyncio.sleep(0.05)
    audit.record(entry(2))
    store.away = ""
    async with asyncio.timeout(5):
        while len(store.audit) < 2:
            await asyncio.sleep(0.01)
    running.cancel()
    assert kept(store) == [1, 2]
    assert [each.at for each in await audit.read(None, 10)] == [2, 1]


async def test_what_waits_is_kept_when_the_bridge_ends() -> None:
    store = FakeStore()
    audit = Audit(store)  # type: ignore[arg-type]
    audit.record(entry(1))
    await audit.close()
    assert kept(store) == [1]


async def test_what_comes_while_others_are_written_is_neither_lost_nor_doubled() -> None:
    class Slow(FakeStore):
        async def append(self, entries: object) -> None:
            if len(self.audit) == 0 and not self.away:
                audit.record(entry(2))
                self.away = "in the middle"
            await super().append(entries)  # type: ignore[arg-type]

    store = Slow()
    audit = Audit(store)  # type: ignore[arg-type]
    audit.record(entry(1))
    with pytest.raises(Unavailable):
        await audit.save()
    store.away = ""
    store.audit.clear()
    Slow.append = FakeStore.append  # type: ignore[method-assign,assignment]
    await audit.save()
    assert kept(store) == [1, 2]


async def test_of_what_can_not_be_kept_for_long_the_newest_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "WAITING", 3)
    store = FakeStore(away="asleep")
    audit = Audit(store)  # type: ignore[arg-type]
    for number in range(5):
        audit.record(entry(number))
    with pytest.raises(Unavailable):
        await audit.save()
    store.away = ""
    await audit.save()
    assert kept(store) == [2, 3, 4]
