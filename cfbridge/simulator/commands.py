"""What do `cfbridge sim push`, `scale`, `fault` and their like do? One call each to a running box."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from cfbridge.simulator.box import SimulatorConfig
from cfbridge.simulator.server import run
from egress.values import Refused, RefusedError


def serve(config: SimulatorConfig) -> None:
    """`cfbridge sim serve`: until SIGTERM."""
    asyncio.run(run(config))


async def _call(api_url: str, path: str, body: Mapping[str, object] | None, ca: Path | None) -> dict[str, Any]:
    # Imported here: these commands are cheap to name in a CLI that has nothing to do with HTTP.
    import ssl

    import aiohttp

    context = ssl.create_default_context(cafile=str(ca)) if ca is not None else True
    method = "GET" if body is None else "POST"
    timeout = aiohttp.ClientTimeout(total=30)
    url = f"{api_url.rstrip('/')}/__sim/{path}"
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.request(method, url, json=body, ssl=context) as response,
        ):
            answer = orjson.loads(await response.read())
    except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
        raise RefusedError(Refused("UNAVAILABLE", f"No simulated foundation answers at {api_url}: {error}")) from error
    if response.status >= 400:
        raise RefusedError(Refused("SIMULATOR", str(answer["errors"][0]["detail"])))
    return dict(answer)


def _do(api_url: str, path: str, body: Mapping[str, object] | None, ca: Path | None) -> dict[str, Any]:
    given = None if body is None else {name: value for name, value in body.items() if value is not None}
    return asyncio.run(_call(api_url, path, given, ca))


def push(
    api_url: str,
    org: str,
    space: str,
    name: str,
    instances: int | None = None,
    labels: Mapping[str, str] | None = None,
    *,
    ca: Path | None = None,
) -> dict[str, Any]:
    metadata = {"labels": dict(labels)} if labels else None
    body = {"org": org, "space": space, "name": name, "instances": instances, "metadata": metadata}
    return _do(api_url, "apps", body, ca)


def scale(api_url: str, org: str, space: str, name: str, instances: int, *, ca: Path | None = None) -> dict[str, Any]:
    return _do(api_url, "apps/scale", {"org": org, "space": space, "name": name, "instances": instances}, ca)


def stop(api_url: str, org: str, space: str, name: str, *, ca: Path | None = None) -> dict[str, Any]:
    return _do(api_url, "apps/stop", {"org": org, "space": space, "name": name}, ca)


def rename(
    api_url: str, new_name: str, org: str, space: str | None = None, name: str | None = None, *, ca: Path | None = None
) -> dict[str, Any]:
    return _do(api_url, "rename", {"org": org, "space": space, "name": name, "new_name": new_name}, ca)


def delete(
    api_url: str, org: str, space: str | None = None, name: str | None = None, *, ca: Path | None = None
) -> dict[str, Any]:
    return _do(api_url, "delete", {"org": org, "space": space, "name": name}, ca)


def suspend(api_url: str, org: str, *, suspended: bool = True, ca: Path | None = None) -> dict[str, Any]:
    return _do(api_url, "orgs/suspend", {"org": org, "suspended": suspended}, ca)


def end_tokens(api_url: str, *, ca: Path | None = None) -> dict[str, Any]:
    return _do(api_url, "tokens/end", {}, ca)


def rotate_key(api_url: str, *, forget: bool = False, ca: Path | None = None) -> dict[str, Any]:
    return _do(api_url, "tokens/rotate-key", {"forget": forget}, ca)


def renew_certificates(
    api_url: str,
    server_seconds: float | None = None,
    client_seconds: float | None = None,
    *,
    authority: bool = False,
    ca: Path | None = None,
) -> dict[str, Any]:
    body = {"server_seconds": server_seconds, "client_seconds": client_seconds, "authority": authority}
    return _do(api_url, "certificates", body, ca)


def bind_asg(
    api_url: str,
    name: str,
    org: str | None = None,
    space: str | None = None,
    lifecycle: str = "running",
    rules: Sequence[Mapping[str, object]] | None = None,
    *,
    ca: Path | None = None,
) -> dict[str, Any]:
    listed = None if rules is None else [dict(rule) for rule in rules]
    body = {"name": name, "org": org, "space": space, "lifecycle": lifecycle, "rules": listed}
    return _do(api_url, "asgs/bind", body, ca)


def unbind_asg(
    api_url: str,
    name: str,
    org: str | None = None,
    space: str | None = None,
    lifecycle: str = "running",
    *,
    ca: Path | None = None,
) -> dict[str, Any]:
    body = {"name": name, "org": org, "space": space, "lifecycle": lifecycle}
    return _do(api_url, "asgs/unbind", body, ca)


def fault(
    api_url: str,
    service: str,
    mode: str,
    *,
    status: int | None = None,
    seconds: float | None = None,
    path: str | None = None,
    after: int | None = None,
    times: int | None = None,
    ca: Path | None = None,
) -> dict[str, Any]:
    """`mode`: one of `nouns.FAULT_MODES`; `none` takes the fault back."""
    body = {
        "service": service,
        "mode": mode,
        "status": status,
        "seconds": seconds,
        "path": path,
        "after": after,
        "times": times,
    }
    return _do(api_url, "fault", body, ca)


def look(api_url: str, *, ca: Path | None = None) -> dict[str, Any]:
    return _do(api_url, "state", None, ca)
