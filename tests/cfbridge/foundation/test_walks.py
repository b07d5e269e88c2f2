"""Does anybody else disappear while rows are deleted under the walk through the pages? Of no kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from cfbridge.foundation.client import CloudController
from cfbridge.foundation.watch import FoundationWatch
from cfbridge.settings import FoundationConfig

Fake = Any  # of conftest.py, which cannot be imported by name
LISTS = {
    "orgs": "organizations",
    "spaces": "spaces",
    "apps": "apps",
    "processes": "processes",
    "asgs": "security_groups",
}
NAMES = "abcdefg"


@pytest.fixture
def seven(fake: Fake) -> None:
    """Of each kind, in pages of two."""
    fake.page_size = 2
    for name in NAMES:
        fake.org(name)
        fake.space(name, "a")
        fake.app(name, "a")
        fake.process(name, "a")
        fake.rows["security_groups"].append({"guid": name, "name": name, "rules": []})


@pytest.fixture
async def watch(config: FoundationConfig) -> AsyncIterator[FoundationWatch]:
    config = replace(config, asg_source="cloud-controller", asg_settle_seconds=0.0)
    made = FoundationWatch(config, lambda _: None, controller=CloudController(config, longest_wait=0.01))
    yield made
    await made.close()


def deleting(fake: Fake, path: str, gone: str, times: int) -> Callable[[web.Request], None]:
    """Before the second page of a list is answered, one of its first page goes, so many times."""
    left = list(gone[:times])

    def before(request: web.Request) -> None:
        if left and request.path == f"/v3/{path}" and request.query.get("page") == "2":
            fake.remove(path, left.pop(0))

    return before


@pytest.mark.usefixtures("seven")
@pytest.mark.parametrize("kind", LISTS)
async def test_one_that_is_deleted_during_the_walk_takes_nobody_with_it(
    fake: Fake, watch: FoundationWatch, kind: str
) -> None:
    await watch.look_once()
    fake.before = deleting(fake, LISTS[kind], "a", 1)
    state = await watch.look_once()
    for each in LISTS:
        assert {key.removeprefix("cf:") for key in getattr(state, each)} == {*NAMES} - (
            {"a"} if each == kind else set()
        )
        assert state.looks[each].stale_since is None


@pytest.mark.usefixtures("seven")
@pytest.mark.parametrize("kind", LISTS)
async def test_while_rows_go_under_every_walk_nobody_disappears_and_the_list_is_stale(
    fake: Fake, watch: FoundationWatch, kind: str
) -> None:
    before = await watch.look_once()
    fake.before = deleting(fake, LISTS[kind], "abc", 3)
    during = await watch.look_once()
    assert getattr(during, kind) == getattr(before, kind)
    assert "incomplete" in during.looks[kind].error
    after = await watch.look_once()
    assert {key.removeprefix("cf:") for key in getattr(after, kind)} == set("defg")
    assert after.looks[kind].stale_since is None
