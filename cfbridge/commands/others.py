"""What else can be said? The demo, the simulated foundation of the box, and the version."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import click


@click.command()
def version() -> None:
    """Say which version this is.

    \b
    Example:
      cfbridge version
    """
    from importlib import metadata

    click.echo(f"cfbridge {metadata.version('cfbridge')}")


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["-h", "--help"]}
)
@click.option("--check", is_flag=True, help="Play the story, exit 0 only if every step was as expected, leave nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object with every step.")
@click.option("--keep", is_flag=True, help="Stay up after --check.")
@click.option("--dataplane", type=click.Choice(("linux",)), help="What enforces.")
@click.option("--scenario", metavar="NAME", help="One story only.")
@click.argument("more", nargs=-1, type=click.UNPROCESSED)
def demo(
    check: bool, as_json: bool, keep: bool, dataplane: str | None, scenario: str | None, more: tuple[str, ...]
) -> int:
    """Bring up a foundation in a box, play a story in it with real packets, and stay up. Needs root.

    \b
    Example:
      cfbridge demo --check
    """
    box = import_module("cfbridge.demo")

    said = [word for word, is_said in (("--check", check), ("--json", as_json), ("--keep", keep)) if is_said]
    said += ["--dataplane", dataplane] if dataplane else []
    said += ["--scenario", scenario] if scenario else []
    return int(box.main([*said, *more]) or 0)


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


class _App(click.ParamType):  # type: ignore[type-arg]
    name = "ORG/SPACE/APP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        steps = tuple(str(value).split("/"))
        if len(steps) != 3 or not all(steps):
            self.fail(f"{value!r} is no ORG/SPACE/APP", param, ctx)
        return steps


@sim.command()
@click.argument("app", type=_App())
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
@click.argument("app", type=_App())
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
@click.argument("app", type=_App())
@click.argument("new_name")
@_where
def rename(app: tuple[str, str, str], new_name: str, api: str, ca: Path | None) -> dict[str, Any]:
    """Give an app another name.

    \b
    Example:
      cfbridge sim rename acme/dev/frontend web
    """
    from cfbridge.simulator import commands

    return commands.rename(api, *app, new_name, ca=ca)


@sim.command()
@click.argument("app", type=_App())
@_where
def delete(app: tuple[str, str, str], api: str, ca: Path | None) -> dict[str, Any]:
    """Delete an app.

    \b
    Example:
      cfbridge sim delete acme/dev/frontend
    """
    from cfbridge.simulator import commands

    return commands.delete(api, *app, ca=ca)


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


@sim.command()
@click.argument("service")
@click.argument("mode", type=click.Choice(("error", "slow", "partial", "garbage", "blank", "empty", "hang", "none")))
@click.option("--status", type=int, help="For `error`: which.")
@click.option("--seconds", type=float, help="For `slow`: how long.")
@click.option("--path", help="Only requests whose path has this.")
@click.option("--times", type=int, help="Only so many times.")
@_where
def fault(
    service: str,
    mode: str,
    status: int | None,
    seconds: float | None,
    path: str | None,
    times: int | None,
    api: str,
    ca: Path | None,
) -> dict[str, Any]:
    """Let a service of the foundation misbehave; `none` takes it back.

    \b
    Example:
      cfbridge sim fault policy-server error --status 503
    """
    from cfbridge.simulator import commands

    return commands.fault(api, service, mode, status=status, seconds=seconds, path=path, times=times, ca=ca)
