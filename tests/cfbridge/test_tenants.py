"""Does a tenant stay the org that its name was first found for, and no longer than it should?"""

from __future__ import annotations

from dataclasses import replace

from cfbridge import intent, tenants
from cfbridge.intent import Intent
from cfbridge.inventory import FoundationState, Look, Org
from egress.model import NetworkMode, OrgWish
from egress.values import QualifiedId

ACME, OTHER = QualifiedId("cf:acme-guid"), QualifiedId("cf:other-guid")


def there(*orgs: tuple[QualifiedId, str], read: bool = True) -> dict[str, FoundationState]:
    looks = {"orgs": Look(1.0 if read else None)}
    return {"cf": FoundationState("cf", orgs={each: Org(each, name) for each, name in orgs}, looks=looks)}


def resolved(inventory: dict[str, FoundationState], *names: str) -> tuple[OrgWish, ...]:
    written = Intent(tenants=tuple(OrgWish(QualifiedId(""), NetworkMode.NAT, name=name) for name in names))
    return intent.resolve(written, inventory).tenants


def bind(before: tenants.Bound, inventory: dict[str, FoundationState], *names: str) -> tenants.Bound:
    return tenants.bind(resolved(inventory, *names), before, inventory)


def test_an_org_that_is_renamed_stays_the_tenant_and_is_said_to_be_renamed():
    bound = bind({}, there((ACME, "acme")), "acme")
    after = there((ACME, "umbrella"))
    assert bind(bound, after, "acme") == {"acme": ACME}
    (said,) = tenants.renamed(bound, after)
    assert said.code == "TENANT_RENAMED"
    assert "'umbrella'" in said.message


def test_the_next_org_of_that_name_is_no_tenant():
    assert bind({"acme": ACME}, there((ACME, "umbrella"), (OTHER, "acme")), "acme") == {"acme": ACME}


def test_when_the_org_is_gone_the_next_of_that_name_is_the_tenant():
    assert bind({"acme": ACME}, there((OTHER, "acme")), "acme") == {"acme": OTHER}
    assert bind({"acme": ACME}, there(), "acme") == {}


def test_before_the_orgs_were_read_nobody_is_gone():
    assert bind({"acme": ACME}, there(read=False), "acme") == {"acme": ACME}


def test_who_writes_the_present_name_means_the_org_of_that_name():
    after = there((ACME, "umbrella"))
    assert bind({"acme": ACME}, after, "acme", "umbrella") == {"umbrella": ACME}


def test_a_name_that_nobody_writes_any_more_is_forgotten():
    assert bind({"acme": ACME}, there((ACME, "umbrella"))) == {}


def test_an_org_of_that_name_is_not_said_to_be_renamed_however_it_is_written():
    inventory = there((ACME, "acme"))
    written = ("acme", "cf:acme", "acme-guid")
    assert [*tenants.renamed(dict.fromkeys(written, ACME), inventory)] == []


def test_what_containers_call_their_org_counts_until_somebody_else_told_us():
    wish = OrgWish(QualifiedId(""), NetworkMode.NAT, name="acme")
    assert [*tenants.wishes([wish], {}, {"acme": OTHER})] == [replace(wish, org=OTHER)]
    assert [*tenants.wishes([wish], {"acme": ACME}, {"acme": OTHER})] == [replace(wish, org=ACME)]


def test_what_a_container_calls_its_org_takes_it_from_no_other_tenant():
    wish = OrgWish(QualifiedId(""), NetworkMode.NAT, name="acme")
    assert [*tenants.wishes([wish], {"umbrella": ACME}, {"acme": ACME})] == [wish]
