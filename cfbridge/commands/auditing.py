"""Who told the bridge to do what? For people who look, and for programs that keep it elsewhere."""

from __future__ import annotations

import json

import click

from cfbridge.commands import ask
from cfbridge.commands.ask import Bridge
from cfbridge.commands.tables import table


@click.command()
@ask.options
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="So many, the newest first.")
@click.option("--all", "everything", is_flag=True, help="All that there is.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def audit(bridge: Bridge, limit: int, everything: bool, as_json: bool) -> None:
    """Show what people told the bridge to do, the newest first.

    \b
    Example:
      cfbridge audit --all --json
    """
    left, asked = limit, {"limit": "500"}
    rows = []
    while left > 0 or everything:
        page = bridge.get("/audit", asked)
        rows += page["items"] if everything else page["items"][:left]
        left = limit - len(rows)
        if page["next"] is None:
            break
        asked["after"] = page["next"]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
        return
    shown = ("at", "author", "origin", "action", "target")
    lines = [[*(row[key] for key in shown), str(row["status"]), "; ".join(row["detail"].split("\n"))] for row in rows]
    click.echo(table(["at", "who", "from", "did", "to", "status", "changed"], lines))
