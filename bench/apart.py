"""What load lies on Cloud Foundry? A box whose simulated foundation is a process of its own, counted and weighed.

`python -m bench.apart DIRECTORY` is that process: its addresses as one JSON line, then, for each line that it reads,
what its internal policy API answered so far, until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web
from pydantic import TypeAdapter

from bench import busy
from cfbridge.demo.box import Box
from cfbridge.simulator import box, certificates
from cfbridge.simulator.box import Box as Servers
from cfbridge.simulator.box import SimulatedFoundation, SimulatorConfig, serve
from cfbridge.simulator.policy_server import InternalApi
from cfbridge.simulator.state import Foundation
from cfbridge.simulator.tokens import Tokens

_AT_ONCE = 2_000
"""Policies of one request; the real server takes bodies of 10 MiB."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the internal policy API answered, and what the whole process used, since it started."""

    requests: int
    bytes: int
    cpu_seconds: float


@dataclass(slots=True)
class Elsewhere(Servers):
    """Servers in a child process."""

    child: subprocess.Popen[str] = field(kw_only=True)

    async def stop(self) -> None:
        self.child.terminate()
        await asyncio.to_thread(self.child.communicate)

    def load(self) -> Load:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write("\n")
        self.child.stdin.flush()
        return Load(**json.loads(self.child.stdout.readline()))


class BoxApart(Box):
    """`elsewhere` is the foundation in its process; what is pushed in this process does not exist there."""

    elsewhere: Elsewhere

    async def _serve(self) -> Servers:
        directory = self.directory / "cf"
        directory.mkdir()
        command = (sys.executable, "-m", "bench.apart", str(directory))
        child = self._child(*command)
        assert child.stdout is not None
        said = await asyncio.to_thread(child.stdout.readline)
        if not said:
            raise RuntimeError(f"the simulator ended:\n{self.log('simulator')[-3000:]}")
        where = TypeAdapter(SimulatedFoundation).validate_json(said)
        self.elsewhere = Elsewhere(where, Foundation(), Tokens(), certificates.ensure(directory), child=child)
        return self.elsewhere

    def _child(self, *command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        with open(self.directory / "simulator.log", "ab") as complaints:
            return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=complaints, text=True)

    async def __aenter__(self) -> BoxApart:
        await super().__aenter__()
        return self


class Admin:
    """A network admin at the external policy API, with one connection and one token, as a long-running client has."""

    def __init__(self, there: SimulatedFoundation) -> None:
        self._there = there
        self._session = aiohttp.ClientSession()

    async def __aenter__(self) -> Admin:
        login = {"grant_type": "password", "username": "admin", "password": "admin"}
        basic = {"Authorization": aiohttp.encode_basic_auth("cf", "")}
        async with self._session.post(f"{self._there.uaa_url}/oauth/token", data=login, headers=basic) as answer:
            token = (await answer.json())["access_token"]
        self._session.headers["Authorization"] = f"bearer {token}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def add(self, policies: Sequence[tuple[int, int, int]], protocol: str = "tcp") -> None:
        """Returns when the server answered."""
        url = f"{self._there.policy_url}/networking/v1/external/policies"
        for begin in range(0, len(policies), _AT_ONCE):
            body = busy.policy_body(policies[begin : begin + _AT_ONCE], protocol)
            async with self._session.post(url, json=body) as answer:
                if answer.status != 200:
                    raise RuntimeError(f"policies: {answer.status} {await answer.text()}")
                await answer.read()


# --- the child --------------------------------------------------------------------------------------------------------


class _Counted(InternalApi):
    requests = 0
    bytes = 0

    def application(self) -> web.Application:
        made = super().application()

        async def count(request: web.Request, response: web.StreamResponse) -> None:
            _Counted.requests += 1
            body = response.body if isinstance(response, web.Response) else None
            _Counted.bytes += len(body) if isinstance(body, bytes) else 0

        made.on_response_prepare.append(count)
        return made


async def _serve_counted(directory: Path) -> None:
    setattr(box, "InternalApi", _Counted)  # noqa: B010 - the one server that is counted takes the place of the plain one
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, ended.set)

    def tell() -> None:
        if not os.read(0, 4096):
            ended.set()
            return
        times = os.times()
        load = {"requests": _Counted.requests, "bytes": _Counted.bytes, "cpu_seconds": times.user + times.system}
        print(json.dumps(load), flush=True)

    async with await serve(SimulatorConfig(directory, seeded=False, asg_sync_seconds=0)) as running:
        loop.add_reader(0, tell)
        print(json.dumps(running.foundation.as_json()), flush=True)
        await ended.wait()
        loop.remove_reader(0)


if __name__ == "__main__":
    asyncio.run(_serve_counted(Path(sys.argv[1])))
