"""Do tokens end, keys rotate and certificates change in a running foundation as they do in a real one?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from cfbridge.foundation import certificates as looking
from cfbridge.simulator import certificates, commands
from cfbridge.simulator.box import Box, SimulatorConfig, serve
from egress.values import RefusedError
from tests.cfbridge.simulator.test_faults import status


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[Box]:
    """A box whose certificates are its own: these tests change them."""
    async with await serve(SimulatorConfig(tmp_path)) as running:
        yield running


def token_of(box: Box) -> dict[str, str]:
    return {"Authorization": f"bearer {box.tokens.for_client(box.state.clients['cfbridge'])[0]}"}


async def numbers(box: Box) -> int:
    """The status of an answer to the client with its certificate as it is now, on a new connection."""
    connector = aiohttp.TCPConnector(ssl=certificates.client_context(box.certificates))
    async with aiohttp.ClientSession(connector=connector) as session:
        return await status(session, f"{box.foundation.internal_url}/networking/v1/internal/policies_last_updated", {})


async def test_tokens_that_were_ended_are_refused_and_new_ones_are_not(
    session: aiohttp.ClientSession, box: Box
) -> None:
    url, old = f"{box.foundation.api_url}/v3/apps", token_of(box)
    assert await status(session, url, old) == 200
    await asyncio.to_thread(commands.end_tokens, box.foundation.api_url)
    assert await status(session, url, old) == 401
    assert await status(session, url, token_of(box)) == 200


@pytest.mark.parametrize(("forget", "of_the_old"), [(False, 200), (True, 401)])
async def test_a_token_lives_as_long_as_its_key_is_believed(
    session: aiohttp.ClientSession, box: Box, forget: bool, of_the_old: int
) -> None:
    url, old = f"{box.foundation.api_url}/v3/apps", token_of(box)
    await asyncio.to_thread(commands.rotate_key, box.foundation.api_url, forget=forget)
    assert await status(session, url, old) == of_the_old
    assert await status(session, url, token_of(box)) == 200


async def test_a_client_whose_certificate_is_over_gets_no_answer(own: Box) -> None:
    assert await numbers(own) == 200
    await asyncio.to_thread(commands.renew_certificates, own.foundation.api_url, client_seconds=-60)
    with pytest.raises(aiohttp.ClientError):
        await numbers(own)
    await asyncio.to_thread(commands.renew_certificates, own.foundation.api_url)
    assert await numbers(own) == 200


async def test_a_server_whose_certificate_is_over_goes_on_and_is_not_believed(own: Box) -> None:
    connector = aiohttp.TCPConnector(ssl=certificates.client_context(own.certificates))
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"{own.foundation.internal_url}/networking/v1/internal/policies_last_updated"
        assert await status(session, url, {}) == 200
        await asyncio.to_thread(commands.renew_certificates, own.foundation.api_url, server_seconds=-60)
        with pytest.raises(aiohttp.ClientConnectorCertificateError, match="expired"):
            # Not on the connection that was there: it ended.
            await status(session, url, {})


async def test_a_new_authority_signs_for_server_and_client(own: Box) -> None:
    before = own.certificates.ca.read_bytes()
    await asyncio.to_thread(commands.renew_certificates, own.foundation.api_url, authority=True)
    assert own.certificates.ca.read_bytes() != before
    assert await numbers(own) == 200


async def test_certificates_end_when_they_are_told_to(own: Box) -> None:
    said = await asyncio.to_thread(commands.renew_certificates, own.foundation.api_url, 3600, 7200)
    server = await asyncio.to_thread(looking.of_server, own.foundation.internal_url)
    client = looking.of_file(str(own.certificates.client_cert))
    assert server is not None
    assert client is not None
    assert server.ends.isoformat() == said["server_ends"].partition(".")[0] + "+00:00"
    assert client.ends.isoformat() == said["client_ends"].partition(".")[0] + "+00:00"


async def test_a_moment_that_is_none_is_refused_in_words(own: Box) -> None:
    with pytest.raises(RefusedError, match="number of seconds from now"):
        await asyncio.to_thread(commands.renew_certificates, own.foundation.api_url, 1e12)
