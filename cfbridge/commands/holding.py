"""What becomes of what answers withdrew, too much to be believed at once? Shown, believed now, or not believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from cfbridge.commands import ask
from cfbridge.commands.ask import Bridge
from cfbridge.commands.tables import table
from egress.values import printable

_KINDS = ("orgs", "spaces", "apps", "policies", "asgs")


@click.group()
def held() -> None:
    """What foundations withdrew, too much to be believed at once: it stays in force for a while.

    \b
    Example:
      cfbridge held show
    """


def _selecting(command: Callable[..., None]) -> Callable[..., None]:
    """`--foundation`, `--kind`, `--json`, made into the rows that are meant."""

    @ask.options
    @click.option("--foundation", default="", help="Only what is held of this foundation.")
    @click.option("--kind", type=click.Choice(_KINDS), help="Only this kind.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON list.")
    @wraps(command)
    def selected(bridge: Bridge, foundation: str, kind: str | None, as_json: bool) -> None:
        asked = {"foundation": foundation, "kind": kind or ""}
        rows = list(bridge.rows("held", {key: value for key, value in asked.items() if value}))
        if not rows and not as_json:
            click.echo("Nothing is held.")
            return
        command(bridge, rows, as_json)

    return selected


@held.command()
@_selecting
def show(bridge: Bridge, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Show what is held: how much, since when, until when, and some of it.

    It goes when its time is over and three complete looks did not have it; what an answer has again is held no more.

    \b
    Example:
      cfbridge held show --kind policies
    """
    if as_json:
        click.echo(json.dumps(rows))
        return
    lines = [
        [
            row["foundation"],
            row["kind"],
            f"{row['count']} of {row['known']}",
            row["since"],
            row["until"] or "discarded",
            f"{row['looks']} of {row['looks_needed']}" if row["until"] else "",
        ]
        for row in rows
    ]
    click.echo(table(["foundation", "kind", "held", "since", "until", "looks"], lines))
    for row in rows:
        click.echo(f"\n{printable(row['foundation'])} {row['kind']}:")
        for each in row["examples"]:
            click.echo(f"  {printable(each)}")
        if row["count"] > len(row["examples"]):
            click.echo(f"  and {row['count'] - len(row['examples'])} more")


@held.command()
@_selecting
def apply(bridge: Bridge, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Believe the foundation's answer now: what is held is withdrawn at once, its connections are cut.

    \b
    Example:
      cfbridge held apply --foundation cf --kind policies
    """
    _decide(bridge, rows, as_json, "apply", "are withdrawn")


@held.command()
@_selecting
def discard(bridge: Bridge, rows: list[dict[str, Any]], as_json: bool) -> None:
    """Do not believe the foundation's answer: what is held stays in force, however long it answers the same.

    That ends when an answer has some of it again: then the answer is another one, and what it withdraws is judged anew.
    `cfbridge held apply` ends it too. Meanwhile `cfbridge status` is degraded, and says so; additions come in force as
    ever.

    \b
    Example:
      cfbridge held discard --foundation cf --kind policies
    """
    _decide(bridge, rows, as_json, "discard", "stay in force")


def _decide(bridge: Bridge, rows: list[dict[str, Any]], as_json: bool, verdict: str, becomes: str) -> None:
    decided = [(row, bridge.post(f"/held/{row['id']}/{verdict}")) for row in rows]
    if as_json:
        click.echo(json.dumps([said for _, said in decided]))
        return
    for row, said in decided:
        click.echo(f"{said['count']} {row['kind']} of {printable(row['foundation'])} {becomes}.")
