"""What does the bridge know? `status`, and `list` for each kind of thing: tables for people, `--json` for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import click

from cfbridge.commands import ask
from cfbridge.commands.ask import Bridge
from cfbridge.commands.tables import table
from egress.values import printable

DEGRADED = 3

Column = str | tuple[str, Callable[[Mapping[str, Any]], str]]


@click.command()
@ask.options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def status(bridge: Bridge, as_json: bool) -> int:
    """Say in one line whether all is well, and why not. Exits with 3 when something is degraded.

    \b
    Example:
      cfbridge status
    """
    said = bridge.get("/status")
    if as_json:
        click.echo(json.dumps(said))
    else:
        click.echo(printable(said["line"]))
        for reason in said["reasons"][1:]:
            click.echo(f"  {printable(reason)}")
        for alarm in said["alarms"]:
            if alarm["message"] not in said["reasons"]:
                click.echo(f"  {alarm['severity']}: {printable(alarm['message'])} ({alarm['code']})")
    return 0 if said["verdict"] == "ok" else DEGRADED


def _plain(row: Mapping[str, Any], field: str) -> str:
    value = row[field]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _listing(
    name: str,
    resource: str,
    about: str,
    columns: Mapping[str, Column],
    ids: Mapping[str, str],
    filters: tuple[str, ...] = (),
) -> click.Group:
    """`cfbridge NAME list` over one resource. `columns`: heading → field; `ids` are shown with --guids only."""

    @ask.options
    @click.option("--json", "as_json", is_flag=True, help="One JSON list.")
    @click.option("--guids", is_flag=True, help="Show ids too.")
    @click.option("-q", "search", default="", help="Only those with this in some text.")
    def listed(bridge: Bridge, as_json: bool, guids: bool, search: str, **asked: str) -> None:
        query = {key: value for key, value in asked.items() if value}
        rows = list(bridge.rows(resource, {**query, "q": search} if search else query))
        if as_json:
            click.echo(json.dumps(rows))
            return
        shown: dict[str, Column] = {**columns, **(ids if guids else {})}
        if not rows:
            click.echo(f"No {about} found.")
            return
        lines = [[_plain(row, c) if isinstance(c, str) else c[1](row) for c in shown.values()] for row in rows]
        click.echo(table(list(shown), lines))

    listed.__doc__ = f"List {about}.\n\n\b\nExample:\n  cfbridge {name} list\n"
    for field in reversed(filters):
        listed = click.option(f"--{field}", default="", help=f"Only those of this {field}.")(listed)

    def group() -> None:
        pass

    group.__doc__ = f"{about.capitalize()}.\n\n\b\nExample:\n  cfbridge {name} list --json\n"
    commands = click.group(name)(group)
    commands.command("list")(listed)
    return commands


def _mapped(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{port['host_port']}->{port['container_port']}" for port in row["mapped_ports"])


def _stale(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{look['kind']} since {look['stale_since']}" for look in row["looks"] if look["stale_since"])


def _share(row: Mapping[str, Any]) -> str:
    return f"{row['held_share']:.0%}"


def _spaces(row: Mapping[str, Any]) -> str:
    running = ["<all>"] if row["running_default"] else row["running_spaces"]
    staging = ["<all>"] if row["staging_default"] else row["staging_spaces"]
    return ", ".join([*(f"{each} (running)" for each in running), *(f"{each} (staging)" for each in staging)])


def _rules(row: Mapping[str, Any]) -> str:
    return "; ".join(row["rules"])


def _number(row: Mapping[str, Any]) -> str:
    """A rule that was not compiled yet has its key for an id, which is full of GUIDs."""
    return row["id"] if row["id"] != row["key"] else ""


foundation = _listing(
    "foundation",
    "foundations",
    "foundations",
    {
        "name": "name",
        "ready": "ready",
        "orgs": "orgs",
        "spaces": "spaces",
        "apps": "apps",
        "policies": "policies",
        "security groups": "asgs",
        "stale": ("stale", _stale),
    },
    {},
)
cell = _listing(
    "cell",
    "cells",
    "cells",
    {
        "name": "name",
        "foundation": "foundation",
        "connected": "connected",
        "addresses": "addresses",
        "workloads": "workloads",
        "reached": "reached_revision",
        "drifts": "drifts",
    },
    {},
    ("foundation",),
)


@cell.command()
@ask.options
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("name")
def show(bridge: Bridge, as_json: bool, name: str) -> None:
    """Show one cell: how far it is, when it was heard, what drifted.

    \b
    Example:
      cfbridge cell show cell-1
    """
    row = bridge.get(f"/cells/{name}")
    if as_json:
        click.echo(json.dumps(row))
    else:
        fields = [key for key in row if key not in ("id", "name")]
        click.echo(table(["name", row["name"]], [[key.replace("_", " "), _plain(row, key)] for key in fields]))


@cell.command()
@ask.options
@click.argument("name")
def remove(bridge: Bridge, name: str) -> None:
    """Remove a cell that is gone for good: its workloads leave the groups, its addresses rest.

    One that is connected is refused. Should it come back, it is welcome: what it uses is its own.

    \b
    Example:
      cfbridge cell remove cell-9
    """
    bridge.delete(f"/cells/{name}")
    click.echo(f"{printable(name)} is removed.")


org = _listing(
    "org",
    "orgs",
    "orgs",
    {
        "name": "name",
        "mode": "mode",
        "subnets": "subnets",
        "leaves as": "snat_addresses",
        "no way out": "no_way_out",
        "workloads": "workloads",
        "refused": "refusal",
    },
    {"guid": "id"},
    ("foundation", "name"),
)
pool = _listing(
    "pool",
    "pools",
    "pools",
    {
        "name": "name",
        "kind": "kind",
        "prefixes": "prefixes",
        "org subnets": "org_prefix_length",
        "routable": "routable",
        "held": ("held", _share),
    },
    {},
)
policy = _listing(
    "policy",
    "policies",
    "network policies",
    {
        "source": "source_app",
        "destination": "destination_app",
        "protocol": "protocol",
        "ports": "ports",
        "source space": "source_space",
        "source org": "source_org",
        "destination space": "destination_space",
        "destination org": "destination_org",
        "rule": "rule",
    },
    {"source guid": "source_id", "destination guid": "destination_id"},
)
asg = _listing(
    "asg",
    "asgs",
    "security groups",
    {"name": "name", "rules": ("rules", _rules), "spaces": ("spaces", _spaces)},
    {"guid": "id"},
)
workload = _listing(
    "workload",
    "workloads",
    "workloads",
    {
        "name": "name",
        "kind": "kind",
        "addresses": "addresses",
        "cell": "cell",
        "ports": ("ports", _mapped),
        "refused": "refusal",
    },
    {"id": "id", "org guid": "org_id", "space guid": "space_id", "app guid": "app_id"},
    ("org", "space", "app", "cell"),
)
rule = _listing(
    "rule",
    "rules",
    "rules",
    {
        "rule": ("id", _number),
        "tier": "tier",
        "section": "section",
        "name": "name",
        "what it says": "sentence",
        "in force": "in_force",
        "from": "provenance",
    },
    {"key": "key"},
    ("tier", "section"),
)
vm = _listing(
    "vm",
    "vms",
    "virtual machines",
    {
        "name": "name",
        "addresses": "addresses",
        "org": "org",
        "port": "port",
        "cell": "cell",
        "grade": "grade",
        "tags": "tags",
    },
    {"id": "id", "org guid": "org_id"},
)
group = _listing(
    "group",
    "groups",
    "groups",
    {"name": "name", "members": "members", "criteria": "criteria", "changed by": "trust"},
    {},
)


@click.command()
@ask.options
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def review(bridge: Bridge, as_json: bool) -> None:
    """Show rules that somebody should look at: never reached, not needed, about nobody, or far too wide.

    \b
    Example:
      cfbridge review
    """
    rows = list(bridge.rows("review", {}))
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        click.echo("Nothing stands out.")
    else:
        columns = ("rule", "tier", "section", "name", "finding", "sentence")
        click.echo(table([*columns[:-1], "why"], [[row[column] for column in columns] for row in rows]))
