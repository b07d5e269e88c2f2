"""What can a group's criteria ask of a workload? Its names and GUIDs, labels, our tags, and what it is. Pure.

Names are Cloud Controller's where it is known (they follow renames), else Garden's. A label is whom it stands on:
`label` of the app, `space.label`, `org.label`. A tag of an org is one of all that is in it, unless the space, the app
or the machine itself has another value for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cfbridge.intent import Tagged, Vm
from cfbridge.inventory import FoundationState
from egress.values import QualifiedId, qualify, unqualify
from garden_plugin.wire import PortReport
from policy_sync.criteria import Attribute
from policy_sync.model import Kind

Attributes = Mapping[Attribute, str]
Tags = Mapping[str, Mapping[str, str]]
"""By qualified id of an org, a space or an app."""


def by_subject(tagged: Iterable[Tagged]) -> Tags:
    """Who was tagged twice has both."""
    found: dict[str, Mapping[str, str]] = {}
    for each in tagged:
        found[each.subject.value] = {**found.get(each.subject.value, {}), **each.tags}
    return found


def of_container(port: PortReport, cell: str, state: FoundationState, tags: Tags) -> Attributes:
    org, space, app = (qualify(state.name, guid) for guid in (port.org, port.space, port.app))
    known_org, known_space, known_app = state.orgs.get(org), state.spaces.get(space), state.apps.get(app)
    said = {
        "kind": Kind.CONTAINER.value,
        "foundation": state.name,
        "cell": cell,
        "org": known_org.name if known_org else port.org_name,
        "space": known_space.name if known_space else port.space_name,
        "app": known_app.name if known_app else port.app_name,
        "org.guid": port.org,
        "space.guid": port.space,
        "app.guid": port.app,
        "workload": port.lifecycle,
        "instance": str(port.instance_index) if port.instance_index >= 0 else "",
    }
    labels = (("org.label", known_org), ("space.label", known_space), ("label", known_app))
    return {
        **{Attribute(field): value for field, value in said.items() if value},
        **{Attribute(field, key): value for field, each in labels if each for key, value in each.labels.items()},
        **_tagged(tags, (org, space, app)),
    }


def of_vm(vm: Vm, state: FoundationState | None, tags: Tags) -> Attributes:
    """`state`: of the foundation of its org, where it has one."""
    org = state.orgs.get(QualifiedId(vm.org)) if state else None
    said = {
        "kind": Kind.VM.value,
        "vm.name": vm.name,
        "cell": vm.cell,
        "foundation": state.name if state else "",
        "org": org.name if org else "",
        "org.guid": unqualify(vm.org)[1],
    }
    return {
        **{Attribute(field): value for field, value in said.items() if value},
        **{Attribute("org.label", key): value for key, value in (org.labels.items() if org else ())},
        **_tagged(tags, (vm.org,)),
        **{Attribute("tag", key): value for key, value in vm.tags.items()},
    }


def _tagged(tags: Tags, subjects: Iterable[str]) -> Attributes:
    """`subjects`: from the outermost in."""
    return {Attribute("tag", key): value for subject in subjects for key, value in tags.get(subject, {}).items()}
