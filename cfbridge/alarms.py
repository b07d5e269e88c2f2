"""What should an operator know now of foundations, their certificates and cells? In sentences that say what to do."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator

from cfbridge.api.views import Alarm
from cfbridge.cells import FOUGHT_SECONDS, UNHEARD_SECONDS
from cfbridge.foundation import certificates
from cfbridge.inventory import FoundationState, HeldBack
from cfbridge.settings import FoundationConfig
from cfbridge.snapshot import CellState

_CALLED = {"asgs": "security groups"}


def of(state: FoundationState) -> Iterator[Alarm]:
    for kind, look in state.looks.items():
        if look.stale_since is not None:
            message = f"{kind} of {state.name} are stale since {moment(look.stale_since)}: {look.error}"
            if look.remembered and look.complete_at is not None:
                message += f". What a bridge before this one confirmed at {moment(look.complete_at)} is in force"
            yield Alarm("degraded", "FOUNDATION_STALE", message)
    for held in state.held:
        yield Alarm("degraded", "WITHDRAWAL_HELD", withheld(state.name, held))
    for each in state.quarantined:
        yield Alarm("warning", each.code, each.message)
    if not state.ready:
        yield Alarm("degraded", "FOUNDATION_UNREAD", f"{state.name} has not been read in full yet")


def of_cells(
    cells: Iterable[CellState], late: Collection[str], unheard: Collection[str], now: float
) -> Iterator[Alarm]:
    for cell in cells:
        if cell.name in unheard:
            message = (
                f"{cell.name} was not heard of for {UNHEARD_SECONDS / 60:.0f} minutes; its containers keep groups "
                f"and addresses. Start its agent; if it is gone for good: cfbridge cell remove {cell.name}"
            )
            yield Alarm("degraded", "CELL_UNHEARD", message)
        elif not cell.connected:
            yield Alarm("degraded", "CELL_AWAY", f"the agent of {cell.name} is not connected")
        elif cell.name in late:
            yield Alarm("degraded", "CELL_LATE", f"{cell.name} is behind at revision {cell.reached}")
        if cell.fought_at and now - cell.fought_at < FOUGHT_SECONDS:
            message = (
                f"Somebody on {cell.name} undoes again and again what its agent heals, {cell.drifts} times so far: "
                f"{cell.last_drift}. Find who writes there and stop it."
            )
            yield Alarm("degraded", "CELL_MEDDLED", message)


def of_certificates(foundations: Iterable[FoundationConfig], now: float) -> Iterator[Alarm]:
    for foundation in foundations:
        if ending := certificates.ending(foundation.policy_server, now):
            yield Alarm("warning", "CERTIFICATE_ENDS", ending)


def withheld(foundation: str, held: HeldBack) -> str:
    """What is held, since when, until when, and which command ends it."""
    what = f"{len(held.objects)} of {held.known} {_CALLED.get(held.kind, held.kind)} of {foundation}"
    said = f"{what} are gone or less in its answers since {moment(held.since)}, and stay in force"
    if held.until is None:
        said += ", because a person discarded the answer, until it changes"
    else:
        said += f" until {moment(held.until)} and {held.looks_needed} complete looks ({held.looks} so far)"
    which = f"--foundation {foundation} --kind {held.kind}"
    end = f"`cfbridge held apply {which}` believes the answer now"
    return f"{said}; {end}" + ("" if held.until is None else f", `cfbridge held discard {which}` does not believe it")


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
