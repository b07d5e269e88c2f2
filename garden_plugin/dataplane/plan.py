"""What has to be done to get from what is there to what is wanted? Ordered so that no reference dangles."""

from __future__ import annotations

from collections.abc import Mapping

from garden_plugin.dataplane.base import Change, Item, Key, Plan


def diff(observed: Mapping[Key, Item], wanted: Mapping[Key, Item]) -> Plan:
    """Creations and replacements by rising rank, then deletions by falling rank. Equal means nothing to do."""
    made = [
        (item.rank, key, Change(key, before, item))
        for key, item in wanted.items()
        if (before := observed.get(key)) is not item and before != item
    ]
    gone = [(-item.rank, key, Change(key, item, None)) for key, item in observed.items() if key not in wanted]
    made.sort(key=lambda step: step[:2])
    gone.sort(key=lambda step: step[:2])
    return Plan(tuple(step[2] for step in [*made, *gone]))


def describe(plan: Plan) -> str:
    """One line a change, in native words; for people and logs."""
    return "\n".join(_said(change) for change in plan.changes) or "nothing to do"


def _said(change: Change) -> str:
    name = " ".join(change.key)
    before, after = change.before, change.after
    was, now = getattr(before, "elements", None), getattr(after, "elements", None)
    if was is not None and now is not None:
        added = sum(1 for key in now if key not in was or was[key] != now[key])
        removed = sum(1 for key in was if key not in now)
        return f"~ {name}: +{added} -{removed} elements"
    if after is None:
        return f"- {name}"
    return f"{'~' if before is not None else '+'} {name}: {str(after).splitlines()[0]}"
