"""Is a daemon told exactly what its file says, or refused in words?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cfbridge import config
from cfbridge.settings import BridgeConfig, WithdrawalConfig
from egress.model import NetworkMode, PoolKind
from egress.values import Refused, RefusedError
from garden_plugin.settings import AgentConfig

WHOLE = """
foundations:
  - name: cf-prod
    api: https://api.sys.example.com
    client_id: cfbridge
    client_secret_file: /var/vcap/jobs/cfbridge/config/uaa-secret
    policy_server:
      url: https://policy-server.service.cf.internal:4003
      ca: /certs/ca.pem
      certificate: /certs/client.pem
      private_key: /certs/client.key
store: sqlite:////var/vcap/store/cfbridge/state.db
dataplane: {kind: linux}
pools:
  - {name: overlay, kind: container, prefixes: [10.240.0.0/14, "fd00:cf::/48"], org_prefix_length: 24}
  - {name: routable-a, kind: container, prefixes: [172.20.0.0/16], org_prefix_length: 24, routable: true}
  - {name: snat, kind: snat, prefixes: [203.0.113.0/26], reserved: {acme: [203.0.113.7]}}
defaults: {mode: nat, mtu: 1400, dns_servers: [169.254.0.54]}
cell: {name: cell-1, uplinks: [eth0], mapped_ports: 61000-61999}
api: {listen: ["unix:/run/cfbridge/api.sock", "127.0.0.1:8443"]}
"""

SMALL: dict[str, Any] = {
    "foundations": [
        {
            "name": "cf",
            "api": "https://api.example.com",
            "client_id": "cfbridge",
            "client_secret_file": "/secret",
            "policy_server": {"url": "https://policy-server:4003"},
        }
    ],
    "pools": [{"name": "overlay", "kind": "container", "prefixes": ["10.240.0.0/14"]}],
}


def refusal(written: str | bytes) -> Refused:
    with pytest.raises(RefusedError) as raised:
        config.read_bridge(written)
    return raised.value.refused


def changed(path: str, value: Any) -> str:
    """SMALL with one value set, as JSON."""
    document = json.loads(json.dumps(SMALL))
    *way, last = path.split(".")
    at = document
    for step in way:
        at = at[int(step)] if isinstance(at, list) else at[step]
    at[last] = value
    return json.dumps(document)


def test_when_a_withdrawal_is_held_can_be_said_of_each_foundation() -> None:
    said = {"share": 0.5, "count": 100, "window_seconds": 60, "hold_seconds": 5, "hold_looks": 2}
    (foundation,) = config.read_bridge(changed("foundations.0.withdrawals", said)).foundations
    assert foundation.withdrawals == WithdrawalConfig(0.5, 100, 60.0, 5.0, 2)
    (silent,) = config.read_bridge(json.dumps(SMALL)).foundations
    assert silent.withdrawals == WithdrawalConfig(0.2, 10, 600.0, 60.0, 3)
    assert silent.asg_settle_seconds == 10.0


def test_the_documented_file_is_read_whole() -> None:
    read = config.read_bridge(WHOLE)
    (foundation,) = read.foundations
    assert (foundation.name, foundation.policy_server.ca) == ("cf-prod", "/certs/ca.pem")
    assert [pool.kind for pool in read.pools] == [PoolKind.CONTAINER, PoolKind.CONTAINER, PoolKind.SNAT]
    assert read.pools[0].prefixes == ("10.240.0.0/14", "fd00:cf::/48")
    assert read.pools[2].reserved == (("acme", ("203.0.113.7",)),)
    assert (read.defaults.mode, read.mtu, read.firewall.dns_listeners) == (NetworkMode.NAT, 1400, ("169.254.0.54",))
    assert read.api.listen == ("unix:/run/cfbridge/api.sock", "127.0.0.1:8443")
    assert read.cell is not None
    assert read.cell.agent is not None
    assert (read.cell.agent.uplinks, read.cell.agent.mapped_ports) == (("eth0",), (61000, 61999))
    assert (read.cell.agent.bridge, read.cell.agent.mtu) == (read.agent_socket, 1400)


def test_json_says_the_same_as_yaml() -> None:
    assert config.read_bridge(json.dumps(yaml.safe_load(WHOLE))) == config.read_bridge(WHOLE)


def test_json_indented_with_tabs_is_read() -> None:
    assert config.read_bridge(json.dumps(SMALL, indent="\t")) == config.read_bridge(json.dumps(SMALL))


def test_an_unknown_key_names_its_path_and_the_nearest_known_one() -> None:
    refused = refusal(WHOLE.replace("client_id:", "clientid:"))
    assert refused.code == "UNKNOWN_KEY"
    assert refused.field == "foundations[0].clientid"
    assert "did you mean 'client_id'?" in refused.message
    assert "line 5, column 15" in refused.message


def test_an_unknown_key_in_json_names_its_path() -> None:
    refused = refusal(changed("foundations.0.policy_server.uri", "x"))
    assert refused.field == "foundations[0].policy_server.uri"
    assert "'url'" in refused.message


@pytest.mark.parametrize(
    ("written", "says"),
    [
        (
            "name: cf-prod",
            "name: no",
        ),
        ("name: cf-prod", "name: 52:54:00:12:34:56"),
        ("name: cf-prod", "name: 0777"),
        ("name: cf-prod", "name: 12:30"),
    ],
)
def test_what_yaml_would_guess_is_to_be_quoted(written: str, says: str) -> None:
    refused = refusal(WHOLE.replace(written, says))
    assert "put it in quotes" in refused.message
    assert refused.field == "foundations[0].name"


@pytest.mark.parametrize(
    ("path", "value", "field", "says"),
    [
        ("foundations", [], "foundations", "at least one"),
        ("foundations.0.name", "a:b", "foundations[0].name", "letters"),
        ("foundations.0.api", "ftp://x", "foundations[0].api", "URL"),
        ("foundations.0.api", "https://[x", "foundations[0].api", "URL"),
        ("foundations.0.asg_source", "policy-servr", "foundations[0].asg_source", "did you mean 'policy-server'?"),
        ("foundations.0.skip_tls_verify", "yes", "foundations[0].skip_tls_verify", "true or false"),
        ("foundations.0.withdrawals", {"shares": 0.5}, "foundations[0].withdrawals.shares", "did you mean 'share'?"),
        ("foundations.0.withdrawals", {"share": 20}, "foundations[0].withdrawals.share", "between 0 and 1"),
        ("foundations.0.withdrawals", {"count": -1}, "foundations[0].withdrawals.count", "0 or more"),
        ("foundations.0.withdrawals", {"hold_looks": 0}, "foundations[0].withdrawals.hold_looks", "1 or more"),
        ("foundations.0.asg_settle_seconds", -1, "foundations[0].asg_settle_seconds", "number of seconds"),
        ("foundations.0.sweep_seconds", 0, "foundations[0].sweep_seconds", "more than 0"),
        ("pools.0.kind", "containers", "pools[0].kind", "none of container, snat"),
        ("pools.0.prefixes", ["10.240.0.1/14"], "pools[0].prefixes[0]", "host bits"),
        ("pools.0.prefixes", "10.240.0.0/14", "pools[0].prefixes", "a list"),
        ("pools.0.org_prefix_length", 31, "pools[0].org_prefix_length", "org_prefix_length"),
        ("pools.0.reserved", {"acme": ["10.9.0.1"]}, "pools[0].reserved.acme[0]", "outside"),
        ("store", "mysql://x", "store", "sqlite"),
        ("dataplane", {"kind": "ovs"}, "dataplane.kind", "linux"),
        ("dataplane", {}, "dataplane", "kind is missing"),
        ("defaults", {"mode": "bridged"}, "defaults.mode", "routed, nat, shared"),
        ("defaults", {"mtu": 100}, "defaults.mtu", "1280"),
        ("defaults", {"dns_servers": ["169.254.0"]}, "defaults.dns_servers[0]", "169.254.0"),
        ("firewall", {"host_tcp_services": ["10.0.0.1"]}, "firewall.host_tcp_services[0]", "address:port"),
        ("api", {"listen": ["unix:api.sock"]}, "api.listen[0]", "absolute"),
        ("api", {"listen": ["0.0.0.0:8443"]}, "api", "must not travel in clear"),
        ("cell", {"uplinks": ["eth0"]}, "cell", "name is missing"),
        ("cell", {"name": "c", "uplinks": []}, "cell", "uplinks"),
        ("cell", {"name": "c", "uplinks": ["eth0"], "mapped_ports": "7-5"}, "cell.mapped_ports", "range of ports"),
        ("cell", {"name": "c", "agent_config": "/a", "uplinks": ["eth0"]}, "cell.uplinks", "own file"),
    ],
)
def test_a_bad_value_is_refused_by_its_path(path: str, value: Any, field: str, says: str) -> None:
    refused = refusal(changed(path, value))
    assert (refused.field, says in refused.message) == (field, True), refused


def test_a_missing_key_is_named() -> None:
    document = json.loads(json.dumps(SMALL))
    del document["foundations"][0]["policy_server"]["url"]
    assert "url is missing" in refusal(json.dumps(document)).message


def test_overlapping_pools_are_refused_by_name() -> None:
    pools = [*SMALL["pools"], {"name": "second", "kind": "container", "prefixes": ["10.241.0.0/16"]}]
    refused = refusal(changed("pools", pools))
    assert (refused.code, refused.field) == ("POOL_OVERLAP", "pools[1].prefixes[0]")
    assert "overlay" in refused.message


def test_a_second_cell_is_refused_on_linux() -> None:
    cells = [{"name": name, "uplinks": ["eth0"]} for name in ("cell-1", "cell-2")]
    assert refusal(changed("cell", cells)).code == "LINUX_IS_ONE_CELL"


def test_a_key_given_twice_is_refused() -> None:
    assert "twice" in refusal(WHOLE + "store: sqlite:////other.db\n").message
    assert "twice" in refusal('{"store": "sqlite:///a", "store": "sqlite:///b"}').message


def test_aliases_are_refused() -> None:
    assert "anchors" in refusal("pools: &x []\nfoundations: *x\n").message


def test_what_is_no_yaml_names_the_line() -> None:
    assert "line 3" in refusal("store: a\npools:\n\t- x\n").message


def test_endless_nesting_is_refused() -> None:
    assert "nest" in refusal("pools: " + "[" * 5000).message  # in our words or in the parser's
    assert "nested" in refusal('{"pools": ' + "[" * 500 + "]" * 500 + "}").message


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"missing\.yml can not be read"):
        config.load_bridge(str(tmp_path / "missing.yml"))


def test_a_range_written_past_the_last_port_ends_there() -> None:
    read = config.read_bridge(WHOLE.replace("61000-61999", "61000-65999"))
    assert read.cell is not None
    assert read.cell.agent is not None
    assert read.cell.agent.mapped_ports == (61000, 65535)


def test_an_agent_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.yml"
    path.write_text(
        "cell: cell-1\nsocket: /run/agent.sock\nstate_dir: /state\nbridge: /run/bridge.sock\n"
        "uplinks: [eth0]\nmtu: auto\nmapped_ports: 61000-61009\n"
    )
    expected = AgentConfig("cell-1", "/run/agent.sock", "/state", "/run/bridge.sock", ("eth0",))
    assert config.load_agent(str(path)) == AgentConfig(
        expected.cell,
        expected.socket,
        expected.state_dir,
        expected.bridge,
        expected.uplinks,
        mapped_ports=(61000, 61009),
    )


def test_the_cells_own_addresses_are_one_of_each_family() -> None:
    agent = "cell: c\nsocket: /s\nstate_dir: /d\nbridge: /b\nuplinks: [eth0]\n"
    read = config.read_agent(agent + "host_address: 10.0.0.5\nhost_address6: 2001:DB8::0:5\n")
    assert (read.host_address, read.host_address6) == ("10.0.0.5", "2001:db8::5")
    for wrong in ("host_address: 2001:db8::5\n", "host_address6: 10.0.0.5\n"):
        refused = outcome(agent + wrong, config.read_agent)
        assert refused.field == wrong.partition(":")[0]


def test_an_agents_settings_survive_being_written_for_the_child() -> None:
    read = config.read_bridge(WHOLE)
    assert read.cell is not None
    assert read.cell.agent is not None
    assert config.read_agent(config.agent_document(read.cell.agent)) == read.cell.agent


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["no", "10.0.0.0/8"])
known_keys = st.sampled_from(
    [
        "foundations",
        "name",
        "pools",
        "kind",
        "prefixes",
        "cell",
        "api",
        "listen",
        "reserved",
        "policy_server",
        "defaults",
    ]
)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(known_keys | st.text(), inner), max_leaves=12
)


def outcome(written: str, read: Any = config.read_bridge) -> Any:
    """The value, or the refusal. Anything else is a bug and ends the test."""
    try:
        return read(written)
    except RefusedError as raised:
        return raised.refused


@given(documents)
def test_no_document_raises_anything_but_a_refusal(document: Any) -> None:
    for written in (json.dumps(document), yaml.dump(document, allow_unicode=True)):
        assert isinstance(outcome(written), BridgeConfig | Refused)
        assert isinstance(outcome(written, config.read_agent), AgentConfig | Refused)


@given(st.binary() | st.text().map(lambda t: t.encode("utf-8", "replace")))
def test_no_bytes_raise_anything_but_a_refusal(written: bytes) -> None:
    with pytest.raises(RefusedError):
        config.read_bridge(written)


@given(st.sampled_from([*sorted(SMALL["foundations"][0]), "ca", "delta_seconds"]), documents)
def test_no_foundation_field_raises_anything_but_a_refusal(key: str, value: Any) -> None:
    found = outcome(changed(f"foundations.0.{key}", value))
    assert isinstance(found, BridgeConfig) or found.field.startswith("foundations")


@given(st.sampled_from(["prefixes", "reserved", "org_prefix_length", "kind", "routable"]), documents)
def test_no_pool_field_raises_anything_but_a_refusal(key: str, value: Any) -> None:
    found = outcome(changed(f"pools.0.{key}", value))
    assert isinstance(found, BridgeConfig) or found.field.startswith("pools")
