"""What of a workload can criteria ask for, and whose word is it?"""

from __future__ import annotations

from dataclasses import replace

from cfbridge import identity
from cfbridge.intent import Tagged, Vm
from cfbridge.inventory import App, FoundationState, Org, Space
from egress.values import QualifiedId
from garden_plugin.wire import PortReport
from policy_sync.criteria import FIELDS, KEYED, Attribute
from policy_sync.model import Selector, SelectorKind

ORG, SPACE, APP = (QualifiedId(f"cf:{guid}") for guid in ("o1", "s1", "a1"))
STATE = FoundationState(
    "cf",
    orgs={ORG: Org(ORG, "acme", labels={"cost": "7"})},
    spaces={SPACE: Space(SPACE, "prod", ORG, {"team": "green"})},
    apps={APP: App(APP, "web", SPACE, labels={"team": "blue"})},
)
PORT = PortReport(
    "h1",
    org="o1",
    space="s1",
    app="a1",
    lifecycle="app",
    org_name="old-acme",
    space_name="old-prod",
    app_name="old-web",
    instance_index=3,
)


def said(port: PortReport = PORT, state: FoundationState = STATE, tags: identity.Tags | None = None) -> dict[str, str]:
    found = identity.of_container(port, "cell-1", state, tags or {})
    return {" ".join(filter(None, attribute)): value for attribute, value in found.items()}


def test_a_container_is_known_by_names_guids_labels_and_place() -> None:
    assert said() == {
        "kind": "container",
        "foundation": "cf",
        "cell": "cell-1",
        "org": "acme",
        "space": "prod",
        "app": "web",
        "org.guid": "o1",
        "space.guid": "s1",
        "app.guid": "a1",
        "workload": "app",
        "instance": "3",
        "org.label cost": "7",
        "space.label team": "green",
        "label team": "blue",
    }


def test_gardens_names_count_until_cloud_controller_is_known() -> None:
    assert [said(state=FoundationState("cf"))[name] for name in ("org", "space", "app")] == [
        "old-acme",
        "old-prod",
        "old-web",
    ]


def test_what_a_container_does_not_have_is_not_there() -> None:
    bare = said(PortReport("h1"))
    assert bare == {"kind": "container", "foundation": "cf", "cell": "cell-1"}


def test_a_tag_of_the_app_goes_before_the_spaces_and_that_before_the_orgs() -> None:
    tags = {ORG: {"env": "prod", "owner": "ada"}, SPACE: {"env": "stage"}, APP: {"tier": "web"}}
    found = said(tags=tags)
    assert (found["tag env"], found["tag owner"], found["tag tier"]) == ("stage", "ada", "web")
    assert said(tags={**tags, APP: {"env": "dev"}})["tag env"] == "dev"


def test_who_is_tagged_at_two_places_has_both() -> None:
    tagged = (Tagged(Selector(SelectorKind.ORG, ORG), {"a": "1"}), Tagged(Selector(SelectorKind.ORG, ORG), {"b": "2"}))
    assert identity.by_subject(tagged) == {ORG: {"a": "1", "b": "2"}}


def test_a_machine_has_its_orgs_tags_and_labels_and_its_own_go_first() -> None:
    machine = Vm("db-1", ("10.240.3.11",), org=ORG, cell="cell-1", tags={"tier": "db", "env": "stage"})
    found = identity.of_vm(machine, STATE, {ORG: {"env": "prod", "owner": "ada"}})
    assert found[Attribute("vm.name")] == "db-1"
    assert found[Attribute("org")] == "acme"
    assert found[Attribute("org.label", "cost")] == "7"
    assert [found[Attribute("tag", key)] for key in ("tier", "env", "owner")] == ["db", "stage", "ada"]
    assert Attribute("org") not in identity.of_vm(replace(machine, org=""), None, {})


def test_every_attribute_is_one_that_the_language_has() -> None:
    machine = identity.of_vm(Vm("db-1", (), org=ORG, tags={"tier": "db"}), STATE, {})
    for attribute in (*identity.of_container(PORT, "cell-1", STATE, {}), *machine):
        assert attribute.field in (KEYED if attribute.key else FIELDS)
