"""What is out there now? Looks at one foundation again and again, and reports when what it saw is another thing.

    policies   every 200 ms the server's number; another number, or a sweep: the whole list
    orgs, spaces, apps, processes   every few seconds what was updated (additions and changes), every sweep all of it
    asgs       every few seconds, and when a space is new

Their numbers and timestamps only hint; content decides, so a state is published where its content differs. A look that
failed or was incomplete changes nothing but `Look.stale_since` and `Look.error`. What a complete look withdraws goes by
`beliefs`: while something is held, and after an outage, everything is looked at whole. Each loop goes on without the
others; an exception that is neither `Unavailable` nor a refusal is a bug and ends all of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from cfbridge.foundation import asking, hints, read
from cfbridge.foundation.beliefs import Answer
from cfbridge.foundation.client import CloudController, PolicyServer
from cfbridge.foundation.knowing import Known
from cfbridge.inventory import FoundationState, HeldBack, Look
from cfbridge.settings import FoundationConfig
from egress.values import QualifiedId, Refused, RefusedError, Unavailable, qualify, unqualify

log = structlog.get_logger(__name__)
_BACKOFF_CEILING = 60.0
GRACE_SECONDS = 5.0
"""So long a new bridge waits for its own first looks before it works with what an earlier one left."""
RETOLD_SECONDS = 2.0
"""While looks fail, other words of theirs are told so often at most: some carry a number that is new each time."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """One list of Cloud Controller's: `name` is the field of `FoundationState` and the key of its look."""

    name: str
    path: str
    read: Callable[[str, list[bytes]], read.Rows[Any]]


_KINDS = (
    _Kind("orgs", "/v3/organizations", read.orgs),
    _Kind("spaces", "/v3/spaces", read.spaces),
    _Kind("apps", "/v3/apps", read.apps),
    _Kind("processes", "/v3/processes", read.processes),
)
_ALL = ("orgs", "spaces", "apps", "processes", "policies", "asgs")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a complete look saw of one kind."""

    answer: Answer
    refused: Mapping[str, Refused]
    problem: str = ""
    """Why it is not complete, although what it has is there."""


@dataclass(slots=True)
class _Swept:
    """How far we are with one kind of Cloud Controller's."""

    at: float | None = None
    """When it was read whole; None = never."""
    newest: str = ""
    """The latest `updated_at` that a delta may begin at."""


@dataclass(slots=True)
class _Pictures:
    """Where the two lists of the policy server stand."""

    policies: read.Policies = field(default_factory=read.Policies)
    policies_read: hints.Read = field(default_factory=hints.Read)
    asgs_read: hints.Read = field(default_factory=hints.Read)
    asgs_for: frozenset[QualifiedId] = frozenset()
    """The spaces that the ASGs were read for."""


class FoundationWatch:
    def __init__(
        self,
        config: FoundationConfig,
        publish: Callable[[FoundationState], None],
        *,
        controller: CloudController | None = None,
        policy_server: PolicyServer | None = None,
        clock: Callable[[], float] = time.time,
        remembered: FoundationState | None = None,
    ) -> None:
        """`remembered`: what an earlier bridge left."""
        self._config = config
        self._publish = publish
        self._controller = controller or CloudController(config)
        self._policy_server = policy_server or PolicyServer(config.policy_server)
        self._clock = clock
        state = remembered or FoundationState(config.name)
        self._said: dict[str, tuple[str, float]] = {}
        """By kind: what was told last of a failure, and when."""
        self._looks: dict[str, Look] = {**dict.fromkeys(_ALL, Look()), **state.looks}
        self._known = Known(config, replace(state, looks=dict(self._looks)), clock, self._look_again)
        self._swept = {kind.name: _Swept() for kind in _KINDS}
        self._pictures = _Pictures()
        self._space_is_new = asyncio.Event()
        self._hurry = asyncio.Event()
        """Cloud Controller is to be looked at now."""

    @property
    def state(self) -> FoundationState:
        """What is known, with the looks of this moment. (A look that confirms what is known is not published.)"""
        return replace(self._known.state, looks=dict(self._looks))

    def decide(self, kind: str, apply: bool) -> HeldBack | None:
        """A person says what becomes of what is held of a kind. Answers what was held; None: nothing."""
        held = self._known.decide(kind, apply)
        if held is not None:
            self._report()
        return held

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._watch_policies())
                loops.create_task(self._watch_controller())
                loops.create_task(self._watch_asgs())
                loops.create_task(self._rely_on_memory())
        finally:
            await self.close()

    async def close(self) -> None:
        self._controller.close()
        await self._policy_server.close()

    async def look_once(self) -> FoundationState:
        """One whole look at everything. What failed is said in the state's looks."""
        await self.look_at_controller(whole=True)
        await self.look_at_policies(whole=True)
        await self.look_at_asgs(whole=True)
        return self.state

    # The loops -------------------------------------------------------------------------------------------------------

    async def _watch_policies(self) -> None:
        while True:
            await self.look_at_policies()
            await asyncio.sleep(self._config.policy_server.poll_seconds)

    async def _watch_controller(self) -> None:
        failures = 0
        while True:
            failures = 0 if await self.look_at_controller() else failures + 1
            await _either(self._hurry, _pause(self._config.delta_seconds, failures))

    async def _watch_asgs(self) -> None:
        failures = 0
        while True:
            await _either(
                self._space_is_new, _pause(self._config.asg_seconds if failures else self._settling(), failures)
            )
            failures = 0 if await self.look_at_asgs() else failures + 1

    def _settling(self) -> float:
        """Until ASGs are to be looked at again: what is withdrawn goes when it has settled, not some seconds later."""
        end, pause = self._known.next_end("asgs"), self._config.asg_seconds
        return pause if end is None else max(0.0, min(pause, end - self._clock()))

    async def _rely_on_memory(self) -> None:
        """Servers that hang let no look fail for a while. What an earlier bridge left is in force by then."""
        await asyncio.sleep(GRACE_SECONDS)
        for kind, look in self._looks.items():
            if look.remembered and not look.serves:
                self._failed(kind, "no look was complete since the bridge began")

    # The looks -------------------------------------------------------------------------------------------------------

    async def look_at_policies(self, *, whole: bool = False) -> bool:
        """Fetch the list where the server's number is another one, or a sweep is due. Answers whether it went well."""
        return await self._look("policies", functools.partial(self._policies, whole))

    async def look_at_controller(self, *, whole: bool = False) -> bool:
        """What was updated since the last look, or everything where a sweep is due."""
        async with asyncio.TaskGroup() as looks:
            tasks = [
                looks.create_task(self._look(kind.name, functools.partial(self._rows_of, kind, whole)))
                for kind in _KINDS
            ]
        return all(task.result() for task in tasks)

    async def look_at_asgs(self, *, whole: bool = False) -> bool:
        return await self._look("asgs", functools.partial(self._asgs, whole))

    async def _look(self, kind: str, work: Callable[[], Awaitable[_Seen | None]]) -> bool:
        before = self._looks[kind]
        try:
            seen = await work()
        except (Unavailable, RefusedError) as error:
            self._failed(kind, str(error))
            return False
        known = self._known.state
        if seen is not None:
            self._known.take(seen.answer, seen.refused)
        differs = self._known.state is not known
        if kind == "spaces" and (before.complete_at is None or self._known.state.spaces.keys() != known.spaces.keys()):
            self._space_is_new.set()
        if seen is not None and seen.problem:
            self._failed(kind, seen.problem, differs)
            return False
        self._looks[kind] = Look(self._clock())
        begins = before.complete_at is None or before.remembered or before.stale_since is not None
        if begins:
            count = len(getattr(self._known.state, kind))
            log.info("look complete", foundation=self._config.name, kind=kind, count=count)
        if begins or differs:
            self._report()
        return True

    def _failed(self, kind: str, error: str, differs: bool = False) -> None:
        before = self._looks[kind]
        now = self._clock()
        since = before.stale_since if before.stale_since is not None else now
        self._looks[kind] = Look(before.complete_at, since, error, before.remembered)
        said, at = self._said.get(kind, ("", 0.0))
        news = before.stale_since is None or (error != said and hints.is_due(at, now, RETOLD_SECONDS))
        if news:
            self._said[kind] = error, now
            log.warning("look failed", foundation=self._config.name, kind=kind, error=error)
        if news or differs:
            self._report()

    async def _policies(self, whole: bool) -> _Seen | None:
        pictures, before = self._pictures, self._pictures.policies_read
        # The number first: a change between number and list makes another number, and the list is read again.
        number = await self._policy_server.last_updated()
        if not (whole or hints.is_new(before, number) or self._is_due("policies", before.at, before)):
            return None
        read_now = read.policies(self._config.name, await self._policy_server.policies(), pictures.policies)
        pictures.policies_read, pictures.policies = hints.read(before, number, self._clock()), read_now
        gone = self._known.gone_with_their_apps(read_now.policies)
        answer = Answer("policies", read_now.policies, gone=gone)
        return _Seen(answer, {refused.message: refused for refused in read_now.refused})

    async def _rows_of(self, kind: _Kind, whole: bool) -> _Seen:
        swept = self._swept[kind.name]
        begin = read.since(swept.newest)
        if whole or not begin or self._is_due(kind.name, swept.at):
            return await self._sweep(kind, swept)
        pages = await self._controller.pages(kind.path, {"updated_ats[gte]": begin})
        rows = kind.read(self._config.name, pages)
        if len(pages) == 1:  # else a row of a page already read may have been updated before the newest of the last
            swept.newest = max(swept.newest, rows.newest)
        return self._some(kind, rows)

    def _some(self, kind: _Kind, rows: read.Rows[Any], gone: frozenset[Any] = frozenset(), problem: str = "") -> _Seen:
        well = {unqualify(key)[1] for key in rows.found}
        still_refused = {guid: refused for guid, refused in self._known.refused(kind.name).items() if guid not in well}
        return _Seen(Answer(kind.name, rows.found, False, gone), {**still_refused, **rows.refused}, problem)

    async def _sweep(self, kind: _Kind, swept: _Swept) -> _Seen:
        # The next delta begins where the sweep did: a row may be updated after its page was read.
        newest = await self._controller.newest(kind.path)
        rows = kind.read(self._config.name, await self._controller.pages(kind.path))
        gone, some_are_there = await self._ask_for(kind, rows)
        if some_are_there:
            return self._some(kind, rows, gone, f"the list {kind.path} left out objects that are still there")
        swept.at, swept.newest = self._clock(), newest
        return _Seen(Answer(kind.name, rows.found, gone=gone), rows.refused)

    async def _ask_for(self, kind: _Kind, rows: read.Rows[Any]) -> tuple[frozenset[QualifiedId], bool]:
        """(who is gone by its own answer, whether somebody is there), of those that the list has no more. Who is
        neither is held, or was asked for together with others."""

        def guids() -> list[str]:
            return [guid for guid in (unqualify(key)[1] for key in sorted(absent)) if guid not in rows.refused]

        absent = self._known.absent(kind.name, frozenset(rows.found))
        gone: frozenset[QualifiedId] = frozenset()
        if self._known.is_much(kind.name, absent):
            alone, some_are_there = await asking.each(self._controller, kind.path, guids())
            gone = frozenset(qualify(self._config.name, guid) for guid in alone)
            absent -= gone
            if some_are_there or self._known.is_much(kind.name, absent):
                return gone, some_are_there
        return gone, await asking.some_are_there(self._controller, kind.path, guids())

    async def _asgs(self, whole: bool) -> _Seen | None:
        pictures, before = self._pictures, self._pictures.asgs_read
        if self._config.asg_source == "cloud-controller":
            rows = read.controller_asgs(self._config.name, await self._controller.pages("/v3/security_groups"))
            return _Seen(Answer("asgs", rows.found), rows.refused)
        if self._looks["spaces"].complete_at is None:
            raise Unavailable("the spaces are not known yet, and the policy server lists security groups by space")
        spaces = frozenset(self._known.state.spaces)
        number = await self._policy_server.security_groups_last_updated()
        changed = hints.is_new(before, number) or spaces != pictures.asgs_for or self._known.missing("asgs")
        if not (whole or changed or self._is_due("asgs", before.at, before)):
            return None
        pages = await self._policy_server.security_groups(sorted(unqualify(space)[1] for space in spaces))
        rows = read.internal_asgs(self._config.name, pages)
        pictures.asgs_for, pictures.asgs_read = spaces, hints.read(before, number, self._clock())
        return _Seen(Answer("asgs", rows.found), rows.refused)

    # What was seen ---------------------------------------------------------------------------------------------------

    def _report(self) -> None:
        self._known.state = self.state
        self._publish(self._known.state)

    def _look_again(self) -> None:
        """At everything, whole, at once."""
        for swept in self._swept.values():
            swept.at = None
        self._pictures.policies_read = replace(self._pictures.policies_read, at=None)
        self._hurry.set()

    def _is_due(self, kind: str, at: float | None, hint: hints.Read | None = None) -> bool:
        """Whether a list is to be read whole, although nothing says that it changed."""
        now, sweep, said = self._clock(), self._config.sweep_seconds, self._config.withdrawals
        often = min(sweep, said.hold_seconds / (2 * said.hold_looks))
        in_doubt = bool(self._known.state.held) or (hint is not None and hints.is_doubtful(hint, now, sweep))
        return self._looks[kind].stale_since is not None or hints.is_due(at, now, often if in_doubt else sweep)


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Until it happens, or so many seconds passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    event.clear()


def _pause(seconds: float, failures: int) -> float:
    """Between two looks; longer after failures, and never in step with other bridges."""
    ceiling = max(seconds, _BACKOFF_CEILING)
    return min(seconds * 2.0 ** min(failures, 10), ceiling) * (random.uniform(0.5, 1.0) if failures else 1.0)  # noqa: S311
