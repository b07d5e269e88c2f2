"""Is a file right before a daemon has to live with it? For a job's pre-start, and for people."""

from __future__ import annotations

import click

_KINDS = ("bridge", "agent", "intent")


@click.group()
def config() -> None:
    """Check config files.

    \b
    Example:
      cfbridge config check bridge.yml
    """


@config.command()
@click.argument("file")
@click.option("--kind", type=click.Choice(_KINDS), default="bridge", show_default=True, help="Whose file it is.")
def check(file: str, kind: str) -> None:
    """Read FILE as the daemon would, and the intent file that it names. Says where it is wrong, exits with 1 if it is.

    \b
    Example:
      cfbridge config check bridge.yml
    """
    from cfbridge import config as reading
    from cfbridge import policyfile

    if kind == "agent":
        reading.load_agent(file)
    elif kind == "intent":
        policyfile.load(file)
    else:
        settings = reading.load_bridge(file)
        if settings.intent_file:
            policyfile.load(settings.intent_file)
        if settings.cell is not None and settings.cell.agent_config:
            reading.load_agent(settings.cell.agent_config)
    click.echo(f"{file} is right.")
