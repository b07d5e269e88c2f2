"""Does the review of rules name them, and say why somebody should look?"""

from __future__ import annotations

import pytest

from cfbridge import cli, policyfile
from cfbridge.api.reviewing import findings
from cfbridge.intent import together
from policy_sync import compiler
from policy_sync.model import World
from tests.cfbridge.api.serving import Running
from tests.cfbridge.api.world import FakeFacade

POLICY = """
groups: {nobody: [], some: [10.0.0.1]}
rules:
  emergency:
    s:
      - {name: all, from: some, action: drop}
      - {name: twice, from: 10.0.0.1, services: [tcp/80], action: drop}
      - {name: against, from: some, action: allow}
      - {name: about nobody, from: nobody, action: drop}
      - {name: over, from: 10.0.0.2, action: allow, expires: 2001-01-01}
  environment:
    s: [{name: onward, from: some, action: pass}, {name: behind, from: some, action: drop}, {name: open, action: allow}]
"""


@pytest.fixture
def facade() -> FakeFacade:
    intent = together(policyfile.read(POLICY))
    world = World(rules=intent.rules, groups=intent.groups)
    ids = {key: number for number, key in enumerate(compiler.rule_keys(world), 1)}
    return FakeFacade(world=world, ruleset=compiler.compile_ruleset(world, ids, now=1e9).ruleset)


def test_each_finding_is_told_by_name_and_in_words(facade: FakeFacade) -> None:
    assert [(row.name, row.finding, row.sentence) for row in findings(facade)] == [
        (
            "twice",
            "redundant",
            "not needed: an earlier rule decides all of it the same ('all': drop from group:some to any)",
        ),
        (
            *("against", "shadowed"),
            "never reached: an earlier rule decides all of it otherwise ('all': drop from group:some to any)",
        ),
        ("about nobody", "empty", "nobody is at one of its ends at the moment"),
        ("over", "empty", "expired"),
        (
            *("behind", "shadowed"),
            "never reached: an earlier rule passes all of it on ('onward': pass from group:some to any)",
        ),
        ("open", "wide", "allows everything to everybody"),
    ]


def test_the_command_shows_them(
    facade: FakeFacade, tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Running(facade, tmp_path)  # type: ignore[arg-type]
    try:
        monkeypatch.setenv("CFBRIDGE_SOCKET", running.socket)
        assert cli.run(["review"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 7
        assert "allows everything to everybody" in lines[-1]
    finally:
        running.close()
