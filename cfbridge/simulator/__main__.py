"""`python -m cfbridge.simulator DIRECTORY`: which foundation shall run here?"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from cfbridge.simulator.box import SimulatorConfig
from cfbridge.simulator.server import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cfbridge.simulator", description="Run a simulated foundation.")
    parser.add_argument("directory", type=Path, help="where certificates and the client's secret are kept")
    parser.add_argument("--api-port", type=int, default=0)
    parser.add_argument("--uaa-port", type=int, default=0)
    parser.add_argument("--policy-port", type=int, default=0)
    parser.add_argument("--internal-port", type=int, default=0)
    parser.add_argument("--tls", action="store_true", help="HTTPS everywhere, not only on the internal policy API")
    parser.add_argument("--empty", action="store_true", help="start without orgs, apps and security groups")
    parser.add_argument("--self-service", action="store_true", help="space developers need no network.write")
    parser.add_argument("--asg-sync-seconds", type=float, default=0.0)
    options = parser.parse_args()
    config = SimulatorConfig(
        options.directory,
        api_port=options.api_port,
        uaa_port=options.uaa_port,
        policy_port=options.policy_port,
        internal_port=options.internal_port,
        tls=options.tls,
        seeded=not options.empty,
        self_service=options.self_service,
        asg_sync_seconds=options.asg_sync_seconds,
    )
    asyncio.run(run(config))


if __name__ == "__main__":
    main()
