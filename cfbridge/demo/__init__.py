"""A foundation in a box: `cfbridge demo`. Brings it up, plays the story, stays up and says what to try."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] = ()) -> int:
    """0 when every step was as expected, 1 when one was not, 2 usage, 3 when the box did not come up."""
    parser = argparse.ArgumentParser(prog="cfbridge demo")
    parser.add_argument("--check", action="store_true", help="play, tell by the exit code, leave nothing")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--keep", action="store_true", help="stay up after --check")
    parser.add_argument("--dataplane", choices=("linux",), default="linux")
    parser.add_argument("--scenario", default="", help="one chapter of the story only")
    given = parser.parse_args(list(arguments))
    if os.geteuid() != 0:
        print("cfbridge demo makes network namespaces: run it as root. (NEEDS_ROOT)", file=sys.stderr)
        return 3
    for tool in ("ip", "nft", "nsenter", "unshare"):
        if shutil.which(tool) is None:
            print(f"cfbridge demo needs {tool}: `make demo` installs it. (TOOL_MISSING)", file=sys.stderr)
            return 3
    return asyncio.run(_play(given))


async def _play(given: argparse.Namespace) -> int:
    from cfbridge.demo import story
    from cfbridge.demo.box import Box
    from cfbridge.demo.report import Report, Step, line

    if given.scenario and given.scenario not in story.CHAPTERS:
        print(f"there is no chapter {given.scenario!r}; there are {', '.join(story.CHAPTERS)}", file=sys.stderr)
        return 2

    def tell(step: Step) -> None:
        print(line(step), flush=True)

    report = Report(given.dataplane, (lambda step: None) if given.json else tell)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with Box() as box:
        playing = asyncio.create_task(story.play(box, report, given.scenario))
        waiting = asyncio.create_task(ended.wait())
        await asyncio.wait((playing, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not playing.done():
            playing.cancel()
            return 3
        waiting.cancel()
        await playing
        if given.json:
            print(report.as_json(), flush=True)
        else:
            failed = sum(not step.ok for step in report.steps)
            print(f"{len(report.steps) - failed} of {len(report.steps)} steps as expected")
        if given.keep or not given.check:
            print(_what_to_try(str(box.directory), box.foundation.foundation.api_url), file=sys.stderr)
            await ended.wait()
    return 0 if report.ok else 1


def _what_to_try(directory: str, api_url: str) -> str:
    return f"""
The box stays up until Ctrl-C. In another terminal:
  export PATH={Path(sys.executable).parent}:$PATH CFBRIDGE_SOCKET={directory}/api.sock
  cfbridge status; cfbridge org list; cfbridge workload list; cfbridge rule list
  cfbridge sim push acme/dev/shop --api {api_url}
  cf api {api_url} --skip-ssl-validation && CF_USERNAME=admin CF_PASSWORD=admin cf auth
  cf target -o acme -s dev && cf add-network-policy frontend worker
Rules and tenants: edit {directory}/intent.yaml
Logs: {directory}/bridge.log, {directory}/agent.log"""
