"""What else can be said? The demo and the version."""

from __future__ import annotations

from importlib import import_module

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
