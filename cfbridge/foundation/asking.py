"""Are they really gone? A list may leave somebody out, so Cloud Controller is asked by name before anybody goes.

few are missing   in batches: it costs a request or two
many are missing  each alone, a bounded number side by side: only an object's own 404 counts
"""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import Sequence

from cfbridge.foundation import read
from cfbridge.foundation.client import GUIDS_PER_URL, CloudController
from egress.values import RefusedError, Unavailable

AT_MOST = 100
"""GUIDs that are asked for alone after one look. Who is not asked for is held, and may be asked for after the next."""
SIDE_BY_SIDE = 4


async def some_are_there(controller: CloudController, path: str, guids: Sequence[str]) -> bool:
    """Rows may be missed where another was deleted and one was made during the walk: the totals fit then."""
    for begin in range(0, len(guids), GUIDS_PER_URL):
        batch = ",".join(guids[begin : begin + GUIDS_PER_URL])
        if any(read.listing(await controller.pages(path, {"guids": batch}))):
            return True
    return False


async def each(controller: CloudController, path: str, guids: Sequence[str]) -> tuple[frozenset[str], bool]:
    """(who is gone, whether somebody is there). The first that gets no answer ends it: they are not to be trusted."""
    waiting = iter(guids[:AT_MOST])
    gone: set[str] = set()
    there: set[str] = set()

    async def ask() -> None:
        for guid in waiting:
            (gone if await controller.is_gone(path, guid) else there).add(guid)
            if there:
                return

    try:
        async with TaskGroup() as asking:
            for _ in range(SIDE_BY_SIDE):
                asking.create_task(ask())
    except* (Unavailable, RefusedError):
        pass
    return frozenset(gone), bool(there)
