"""How do policy files become what is in force? `plan`, `apply`, `export`, and the revisions that there were."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from cfbridge.commands import ask
from cfbridge.commands.ask import Bridge
from cfbridge.commands.tables import table
from egress.values import Refused, RefusedError, printable

_SIGNS = {"add": "+", "change": "~", "move": ">", "remove": "-"}
_FILE = click.option("-f", "--file", required=True, help="The policy file; - for standard input.")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object.")


@click.command()
@ask.options
@_FILE
@_JSON
def plan(bridge: Bridge, file: str, as_json: bool) -> None:
    """Show what a policy file would change. A file with a scope is compared with that scope, another with the whole.

    \b
    Example:
      cfbridge plan -f policy.yaml
    """
    show_planned(bridge.post("/plan", {"content": _written(file)}), as_json)


@click.command()
@ask.options
@_FILE
@click.option("--reason", default="", help="For whoever reads the history.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_JSON
def apply(bridge: Bridge, file: str, reason: str, yes: bool, as_json: bool) -> None:
    """Publish a policy file: what it says is in force then, and what it no longer says is not.

    At a terminal it shows the changes and asks. If somebody publishes meanwhile, nothing is done.

    \b
    Example:
      cfbridge apply -f policy.yaml --reason SEC-112
    """
    content = _written(file)
    planned = bridge.post("/plan", {"content": content})
    if not planned["changes"]:
        show_planned(planned, as_json)
        return
    if sys.stdin.isatty() and not yes:
        show_planned(planned, as_json=False)
        click.confirm("Publish?", abort=True)
    done = bridge.put("/intent", {"content": content, "reason": reason}, planned["revision"])
    show_done(done, as_json)


@click.command()
@ask.options
@click.option("--scope", default="", help="That team's part only.")
def export(bridge: Bridge, scope: str) -> None:
    """Write the policy file of what is in force; to apply it changes nothing.

    \b
    Example:
      cfbridge export
    """
    click.echo(bridge.get("/intent", {"scope": scope} if scope else {})["content"], nl=False)


@click.group()
def revision() -> None:
    """What was published, and back to it.

    \b
    Example:
      cfbridge revision list
    """


@revision.command(name="list")
@ask.options
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def list_(bridge: Bridge, as_json: bool) -> None:
    """List what was published, the newest first.

    \b
    Example:
      cfbridge revision list
    """
    rows = list(bridge.rows("revisions", {}))
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        click.echo("Nothing was published yet.")
    else:
        lines = [[row[key] for key in ("id", "published_at", "author", "summary", "reason")] for row in rows]
        click.echo(table(["revision", "published", "author", "changes", "reason"], lines))


@revision.command()
@ask.options
@click.argument("number", type=click.IntRange(1))
def show(bridge: Bridge, number: int) -> None:
    """Write the policy file of revision NUMBER.

    \b
    Example:
      cfbridge revision show 7
    """
    click.echo(bridge.get(f"/revisions/{number}/intent")["content"], nl=False)


@revision.command()
@ask.options
@click.argument("number", type=click.IntRange(1))
@click.option("--reason", default="", help="For whoever reads the history.")
@_JSON
def rollback(bridge: Bridge, number: int, reason: str, as_json: bool) -> None:
    """Publish again what revision NUMBER said; nothing of the history is lost.

    \b
    Example:
      cfbridge revision rollback 7 --reason SEC-112
    """
    done = bridge.post(f"/revisions/{number}/rollback", {"reason": reason})
    show_done(done, as_json)


@click.group()
def draft() -> None:
    """Edits that are collected (`--draft NAME`, or CFBRIDGE_DRAFT) before they are published as one revision.

    \b
    Example:
      cfbridge draft list
    """


@draft.command(name="list")
@ask.options
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def list_drafts(bridge: Bridge, as_json: bool) -> None:
    """List drafts.

    \b
    Example:
      cfbridge draft list
    """
    rows = list(bridge.rows("drafts", {}))
    if as_json:
        click.echo(json.dumps(rows))
    elif not rows:
        click.echo("There is no draft.")
    else:
        lines = [[row["id"], row["changed_at"], row["author"], "; ".join(row["edits"])] for row in rows]
        click.echo(table(["draft", "changed", "author", "edits"], lines))


@draft.command(name="show")
@ask.options
@click.argument("name")
@_JSON
def show_draft(bridge: Bridge, name: str, as_json: bool) -> None:
    """Show what draft NAME would change now.

    \b
    Example:
      cfbridge draft show zones
    """
    show_planned(bridge.get(f"/drafts/{name}/plan"), as_json)


@draft.command(name="publish")
@ask.options
@click.argument("name")
@click.option("--reason", default="", help="For whoever reads the history.")
@_JSON
def publish_draft(bridge: Bridge, name: str, reason: str, as_json: bool) -> None:
    """Publish draft NAME as one revision. If somebody changed the same meanwhile, nothing is done.

    \b
    Example:
      cfbridge draft publish zones --reason SEC-112
    """
    show_done(bridge.post(f"/drafts/{name}/publish", {"reason": reason}), as_json)


@draft.command(name="discard")
@ask.options
@click.argument("name")
def discard_draft(bridge: Bridge, name: str) -> None:
    """Throw draft NAME away.

    \b
    Example:
      cfbridge draft discard zones
    """
    bridge.delete(f"/drafts/{name}")
    click.echo(f"Draft {printable(name)} is gone.")


def _written(file: str) -> str:
    try:
        written = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return written.decode("utf-8-sig")
    except OSError as error:
        refused = Refused("FILE_UNREADABLE", f"{file} can not be read: {error.strerror or error}")
    except ValueError:
        refused = Refused("FILE_UNREADABLE", f"{file} is not UTF-8.")
    raise RefusedError(refused)


def show_planned(planned: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(planned))
    else:
        click.echo("\n".join(map(printable, _said(planned))))


def show_done(done: Mapping[str, Any], as_json: bool) -> None:
    show_planned(done, as_json)
    if not as_json and done["changes"]:
        click.echo(f"Revision {done['revision']} is in force.")


def _said(planned: Mapping[str, Any]) -> Iterator[str]:
    for change in planned["changes"]:
        of = f" (scope {change['scope']})" if change["scope"] else ""
        yield f"{_SIGNS[change['deed']]} {change['kind']} {change['name']}{of}"
        for detail in change["details"]:
            yield f"    {detail}"
    summary = planned["summary"]
    yield f"{summary[:1].upper()}{summary[1:]}."
