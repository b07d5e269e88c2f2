"""What is out there now? Looks at one foundation again and again, and reports when what it saw is another thing.

    policies   every 200 ms the server's number; another number, or a sweep: the whole list
    orgs, spaces, apps, processes   every few seconds what was updated (additions and changes), every sweep all of it
    asgs       every few seconds, and when a space is new

Their numbers and timestamps only hint; content decides, so a state is published where its content differs. A look that
failed or was incomplete changes nothing but `Look.stale_since` and `Look.error`. Each loop goes on without the others;
an exception that is neither `Unavailable` nor a refusal is a bug and ends all of them.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from cfbridge.foundation import read
from cfbridge.foundation.client import GUIDS_PER_URL, CloudController, PolicyServer
from cfbridge.inventory import FoundationState, Look
from cfbridge.settings import FoundationConfig
from egress.values import QualifiedId, Refused, RefusedError, Unavailable, unqualify

log = structlog.get_logger(__name__)
_BACKOFF_CEILING = 60.0


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

    content: Any
    refused: Mapping[str, Refused]


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

    number: int | None = None
    policies: read.Policies = field(default_factory=read.Policies)
    swept_at: float | None = None
    asgs_for: tuple[int, frozenset[QualifiedId]] | None = None
    """(the server's number, the spaces) that the ASGs were read for."""
    asgs_swept_at: float | None = None


class FoundationWatch:
    def __init__(
        self,
        config: FoundationConfig,
        publish: Callable[[FoundationState], None],
        *,
        controller: CloudController | None = None,
        policy_server: PolicyServer | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config = config
        self._publish = publish
        self._controller = controller or CloudController(config)
        self._policy_server = policy_server or PolicyServer(config.policy_server)
        self._clock = clock
        self._state = FoundationState(config.name, looks=dict.fromkeys(_ALL, Look()))
        self._looks: dict[str, Look] = dict(self._state.looks)
        self._refused: dict[str, Mapping[str, Refused]] = {kind: {} for kind in _ALL}
        self._swept = {kind.name: _Swept() for kind in _KINDS}
        self._pictures = _Pictures()
        self._space_is_new = asyncio.Event()

    @property
    def state(self) -> FoundationState:
        """What is known, with the looks of this moment. (A look that confirms what is known is not published.)"""
        return replace(self._state, looks=dict(self._looks))

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._watch_policies())
                loops.create_task(self._watch_controller())
                loops.create_task(self._watch_asgs())
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
            await asyncio.sleep(_pause(self._config.delta_seconds, failures))

    async def _watch_asgs(self) -> None:
        pause = self._config.asg_seconds
        failures = 0
        while True:
            try:
                async with asyncio.timeout(_pause(pause, failures)):
                    await self._space_is_new.wait()
            except TimeoutError:
                pass
            self._space_is_new.clear()
            failures = 0 if await self.look_at_asgs() else failures + 1

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
            since = before.stale_since if before.stale_since is not None else self._clock()
            self._looks[kind] = Look(before.complete_at, since, str(error))
            if before.stale_since is None:
                log.warning("look failed", foundation=self._config.name, kind=kind, error=str(error))
                self._report(self._state)
            return False
        self._looks[kind] = Look(self._clock())
        state = self._state if seen is None else self._with(kind, seen)
        if kind == "spaces" and (before.complete_at is None or state.spaces.keys() != self._state.spaces.keys()):
            self._space_is_new.set()
        if before.complete_at is None or before.stale_since is not None:
            log.info("look complete", foundation=self._config.name, kind=kind, count=len(getattr(state, kind)))
            self._report(state)
        elif state is not self._state:
            self._report(state)
        return True

    async def _policies(self, whole: bool) -> _Seen | None:
        pictures = self._pictures
        # The number first: a change between number and list makes another number, and the list is read again.
        number = await self._policy_server.last_updated()
        if number == pictures.number and not whole and not self._sweep_due(pictures.swept_at):
            return None
        read_now = read.policies(self._config.name, await self._policy_server.policies(), pictures.policies)
        pictures.number, pictures.swept_at, pictures.policies = number, self._clock(), read_now
        return _Seen(read_now.policies, {refused.message: refused for refused in read_now.refused})

    async def _rows_of(self, kind: _Kind, whole: bool) -> _Seen:
        swept = self._swept[kind.name]
        begin = read.since(swept.newest)
        if whole or not begin or self._sweep_due(swept.at):
            return await self._sweep(kind, swept)
        pages = await self._controller.pages(kind.path, {"updated_ats[gte]": begin})
        rows = kind.read(self._config.name, pages)
        if len(pages) == 1:  # else a row of a page already read may have been updated before the newest of the last
            swept.newest = max(swept.newest, rows.newest)
        known: Mapping[QualifiedId, Any] = getattr(self._state, kind.name)
        well = {unqualify(key)[1] for key in rows.found}
        kept = {key: value for key, value in known.items() if unqualify(key)[1] not in rows.refused}
        still_refused = {guid: refused for guid, refused in self._refused[kind.name].items() if guid not in well}
        return _Seen({**kept, **rows.found}, {**still_refused, **rows.refused})

    async def _sweep(self, kind: _Kind, swept: _Swept) -> _Seen:
        # The next delta begins where the sweep did: a row may be updated after its page was read.
        newest = read.newest(await self._controller.get(kind.path, {"per_page": 1, "order_by": "-updated_at"}))
        rows = kind.read(self._config.name, await self._controller.pages(kind.path))
        known: Mapping[QualifiedId, Any] = getattr(self._state, kind.name)
        missing = (unqualify(key)[1] for key in known.keys() - rows.found.keys())
        await self._confirm_gone(kind, [guid for guid in missing if guid not in rows.refused])
        swept.at, swept.newest = self._clock(), newest
        return _Seen(rows.found, rows.refused)

    async def _confirm_gone(self, kind: _Kind, guids: list[str]) -> None:
        """A row may be missed where another was deleted and one was made during the walk: the totals fit then. So
        nobody is gone before the foundation, asked by name, says so."""
        for begin in range(0, len(guids), GUIDS_PER_URL):
            batch = ",".join(guids[begin : begin + GUIDS_PER_URL])
            rows = kind.read(self._config.name, await self._controller.pages(kind.path, {"guids": batch}))
            if rows.found or rows.refused:
                raise Unavailable(f"the list {kind.path} left out objects that are still there")

    async def _asgs(self, whole: bool) -> _Seen | None:
        pictures = self._pictures
        if self._config.asg_source == "cloud-controller":
            rows = read.controller_asgs(self._config.name, await self._controller.pages("/v3/security_groups"))
            return _Seen(rows.found, rows.refused)
        if self._looks["spaces"].complete_at is None:
            raise Unavailable("the spaces are not known yet, and the policy server lists security groups by space")
        spaces = frozenset(self._state.spaces)
        number = await self._policy_server.security_groups_last_updated()
        due = whole or self._sweep_due(pictures.asgs_swept_at)
        if not due and number is not None and (number, spaces) == pictures.asgs_for:
            return None
        pages = await self._policy_server.security_groups(sorted(unqualify(space)[1] for space in spaces))
        rows = read.internal_asgs(self._config.name, pages)
        pictures.asgs_for = None if number is None else (number, spaces)
        pictures.asgs_swept_at = self._clock()
        return _Seen(rows.found, rows.refused)

    # What was seen ---------------------------------------------------------------------------------------------------

    def _with(self, kind: str, seen: _Seen) -> FoundationState:
        """The state with this content; the very same state where nothing differs. Objects that are equal to known ones
        stay the known ones."""
        known, content = getattr(self._state, kind), seen.content
        same_refusals = seen.refused == self._refused[kind]
        if content == known and same_refusals:
            return self._state
        if isinstance(content, Mapping):
            content = {key: known[key] if known.get(key) == value else value for key, value in content.items()}
        if same_refusals:
            return replace(self._state, **{kind: content})
        self._refused[kind] = seen.refused
        said = log.warning if seen.refused else log.info
        said("objects left out", foundation=self._config.name, kind=kind, count=len(seen.refused))
        quarantined = tuple(self._refused[name][key] for name in _ALL for key in sorted(self._refused[name]))
        return replace(self._state, **{kind: content}, quarantined=quarantined)

    def _report(self, state: FoundationState) -> None:
        self._state = replace(state, looks=dict(self._looks))
        self._publish(self._state)

    def _sweep_due(self, swept_at: float | None) -> bool:
        """Also where the clock was set back since."""
        return swept_at is None or not 0 <= self._clock() - swept_at < self._config.sweep_seconds


def _pause(seconds: float, failures: int) -> float:
    """Between two looks; longer after failures, and never in step with other bridges."""
    ceiling = max(seconds, _BACKOFF_CEILING)
    return min(seconds * 2.0 ** min(failures, 10), ceiling) * (random.uniform(0.5, 1.0) if failures else 1.0)  # noqa: S311
