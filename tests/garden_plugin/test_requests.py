"""Is Garden's stdin read as Garden means it, and is what it never says refused by name?"""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress.values import RefusedError
from garden_plugin.cell import requests
from garden_plugin.wire import Attach, FromAgent, MappedPort, NetOut

RECORDED = Path(__file__).parent / "garden"
CALLS = [json.loads(line) for line in (RECORDED / "calls.jsonl").read_text().splitlines()]
UPS = [call["stdin_raw"].encode() for call in CALLS if "up" in call["argv"]]


def up(document: object) -> requests.Up:
    return requests.up("h", document if isinstance(document, bytes) else json.dumps(document).encode())


def properties(**written: str) -> requests.Up:
    return up({"Pid": 1, "Properties": {"org_id": "o", **written}})


def test_a_recorded_up_is_read_whole() -> None:
    asked = requests.up("37e04217", UPS[0])
    report = asked.report
    assert not asked.isolated
    assert asked.netin == (MappedPort(0, 8080), MappedPort(0, 2222))
    assert (report.org_name, report.space_name, report.app_name, report.instance_index) == (
        "acme",
        "dev",
        "frontend",
        1,
    )
    assert report.app == "1cfc7f0b-41cd-5e8c-a8e0-d8437ad8c5e1"
    assert (report.lifecycle, report.listed_ports) == ("app", (8080,))
    assert report.net_out == (
        NetOut(0, (("0.0.0.0", "9.255.255.255"),)),
        NetOut(1, (("10.0.11.0", "10.0.11.255"),), ((8080, 8090),), log=True),
        NetOut(3, (("0.0.0.0", "255.255.255.255"),), icmp_type=8, icmp_code=0),
    )


@pytest.mark.parametrize("stdin", UPS)
def test_every_recorded_up_is_read(stdin: bytes) -> None:
    assert requests.up("h", stdin).report.handle == "h"


def test_the_other_recorded_actions_are_read() -> None:
    assert requests.net_in((RECORDED / "net-in-0.stdin.json").read_bytes()) == MappedPort(61500, 9090)
    assert requests.net_in((RECORDED / "net-in-1.stdin.json").read_bytes()) == MappedPort(0, 0)
    (rule,) = requests.net_out((RECORDED / "net-out-0.stdin.json").read_bytes())
    assert rule.ports == ((443, 443), (8080, 8090))
    assert len(requests.bulk_net_out((RECORDED / "bulk-net-out-0.stdin.json").read_bytes())) == 3


def test_keys_are_read_in_any_case() -> None:
    assert up({"pid": 7, "properties": {"org_id": "o"}}).report.org == "o"


def test_a_container_without_org_or_with_the_health_check_property_is_isolated() -> None:
    assert up({"Pid": 1}).isolated
    assert up({"Pid": 1, "Properties": None}).isolated
    assert properties(healthcheck="true").isolated
    assert not properties().isolated


def test_absent_rules_mean_none_and_an_absent_protocol_means_all() -> None:
    assert properties().report.net_out == ()
    assert up({"Pid": 1, "netout_rules": [{}]}).report.net_out == (NetOut(),)
    assert requests.bulk_net_out(b'{"container_ip":"","netout_rules":null}') == ()


def test_an_absent_icmp_type_is_echo_reply_and_an_absent_code_is_any() -> None:
    (rule,) = requests.net_out(b'{"netout_rule":{"protocol":3,"icmps":{}}}')
    assert (rule.icmp_type, rule.icmp_code) == (0, None)
    (rule,) = requests.net_out(b'{"netout_rule":{"protocol":3,"icmps":{"type":255,"code":255}}}')
    assert (rule.icmp_type, rule.icmp_code) == (255, 255)
    (rule,) = requests.net_out(b'{"netout_rule":{"protocol":3}}')
    assert rule.icmp_type is None


def test_the_app_is_the_policy_group_where_no_app_is_given() -> None:
    assert properties(policy_group_id="g").report.app == "g"
    assert properties(policy_group_id="g", app_id="a").report.app == "a"


def test_listed_ports_may_be_none_or_many() -> None:
    assert properties(ports="").report.listed_ports == ()
    assert properties(ports="8080, 9090").report.listed_ports == (8080, 9090)


@pytest.mark.parametrize(
    "broken", ["{", "null", "[]", '{"tags":7,"index":"x"}', '{"tags":{"app_name":7}}', "[" * 99_999]
)
def test_a_broken_log_config_costs_the_names_only(broken: str) -> None:
    report = properties(log_config=broken, container_workload="app").report
    assert (report.app_name, report.instance_index) == ("", -1)


def test_names_are_carried_whatever_they_are() -> None:
    name = "ünï'\"\n$(x) 🦊" * 2000
    config = json.dumps({"index": 3, "tags": {"app_name": name}})
    assert properties(log_config=config).report.app_name == name


def test_only_app_instances_have_an_index() -> None:
    config = json.dumps({"index": 3})
    assert properties(log_config=config, container_workload="app").report.instance_index == 3
    assert properties(log_config=config, container_workload="task").report.instance_index == -1


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"Properties": {}}, "pid"),
        ({"Pid": "x"}, "pid"),
        ({"Pid": 1, "Properties": {"org_id": 7}}, "properties"),
        ({"Pid": 1, "Properties": {"org_id": "o", "ports": "80,x"}}, "Properties.ports"),
        ({"Pid": 1, "netin": [{"host_port": 70000}]}, "netin[0].host_port"),
        ({"Pid": 1, "netout_rules": [{"networks": [{}]}]}, "netout_rules[0].networks[0]"),
        ({"Pid": 1, "netout_rules": [{"networks": [{"start": "10.0.0.300"}]}]}, "netout_rules[0].networks[0]"),
        ({"Pid": 1, "netout_rules": [{"networks": [{"start": "::1", "end": "1.1.1.1"}]}]}, "networks[0]"),
        ({"Pid": 1, "netout_rules": [{}, {"ports": [{"start": 9, "end": 8}]}]}, "netout_rules[1].ports[0]"),
        ({"Pid": 1, "netout_rules": [{"icmps": {"type": 256}}]}, "icmps.type"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], field: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        up(document)
    assert field in refusal.value.refused.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
garden_like = st.fixed_dictionaries(
    {},
    optional={
        "Pid": st.integers() | json_values,
        "Properties": st.dictionaries(
            st.sampled_from(["org_id", "app_id", "ports", "log_config", "healthcheck"]), st.text() | json_values
        )
        | json_values,
        "netin": st.lists(st.fixed_dictionaries({}, optional={"host_port": st.integers()})) | json_values,
        "netout_rules": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "protocol": st.integers(-1, 300),
                    "networks": st.lists(st.fixed_dictionaries({}, optional={"start": st.text(), "end": st.text()})),
                    "ports": st.lists(
                        st.fixed_dictionaries({}, optional={"start": st.integers(), "end": st.integers()})
                    ),
                    "icmps": json_values,
                },
            )
        )
        | json_values,
        "netout_rule": json_values,
        "HostPort": json_values,
        "ContainerPort": json_values,
    },
)


@given(st.binary() | (garden_like | json_values).map(lambda v: json.dumps(v).encode()))
def test_any_input_is_read_or_refused(stdin: bytes) -> None:
    for read in (up, requests.net_in, requests.net_out, requests.bulk_net_out):
        with suppress(RefusedError):
            assert read(stdin) is not None


HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(
    ["", "'\";--", "$(reboot)`x`", '\n{"event": "forged"}\n', "\x1b[2J\a", "\u202eevil", "\0", "../../x", "n" * 10_000]
)


@given(st.fixed_dictionaries(dict.fromkeys(("org", "space", "app", "handle", "names"), HOSTILE)))
def test_hostile_words_are_carried_whole_to_the_bridge(said: dict[str, str]) -> None:
    tags = {"organization_name": said["names"], "space_name": said["names"], "app_name": said["names"]}
    known = {"org_id": said["org"], "space_id": said["space"], "app_id": said["app"]}
    document = {"Pid": 1, "Properties": {**known, "log_config": json.dumps({"index": 0, "tags": tags})}}
    report = requests.up(said["handle"], json.dumps(document).encode()).report
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(Attach(1, report)), type=FromAgent)
    assert arrived == Attach(1, report)
    assert (report.handle, report.org, report.space, report.app) == tuple(
        said[key] for key in ("handle", "org", "space", "app")
    )
    assert {report.org_name, report.space_name, report.app_name} == {said["names"]}


@pytest.mark.parametrize("broken", [r'"\ud800"', r'"\udc00\ud800"', '"\x00"', '"\n"'])
def test_half_a_character_is_refused_and_a_broken_name_costs_the_name(broken: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        up(b'{"Pid": 1, "Properties": {"org_id": %s}}' % broken.encode())
    assert len(str(refusal.value)) < 500
    config = f'{{"index": 0, "tags": {{"app_name": {broken}}}}}'
    assert properties(org_id="o", log_config=config).report.app_name == ""


@pytest.mark.parametrize("protocol", [-1, 0, 5, 17, 58, 132, 255, 256])
@pytest.mark.parametrize(
    "icmps", [{}, {"type": -1}, {"type": 255, "code": 255}, {"type": 256}, {"type": 3, "code": -1}]
)
def test_a_rule_of_any_protocol_type_and_code_is_read_or_refused_by_its_place(
    protocol: int, icmps: dict[str, int]
) -> None:
    document = {
        "Pid": 1,
        "netout_rules": [{"protocol": 1, "ports": [{"start": 80}]}, {"protocol": protocol, "icmps": icmps}],
    }
    wrong = not 0 <= protocol <= 255 or any(not 0 <= number <= 255 for number in icmps.values())
    with pytest.raises(RefusedError, match="netout_rules") if wrong else nullcontext():
        assert len(up(document).report.net_out) == 2
