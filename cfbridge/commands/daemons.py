"""How are the daemons started? Read the config, set up the log, run until told to end."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cfbridge.settings import BridgeConfig

_LEVELS = click.Choice(("debug", "info", "warning", "error"))


@click.command()
@click.option("--config", "path", required=True, help="The bridge's config file.")
@click.option("--log-level", type=_LEVELS, default="info", show_default=True)
def serve(path: str, log_level: str) -> None:
    """Run the bridge until SIGTERM. The dataplane stays as it is when it ends.

    \b
    Example:
      cfbridge serve --config /var/vcap/jobs/cfbridge/config/bridge.yml
    """
    from cfbridge import bridge, config, log

    settings = config.load_bridge(path)
    log.configure(log_level)
    asyncio.run(bridge.run(with_agent_file(settings)))


def with_agent_file(settings: BridgeConfig) -> BridgeConfig:
    """An agent is a process of its own with a file of its own: what the bridge's file says for it is written there."""
    from cfbridge import config

    cell = settings.cell
    if cell is None or cell.agent is None:
        return settings
    path = Path(settings.state_dir) / "agent.json"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(config.agent_document(cell.agent))
    fresh.replace(path)
    return replace(settings, cell=replace(cell, agent_config=str(path)))


@click.command()
@click.option("--config", "path", required=True, help="The agent's config file.")
@click.option("--log-level", type=_LEVELS, default="info", show_default=True)
def agent(path: str, log_level: str) -> None:
    """Run the agent of a cell, in the network namespace that it shall program. It works on without a bridge.

    \b
    Example:
      cfbridge agent --config /var/vcap/jobs/cfbridge/config/agent.yml
    """
    import structlog

    from cfbridge import config, log
    from garden_plugin import agent as cell_agent

    settings = config.load_agent(path)
    log.configure(log_level)
    asyncio.run(cell_agent.run(settings, structlog.get_logger("garden_plugin")))
