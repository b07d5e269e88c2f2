"""Is this a rule that Cloud Controller would take? The validator of security group rules, said in its words."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Any

_KEYS = frozenset({"code", "description", "destination", "log", "ports", "protocol", "type"})
_PORTS = re.compile(r"\d{1,5}(?:,\d{1,5})*|\d{1,5}-\d{1,5}")
_MAX_DESTINATIONS = 6000


def faults_of(rules: object) -> list[str]:
    """What is wrong, one sentence per fault; empty = all rules are good."""
    if not isinstance(rules, list):
        return ["Rules must be an array"]
    return [f"Rules[{index}]: {fault}" for index, rule in enumerate(rules) for fault in _faults(rule)]


def _faults(rule: object) -> Sequence[str]:
    if not isinstance(rule, dict):
        return ["must be an object"]
    faults = [f"unknown field(s): ['{key}']" for key in sorted(rule.keys() - _KEYS)]
    protocol = rule.get("protocol")
    if not isinstance(protocol, str) or protocol not in ("tcp", "udp", "icmp", "icmpv6", "all"):
        return [*faults, "protocol must be 'tcp', 'udp', 'icmp', 'icmpv6' or 'all'"]
    faults += _destination_faults(rule.get("destination"))
    if "description" in rule and not isinstance(rule["description"], str):
        faults.append("description must be a string")
    if "log" in rule and not isinstance(rule["log"], bool):
        faults.append("log must be a boolean")
    return [*faults, *_protocol_faults(protocol, rule)]


def _protocol_faults(protocol: str, rule: Mapping[str, Any]) -> list[str]:
    if protocol in ("tcp", "udp"):
        if "ports" not in rule:
            return [f"ports are required for protocols of type TCP and UDP, {protocol} has none"]
        return (
            [] if _good_ports(rule["ports"]) else ["ports must be a valid single port, comma separated list or range"]
        )
    faults = ["ports are not allowed for protocols of type all and ICMP"] if "ports" in rule else []
    if protocol in ("icmp", "icmpv6"):
        for key in ("code", "type"):
            number = rule.get(key)
            if isinstance(number, bool) or not isinstance(number, int) or not -1 <= number <= 255:
                faults.append(f"{key} must be an integer between -1 and 255 (inclusive)")
    return faults


def _good_ports(ports: object) -> bool:
    if not isinstance(ports, str) or not ports.isascii() or not _PORTS.fullmatch(ports.replace(" ", "")):
        return False
    numbers = [int(number) for number in re.split("[,-]", ports.replace(" ", ""))]
    return all(1 <= number <= 65535 for number in numbers) and ("-" not in ports or numbers[0] <= numbers[-1])


def _destination_faults(destination: object) -> list[str]:
    if not isinstance(destination, str) or not destination:
        return ["destination must be a valid CIDR, IP address, or IP address range"]
    if re.search(r"\s", destination):
        return ["destination must not contain whitespace"]
    parts = destination.split(",")
    if len(parts) > _MAX_DESTINATIONS:
        return [f"maximum destinations per rule exceeded - must be under {_MAX_DESTINATIONS}"]
    if all(_good_destination(part) for part in parts):
        return []
    return ["destination must be a valid CIDR, IP address, or IP address range"]


def _good_destination(text: str) -> bool:
    try:
        if "-" in text:
            first, _, last = text.partition("-")
            low, high = ipaddress.ip_address(first), ipaddress.ip_address(last)
            return low.version == high.version and int(low) <= int(high)
        if "/" in text:
            ipaddress.ip_network(text, strict=False)
            return text.partition("/")[2].isdigit()
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
