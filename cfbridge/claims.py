"""Is it true what a container says it is? Garden's word against Cloud Controller's; pure.

Only what Cloud Controller knows can contradict: an app has its space, and a space its org, for life. Of a container
that is newer than our last look nothing is known, and it is served.
"""

from __future__ import annotations

from cfbridge.inventory import FoundationState
from egress.values import QualifiedId, Refused, qualify, unqualify
from garden_plugin.wire import PortReport
from policy_sync.part import short

CODE = "CLAIM_MISMATCH"


def contradiction(port: PortReport, foundation: FoundationState) -> Refused | None:
    """Why this container is not what it says; None as far as anybody knows."""
    app, space, org = (qualify(foundation.name, guid) for guid in (port.app, port.space, port.org))
    if (known := foundation.apps.get(app)) is not None and known.space != space:
        return _refused(port, f"app {short(port.app)} of space {short(port.space)}", f"space {_guid(known.space)}")
    if (there := foundation.spaces.get(space)) is not None and there.org != org:
        return _refused(port, f"of space {short(port.space)} in org {short(port.org)}", f"org {_guid(there.org)}")
    return None


def _guid(known: QualifiedId) -> str:
    return short(unqualify(known)[1])


def _refused(port: PortReport, said: str, known: str) -> Refused:
    message = (
        f"container {short(port.handle)} says it is {said}, and Cloud Controller has that in {known}: "
        "it is in no group, and nothing passes to it or from it. Look at who made it on its cell"
    )
    return Refused(CODE, message, port.handle)
