"""What happens in the simulated foundation? What `cf` and an operator would do, and every way in which it may fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from cfbridge.simulator.nouns import FAULT_MODES, SERVICES


@click.group()
def sim() -> None:
    """Change the simulated foundation of the box: what `cf` and an operator would do.

    \b
    Example:
      cfbridge sim push acme/dev/frontend
    """


def _where(command: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """`--api` and `--ca`; prints what the foundation answered."""

    @click.option("--api", envvar="CFBRIDGE_SIM_API", required=True, help="URL of the simulated Cloud Controller.")
    @click.option("--ca", envvar="CFBRIDGE_SIM_CA", type=click.Path(), help="PEM file of its authority.")
    @wraps(command)
    def said(*args: Any, ca: str | None, **kwargs: Any) -> None:
        click.echo(json.dumps(command(*args, ca=Path(ca) if ca else None, **kwargs)))

    return said


class _Thing(click.ParamType):  # type: ignore[type-arg]
    """Names, from the org on, as many as there may be."""

    def __init__(self, *lengths: int) -> None:
        self._lengths = lengths
        self.name = " or ".join("/".join(("ORG", "SPACE", "APP")[:length]) for length in lengths)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        steps = tuple(str(value).split("/"))
        if len(steps) not in self._lengths or not all(steps):
            self.fail(f"{value!r} is no {self.name}", param, ctx)
        return steps


_App = _Thing(3)
_Any = _Thing(1, 2, 3)


@sim.command()
@click.argument("app", type=_App)
@click.option("-i", "--instances", type=click.IntRange(0), help="How many.")
@_where
def push(app: tuple[str, str, str], instances: int | None, api: str, ca: Path | None) -> dict[str, Any]:
    """Push an app; orgs and spaces are made where there are none.

    \b
    Example:
      cfbridge sim push acme/dev/frontend -i 2
    """
    from cfbridge.simulator import commands

    return commands.push(api, *app, instances, ca=ca)


@sim.command()
@click.argument("app", type=_App)
@click.argument("instances", type=click.IntRange(0))
@_where
def scale(app: tuple[str, str, str], instances: int, api: str, ca: Path | None) -> dict[str, Any]:
    """Change the number of an app's instances.

    \b
    Example:
      cfbridge sim scale acme/dev/frontend 3
    """
    from cfbridge.simulator import commands

    return commands.scale(api, *app, instances, ca=ca)


@sim.command()
@click.argument("app", type=_App)
@_where
def stop(app: tuple[str, str, str], api: str, ca: Path | None) -> dict[str, Any]:
    """Stop an app; pushing it starts it again.

    \b
    Example:
      cfbridge sim stop acme/dev/frontend
    """
    from cfbridge.simulator import commands

    return commands.stop(api, *app, ca=ca)


@sim.command()
@click.argument("thing", type=_Any)
@click.argument("new_name")
@_where
def rename(thing: tuple[str, ...], new_name: str, api: str, ca: Path | None) -> dict[str, Any]:
    """Give an org, a space or an app another name.

    \b
    Example:
      cfbridge sim rename acme/dev/frontend web
    """
    from cfbridge.simulator import commands

    return commands.rename(api, new_name, *thing, ca=ca)


@sim.command()
@click.argument("thing", type=_Any)
@_where
def delete(thing: tuple[str, ...], api: str, ca: Path | None) -> dict[str, Any]:
    """Delete an app; or a space or an org, with all that is in it.

    \b
    Example:
      cfbridge sim delete acme/dev/frontend
    """
    from cfbridge.simulator import commands

    return commands.delete(api, *thing, ca=ca)


@sim.command()
@click.argument("org")
@click.option("--off", is_flag=True, help="Take it back.")
@_where
def suspend(org: str, off: bool, api: str, ca: Path | None) -> dict[str, Any]:
    """Suspend an org: what runs in it goes on, and its people may change nothing.

    \b
    Example:
      cfbridge sim suspend acme
    """
    from cfbridge.simulator import commands

    return commands.suspend(api, org, suspended=not off, ca=ca)


def _binding(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option("--lifecycle", type=click.Choice(("running", "staging")), default="running")(command)
    command = click.option("-s", "--space", help="In this space; else in all.")(command)
    command = click.option("-o", "--org", help="The space's org.")(command)
    return click.argument("name")(command)


@sim.command("bind-asg")
@_binding
@click.option("--rules", help="The group's rules as cf takes them: a JSON list. Makes the group where there is none.")
@_where
def bind_asg(
    name: str, org: str | None, space: str | None, lifecycle: str, rules: str | None, api: str, ca: Path | None
) -> dict[str, Any]:
    """Bind a security group.

    \b
    Example:
      cfbridge sim bind-asg public -o acme -s dev
    """
    from cfbridge.simulator import commands

    try:
        listed = None if rules is None else json.loads(rules)
    except ValueError as error:
        raise click.BadParameter(f"this is no JSON: {error}", param_hint="--rules") from error
    return commands.bind_asg(api, name, org, space, lifecycle, listed, ca=ca)


@sim.command("unbind-asg")
@_binding
@_where
def unbind_asg(
    name: str, org: str | None, space: str | None, lifecycle: str, api: str, ca: Path | None
) -> dict[str, Any]:
    """Unbind a security group.

    \b
    Example:
      cfbridge sim unbind-asg public -o acme -s dev
    """
    from cfbridge.simulator import commands

    return commands.unbind_asg(api, name, org, space, lifecycle, ca=ca)


_MODES = "\n".join(f"  {mode:13}{does}" for mode, does in {**FAULT_MODES, "none": "take the fault back"}.items())
_FAULT = f"""Let a service of the foundation misbehave.

\b
Services:
  {", ".join(name.replace("_", "-") for name in SERVICES)}, all

\b
Modes:
{_MODES}

\b
Example:
  cfbridge sim fault policy-server error --status 503
"""


@sim.command(help=_FAULT)
@click.argument("service")
@click.argument("mode", type=click.Choice((*FAULT_MODES, "none")), metavar="MODE")
@click.option("--status", type=int, help="For `error`: which.")
@click.option("--seconds", type=float, help="For `slow`, `drip`, `limited`: how long.")
@click.option("--path", help="Only requests whose path has this.")
@click.option("--after", type=int, help="So many requests are still answered well.")
@click.option("--times", type=int, help="Only so many times.")
@_where
def fault(service: str, mode: str, api: str, ca: Path | None, **more: Any) -> dict[str, Any]:
    from cfbridge.simulator import commands

    return commands.fault(api, service, mode, **more, ca=ca)


@sim.command("end-tokens")
@_where
def end_tokens(api: str, ca: Path | None) -> dict[str, Any]:
    """Let every token that UAA gave so far be over, as after its hours.

    \b
    Example:
      cfbridge sim end-tokens
    """
    from cfbridge.simulator import commands

    return commands.end_tokens(api, ca=ca)


@sim.command("rotate-key")
@click.option("--forget", is_flag=True, help="Nobody believes the older keys any more.")
@_where
def rotate_key(forget: bool, api: str, ca: Path | None) -> dict[str, Any]:
    """Let UAA sign its tokens with another key.

    \b
    Example:
      cfbridge sim rotate-key --forget
    """
    from cfbridge.simulator import commands

    return commands.rotate_key(api, forget=forget, ca=ca)


@sim.command("renew-certificates")
@click.option("--server-seconds", type=float, help="So long the servers' is good; negative: it was over so long ago.")
@click.option("--client-seconds", type=float, help="The same of the client's.")
@click.option("--authority", is_flag=True, help="By a new authority.")
@_where
def renew_certificates(
    server_seconds: float | None, client_seconds: float | None, authority: bool, api: str, ca: Path | None
) -> dict[str, Any]:
    """Give servers and client other certificates in the same files; also some that are over.

    \b
    Example:
      cfbridge sim renew-certificates --client-seconds -60
    """
    from cfbridge.simulator import commands

    return commands.renew_certificates(api, server_seconds, client_seconds, authority=authority, ca=ca)
