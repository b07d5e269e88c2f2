"""`cfbridge explain`: may this connect to that, who says so, and what would let it? For whom it was refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from cfbridge.commands import ask
from cfbridge.commands.ask import Bridge
from egress.values import printable


@click.command()
@ask.options
@click.option("--protocol", type=click.Choice(["tcp", "udp", "icmp", "icmpv6"]), default="tcp", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), help="Of the destination; tcp and udp need one.")
@click.option("-o", "--org", envvar="CFBRIDGE_ORG", default="", help="For an app's name alone; else what cf targets.")
@click.option("-s", "--space", envvar="CFBRIDGE_SPACE", default="", help="The same.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.argument("source")
@click.argument("destination")
def explain(
    bridge: Bridge,
    source: str,
    destination: str,
    protocol: str,
    port: int | None,
    org: str,
    space: str,
    as_json: bool,
) -> int:
    """Say whether SOURCE may connect to DESTINATION: an app, an instance (ORG/SPACE/APP/0), vm:NAME or an address.

    The exit code is 0 for yes and 1 for no.

    \b
    Example:
      cfbridge explain acme/dev/frontend acme/dev/backend --port 8080
    """
    if not (org and space):
        targeted = _targeted()
        org, space = org or targeted[0], space or targeted[1]
    asked = {"source": source, "destination": destination, "protocol": protocol, "org": org, "space": space}
    asked["port"] = str(port or "")
    answer = bridge.get("/explain", {key: value for key, value in asked.items() if value})
    click.echo(json.dumps(answer) if as_json else "\n".join(map(printable, _said(answer))))
    return 0 if answer["verdict"] == "allow" else 1


def _said(answer: Mapping[str, Any]) -> Iterator[str]:
    yield f"{'Yes' if answer['verdict'] == 'allow' else 'No'}: {answer['sentence']}."
    by = answer["decided_by"]
    rule = " ".join(filter(None, (by["rule"], by["sentence"])))
    owner = f"owner {by['owner']}" if by["owner"] else ""
    whose = ", ".join(filter(None, (by["tier"], by["section"], owner, by["provenance"])))
    yield f"decided by   {rule} ({whose})"
    yield f"enforced at  {answer['enforced_at']} ({answer['grade']})"
    yield f"path         {' > '.join(answer['path'])}"
    if remedy := answer["would_allow"]:
        if remedy["command"]:
            yield f"to allow it  {remedy['command']}"
        yield f"by           {remedy['by_whom']}"
    for name in answer["assumed"]:
        yield f"No instance of {name} runs: this is what would happen."
    for pair in answer["otherwise"]:
        yield f"but {pair['source']} to {pair['destination']}: {pair['verdict']} by {pair['rule'] or 'nobody'}"


def _targeted() -> tuple[str, str]:
    """Org and space that the `cf` CLI targets; empty where it targets none."""
    home = os.environ.get("CF_HOME") or os.environ.get("HOME") or ""
    try:
        said = json.loads((Path(home) / ".cf" / "config.json").read_text(encoding="utf-8"))
        return str(said["OrganizationFields"]["Name"]), str(said["SpaceFields"]["Name"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""
