"""How is one group, rule, machine or tag changed by command? Each as a revision of its own, or `--plan` first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import click

from cfbridge.commands import ask
from cfbridge.commands.ask import Bridge
from cfbridge.commands.publishing import show_done, show_planned
from cfbridge.commands.reading import group, rule, vm
from egress.values import Refused, RefusedError

Asking = Callable[[str, Sequence[str], Any], None]
"""Method, steps of the path, body."""


def _editing(command: Callable[..., None]) -> Callable[..., None]:
    """`--plan`, `--why`, `--scope`, `--json` and where the bridge is, made into the first argument."""

    @ask.options
    @click.option("--plan", is_flag=True, help="Say what would change, and change nothing.")
    @click.option("--draft", envvar="CFBRIDGE_DRAFT", default="", help="Keep it in that draft; publish nothing.")
    @click.option("--why", default="", help="For whoever reads the history.")
    @click.option("--scope", default="", help="Whose, of what is new.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON object.")
    @wraps(command)
    def edited(*, bridge: Bridge, plan: bool, draft: str, why: str, scope: str, as_json: bool, **more: Any) -> None:
        query = {"plan": "true" if plan else "", "draft": draft, "reason": why, "scope": scope}

        def ask_for(method: str, steps: Sequence[str], body: Any) -> None:
            answer = bridge.edit(method, steps, {key: value for key, value in query.items() if value}, body)
            (show_planned if plan or draft else show_done)(answer, as_json)

        command(ask_for, **more)

    return edited


# Groups ---------------------------------------------------------------------------------------------------------------


@group.command(name="set")
@_editing
@click.argument("name")
@click.option("--criteria", help='An expression, as: tag tier = "db"')
@click.option("--member", "members", multiple=True, help="vm:NAME, ORG/SPACE/APP, org:ORG, an address, group:NAME.")
def set_group(ask_for: Asking, name: str, criteria: str | None, members: tuple[str, ...]) -> None:
    """Set group NAME: who satisfies the criteria, and the members by name.

    \b
    Example:
      cfbridge group set mainframe --member 10.20.0.0/16
    """
    if criteria is None and not members:
        raise click.UsageError("Name --criteria or at least one --member.")
    said = {"members": list(members)} | ({} if criteria is None else {"criteria": criteria})
    ask_for("PUT", ("groups", name), said)


@group.command(name="remove")
@_editing
@click.argument("name")
def remove_group(ask_for: Asking, name: str) -> None:
    """Take group NAME away. One that a rule or a group names stays.

    \b
    Example:
      cfbridge group remove old
    """
    ask_for("DELETE", ("groups", name), None)


# Machines and tags ----------------------------------------------------------------------------------------------------


def _machine(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--tag", "tags", multiple=True, help="KEY=VALUE; repeat it for more."),
        click.option("--cell", help="Where it is plugged in."),
        click.option("--port", help="Host device, tap or veth; without one its grade is peer."),
        click.option("--org", help="Whose network it is in."),
        click.option("--address", "addresses", multiple=True, required=True, help="Repeat it for more."),
        click.argument("name"),
    ):
        command = option(command)
    return command


def _set_machine(ask_for: Asking, name: str, tags: tuple[str, ...], **said: Any) -> None:
    body = {key: list(value) if isinstance(value, tuple) else value for key, value in said.items() if value}
    ask_for("PUT", ("vms", name), {**body, "tags": dict(map(_pair, tags))})


@vm.command(name="add")
@_editing
@_machine
def add_vm(ask_for: Asking, name: str, **said: Any) -> None:
    """Register machine NAME. With a port it is protected outside the guest.

    \b
    Example:
      cfbridge vm add db-2 --address 10.240.3.12 --org acme --port tap-db2 --tag tier=db
    """
    _set_machine(ask_for, name, **said)


@vm.command(name="set")
@_editing
@_machine
def set_vm(ask_for: Asking, name: str, **said: Any) -> None:
    """Say machine NAME anew, as a whole.

    \b
    Example:
      cfbridge vm set db-1 --address 10.240.3.11
    """
    _set_machine(ask_for, name, **said)


@vm.command(name="remove")
@_editing
@click.argument("name")
def remove_vm(ask_for: Asking, name: str) -> None:
    """Take machine NAME away. One that a rule or a group names stays.

    \b
    Example:
      cfbridge vm remove old
    """
    ask_for("DELETE", ("vms", name), None)


@click.group()
def tag() -> None:
    """Our own tags of orgs, spaces, apps and machines, which groups can ask for.

    \b
    Example:
      cfbridge tag add org:acme env=prod
    """


@tag.command(name="add")
@_editing
@click.argument("whose")
@click.argument("pairs", nargs=-1, required=True, metavar="KEY=VALUE...")
def add_tag(ask_for: Asking, whose: str, pairs: tuple[str, ...]) -> None:
    """Set tags of WHOSE: org:ORG, space:ORG/SPACE, ORG/SPACE/APP or vm:NAME.

    \b
    Example:
      cfbridge tag add vm:old tier=db
    """
    ask_for("PATCH", ("tags", whose), {"tags": dict(map(_pair, pairs))})


@tag.command(name="remove")
@_editing
@click.argument("whose")
@click.argument("keys", nargs=-1)
def remove_tag(ask_for: Asking, whose: str, keys: tuple[str, ...]) -> None:
    """Take tags of WHOSE away: those that are named, or all.

    \b
    Example:
      cfbridge tag remove vm:old tier
    """
    if keys:
        ask_for("PATCH", ("tags", whose), {"tags": dict.fromkeys(keys)})
    else:
        ask_for("DELETE", ("tags", whose), None)


def _pair(written: str) -> tuple[str, str]:
    key, equals, value = written.partition("=")
    if not equals:
        raise RefusedError(Refused("TAG_INVALID", f"{written!r} is no tag; write KEY=VALUE."))
    return key, value


# Rules ----------------------------------------------------------------------------------------------------------------

_TIERS = ("emergency", "infrastructure", "environment", "application", "baseline")


def _saying(command: Callable[..., None]) -> Callable[..., None]:
    """What a rule says."""
    for option in (
        click.option("--expires", help="Of an allow: a day or a moment."),
        click.option("--owner", help="Whom to ask."),
        click.option("--reason", help="Why it is there."),
        click.option("--mode", type=click.Choice(["enforce", "watch"]), help="watch decides nothing."),
        click.option("--log/--no-log", default=None, help="Log what it decides."),
        click.option("--applied-to", multiple=True, help="Only connections with a protected end in it."),
        click.option("--action", type=click.Choice(["allow", "drop", "reject", "pass"])),
        click.option("--service", "services", multiple=True, help="tcp/5432, udp/5000-5100, icmp/8; else all."),
        click.option("--to", multiple=True, help="Whom; a group's name, or as a group's member. Else any."),
        click.option("--from", "from_", multiple=True, help="Who; the same."),
    ):
        command = option(command)
    return command


def _placed(command: Callable[..., None]) -> Callable[..., None]:
    """Where a rule stands."""
    for option in (
        click.option("--after", help="Name of the rule that it stands after."),
        click.option("--before", help="Name of the rule that it stands before."),
        click.option("--section", help="At the end of it."),
        click.option("--tier", type=click.Choice(_TIERS)),
    ):
        command = option(command)
    return command


def _body(said: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """What was said on the command line."""
    named = {"from_": "from"}
    given = ((key, value) for key, value in said if value is not None and value != ())
    return {named.get(key, key): list(value) if isinstance(value, tuple) else value for key, value in given}


@rule.command(name="add")
@_editing
@click.argument("name")
@_placed
@_saying
def add_rule(ask_for: Asking, name: str, **said: Any) -> None:
    """Add rule NAME: at the end of its tier's section, or before or after another rule.

    \b
    Example:
      cfbridge rule add cut --tier emergency --section quarantine --to vm:old --action drop
    """
    ask_for("POST", ("rules",), {"name": name, **_body(said.items())})


@rule.command(name="set")
@_editing
@click.argument("name")
@_saying
def set_rule(ask_for: Asking, name: str, **said: Any) -> None:
    """Change what rule NAME (or R42) says; what is not named stays.

    \b
    Example:
      cfbridge rule set first --mode watch
    """
    ask_for("PATCH", ("rules", name), _body(said.items()))


@rule.command(name="move")
@_editing
@click.argument("name")
@_placed
def move_rule(ask_for: Asking, name: str, **said: Any) -> None:
    """Move rule NAME (or R42) before or after another, or to the end of a section.

    \b
    Example:
      cfbridge rule move second --before first
    """
    ask_for("PATCH", ("rules", name), _body(said.items()))


@rule.command(name="enable")
@_editing
@click.argument("name")
def enable_rule(ask_for: Asking, name: str) -> None:
    """Bring rule NAME (or R42) in force.

    \b
    Example:
      cfbridge rule enable first
    """
    ask_for("PATCH", ("rules", name), {"enabled": True})


@rule.command(name="disable")
@_editing
@click.argument("name")
def disable_rule(ask_for: Asking, name: str) -> None:
    """Keep rule NAME (or R42), and let it decide nothing.

    \b
    Example:
      cfbridge rule disable first
    """
    ask_for("PATCH", ("rules", name), {"enabled": False})


@rule.command(name="remove")
@_editing
@click.argument("name")
def remove_rule(ask_for: Asking, name: str) -> None:
    """Take rule NAME (or R42) away.

    \b
    Example:
      cfbridge rule remove first
    """
    ask_for("DELETE", ("rules", name), None)
