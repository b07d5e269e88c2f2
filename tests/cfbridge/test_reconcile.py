"""Does the loop settle, share revisions and never lose a change?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cfbridge.reconcile import Reconciler


@asynccontextmanager
async def running(loop: Reconciler) -> AsyncIterator[None]:
    task = asyncio.create_task(loop.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: asyncio.Event) -> None:
    await asyncio.wait_for(condition.wait(), 5)


async def test_changes_made_together_share_one_revision():
    realised: list[int] = []
    done = asyncio.Event()

    async def realise(revision: int) -> None:
        realised.append(revision)
        done.set()

    loop = Reconciler(realise)
    promised = {loop.changed() for _ in range(100)}
    async with running(loop):
        await until(done)
    assert promised == {1}
    assert realised == [1]


async def test_a_change_during_a_compile_is_in_the_next_revision():
    realised: list[int] = []
    started, go, second = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def realise(revision: int) -> None:
        realised.append(revision)
        if revision == 1:
            started.set()
            await go.wait()
        else:
            second.set()

    loop = Reconciler(realise)
    assert loop.changed() == 1
    async with running(loop):
        await until(started)
        assert loop.changed() == 2
        go.set()
        await until(second)
    assert realised == [1, 2]


async def test_steady_changes_do_not_put_the_compile_off_for_ever():
    done = asyncio.Event()

    async def realise(revision: int) -> None:
        done.set()

    loop = Reconciler(realise)

    async def disturb() -> None:
        while not done.is_set():
            loop.changed()
            await asyncio.sleep(0)

    async with running(loop):
        await asyncio.wait_for(disturb(), 5)


async def test_revisions_go_on_from_where_the_last_epoch_could_have_been():
    loop = Reconciler(lambda revision: asyncio.sleep(0), first_revision=3_000_001)
    assert loop.changed() == 3_000_001
