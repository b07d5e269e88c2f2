"""Are rotated certificates used without a restart, and is the bad one named, with its end and its owner?"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from cfbridge.foundation import certificates, validity
from cfbridge.foundation.client import CloudController, PolicyServer
from cfbridge.settings import FoundationConfig, PolicyServerConfig
from egress.values import Unavailable

Fake = Any  # of conftest.py, which cannot be imported by name
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
CA = trustme.CA(organization_name="first authority")
SECOND = trustme.CA(organization_name="second authority")


def der(leaf: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


def put(folder: Path, leaf: trustme.LeafCert, *authorities: trustme.CA) -> dict[str, str]:
    """What the config of a policy server says about files; as BOSH would write them anew."""
    (folder / "ca.pem").write_bytes(b"".join(authority.cert_pem.bytes() for authority in authorities))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    leaf.private_key_pem.write_to_path(str(folder / "key.pem"))
    names = (("ca", "ca"), ("certificate", "cert"), ("private_key", "key"))
    return {key: str(folder / f"{name}.pem") for key, name in names}


def context(leaf: trustme.LeafCert, *trusted: trustme.CA) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(made)
    for authority in trusted:
        authority.configure_trust(made)
    made.verify_mode = ssl.CERT_REQUIRED if trusted else ssl.CERT_NONE
    return made


def server(authority: trustme.CA = CA, **validity: datetime) -> trustme.LeafCert:
    return authority.issue_cert("127.0.0.1", common_name="policy-server", **validity)


def client(authority: trustme.CA = CA, name: str = "network-policy-client", **validity: datetime) -> trustme.LeafCert:
    return authority.issue_cert("127.0.0.1", common_name=name, **validity)


@pytest.mark.parametrize("key", [trustme.KeyType.RSA, trustme.KeyType.ECDSA])
@pytest.mark.parametrize("ends", [NOW + DAY, datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), NOW.replace(year=2150)])
@pytest.mark.parametrize("name", ["cfbridge", "größer \N{SNOWMAN}"])
def test_a_certificate_is_read_as_a_whole_x509_library_reads_it(
    key: trustme.KeyType, ends: datetime, name: str
) -> None:
    leaf = CA.issue_cert("127.0.0.1", common_name=name, key_type=key, not_before=NOW - DAY, not_after=ends)
    theirs = x509.load_der_x509_certificate(der(leaf))
    ours = validity.read(der(leaf))
    assert (ours.begins, ours.ends) == (theirs.not_valid_before_utc, theirs.not_valid_after_utc)
    assert ours.subject == theirs.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value == name
    assert ours.issuer == theirs.issuer.get_attributes_for_oid(x509.NameOID.ORGANIZATIONAL_UNIT_NAME)[0].value


SAMPLE = der(client())


@given(st.binary(max_size=80) | st.tuples(st.integers(0, len(SAMPLE) - 1), st.binary(min_size=1, max_size=3)))
def test_no_bytes_bring_the_reader_of_certificates_down(given: bytes | tuple[int, bytes]) -> None:
    if isinstance(given, tuple):
        at, other = given
        given = SAMPLE[:at] + other + SAMPLE[at + len(other) :]
    try:
        validity.read(given)
    except ValueError:
        return


async def test_a_rotated_client_certificate_is_shown_without_a_restart(
    fake: Fake, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    shown: list[str] = []
    guarded = type(fake)()

    def note(request: web.Request) -> None:
        assert request.transport is not None
        subject = request.transport.get_extra_info("peercert")["subject"]
        shown.append(dict(pair for (pair,) in subject)["commonName"])

    guarded.before = note
    files = put(tmp_path, client(name="old"), CA)
    async with (
        serve(guarded, context(server(), CA)),
        PolicyServer(PolicyServerConfig(guarded.url, **files)) as asking,
    ):
        await asking.last_updated()
        await asking.last_updated()
        put(tmp_path, client(name="new"), CA)
        await asking.last_updated()
    assert shown == ["old", "old", "new"]


async def test_a_client_certificate_that_ended_is_named_and_a_new_one_ends_the_outage(
    fake: Fake, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    ended = client(not_before=NOW - 20 * DAY, not_after=NOW - 3 * DAY)
    files = put(tmp_path, ended, CA)
    async with (
        serve(type(fake)(), context(server(), CA)) as guarded,
        PolicyServer(PolicyServerConfig(guarded.url, **files)) as asking,
    ):
        with pytest.raises(Unavailable) as said:
            await asking.last_updated()
        assert f"our certificate {files['certificate']} ('network-policy-client', by 'Testing CA" in str(said.value)
        assert f"ended at {NOW - 3 * DAY:%Y-%m-%dT%H:%M:%SZ}" in str(said.value)
        put(tmp_path, client(), CA)
        assert await asking.last_updated() == 1


async def test_a_server_certificate_that_ended_is_named_with_its_server(
    fake: Fake, tmp_path: Path, serve: Callable[..., Any], config: FoundationConfig
) -> None:
    over = server(not_before=NOW - 20 * DAY, not_after=NOW - 3 * DAY)
    files = put(tmp_path, client(), CA)
    async with serve(type(fake)(), context(over)) as there:
        async with PolicyServer(PolicyServerConfig(there.url, **files)) as asking:
            with pytest.raises(Unavailable) as first:
                await asking.last_updated()
        async with CloudController(replace(config, api=there.url, ca=files["ca"])) as controller:
            with pytest.raises(Unavailable) as second:
                await controller.get("/v3/apps")
    said = str(first.value), str(second.value)
    assert said[0].startswith("policy server at")
    assert said[1].startswith("Cloud Controller at")
    for each in said:
        assert f"the certificate of {there.url.removeprefix('https://')} ('policy-server'" in each
        assert f"ended at {NOW - 3 * DAY:%Y-%m-%dT%H:%M:%SZ}: whoever runs that server has to renew it" in each


NEW_AUTHORITY = r"is not by an authority in .*/ca.pem: if the authority is a new"


async def test_a_server_certificate_that_could_not_be_seen_at_one_failure_is_named_at_the_next(
    fake: Fake, tmp_path: Path, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is just being restarted, say, with the certificate that is to blame."""
    over = server(not_before=NOW - 20 * DAY, not_after=NOW - 3 * DAY)
    answers = iter([None])
    monkeypatch.setitem(
        certificates.blame.__kwdefaults__, "shown", lambda url: next(answers, certificates.of_server(url))
    )
    async with (
        serve(type(fake)(), context(over)) as there,
        PolicyServer(PolicyServerConfig(there.url, **put(tmp_path, client(), CA))) as asking,
    ):
        for named in (False, True):
            with pytest.raises(Unavailable) as said:
                await asking.last_updated()
            assert ("ended at" in str(said.value)) is named


async def test_a_policy_server_of_a_new_authority_is_believed_when_that_is_in_the_file(
    fake: Fake, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    files = put(tmp_path, client(SECOND), CA)
    async with (
        serve(type(fake)(), context(server(SECOND), SECOND)) as there,
        PolicyServer(PolicyServerConfig(there.url, **files)) as asking,
    ):
        with pytest.raises(Unavailable, match=NEW_AUTHORITY):
            await asking.last_updated()
        put(tmp_path, client(SECOND), CA, SECOND)
        assert await asking.last_updated() == 1


async def test_a_cloud_controller_of_a_new_authority_is_believed_when_that_is_in_the_file(
    fake: Fake, tmp_path: Path, serve: Callable[..., Any], config: FoundationConfig
) -> None:
    files = put(tmp_path, client(), CA)
    async with (
        serve(type(fake)(), context(server(SECOND))) as there,
        CloudController(replace(config, api=there.url, ca=files["ca"])) as controller,
    ):
        with pytest.raises(Unavailable, match=NEW_AUTHORITY):
            await controller.get("/v3/apps", {"per_page": 1})
        put(tmp_path, client(), CA, SECOND)
        assert await controller.get("/v3/apps", {"per_page": 1})


async def test_files_that_do_not_fit_each_other_are_named_and_read_again(
    fake: Fake, tmp_path: Path, serve: Callable[..., Any]
) -> None:
    files = put(tmp_path, client(), CA)
    async with (
        serve(type(fake)(), context(server(), CA)) as there,
        PolicyServer(PolicyServerConfig(there.url, **files)) as asking,
    ):
        assert await asking.last_updated() == 1
        good = Path(files["private_key"]).read_bytes()
        client().private_key_pem.write_to_path(files["private_key"])
        with pytest.raises(Unavailable, match=r"key.pem can't be used"):
            await asking.last_updated()
        Path(files["private_key"]).write_bytes(good)
        assert await asking.last_updated() == 1


def test_our_certificate_is_an_alarm_from_two_weeks_before_its_end(tmp_path: Path) -> None:
    ends = NOW + 30 * DAY
    files = put(tmp_path, client(not_after=ends), CA)
    config = PolicyServerConfig("https://policy-server:4003", **files)
    assert certificates.ending(config, (ends - 15 * DAY).timestamp()) == ""
    near = certificates.ending(config, (ends - 13 * DAY).timestamp())
    assert f"ends at {ends:%Y-%m-%dT%H:%M:%SZ}" in near
    assert files["certificate"] in near
    assert "ended at" in certificates.ending(config, (ends + DAY).timestamp())


@pytest.mark.parametrize(
    "content", ["", "no certificate", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----"]
)
def test_a_file_without_a_certificate_is_no_alarm_of_its_end(tmp_path: Path, content: str) -> None:
    (tmp_path / "cert.pem").write_text(content)
    for path in (tmp_path / "cert.pem", tmp_path / "nowhere.pem"):
        assert certificates.ending(PolicyServerConfig("https://policy-server", certificate=str(path)), 0) == ""
