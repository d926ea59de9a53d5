"""Every rule on a topology, with the line and the place it names.

Each case edits the example topology: it replaces a text by another, in which the comment `# here`
marks the line that must be named.
"""

from pathlib import Path

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from dataplane.topology import Topology, TopologyError, parse_topology

EXAMPLE = (Path(__file__).parent / "topologies" / "contoso.yaml").read_text()

HUB = "  - {name: contoso-hub, region: eastus, address_space: [10.9.0.0/16]}\n"
FABRIKAM = "  - {name: fabrikam, region: westus, address_space: [10.0.0.0/16]}\n"
TCP_RULE = "        - {protocol: tcp, frontend_port: 443, backend_port: 8443}\n"
FABRIKAM_ENDPOINT = "    virtual_network: fabrikam\n    ip: 10.0.1.5\n"
ON_PREMISES = "    on_premises: [192.168.100.0/24]\n"
NAT_IPS = "    nat_ips: [192.168.50.4, 192.168.50.5]\n"
NAT = "      profile: azure-pls\n"
LINK_ID = "    link_id: 553665985\n"
POOL = "      backend_pool: [192.168.61.4, 192.168.61.5]\n"
EVENTS = "events: []\n"


def problems_of(old: str, new: str) -> list[tuple[int | None, str, str]]:
    """What is wrong after an edit; the same must be found without a file."""
    assert EXAMPLE.count(old) == 1, f"the edit is not unique: {old}"
    text = EXAMPLE.replace(old, new)
    with pytest.raises(TopologyError) as caught:
        parse_topology(text)
    data = YAML(typ="safe", pure=True).load(text)
    with pytest.raises(ValidationError) as direct:
        Topology.model_validate(data)
    assert direct.value.error_count() == len(caught.value.problems)
    return [tuple(problem) for problem in caught.value.problems]


def line_of_mark(text: str) -> int:
    lines = [number for number, line in enumerate(text.splitlines(), 1) if "# here" in line]
    assert len(lines) == 1
    return lines[0]


FIELD_CASES = [
    pytest.param(
        "    region: eastus\n",
        "    regoin: eastus  # here\n",
        "virtual_networks[0].regoin",
        "unknown key regoin; did you mean region?",
        id="unknown key",
    ),
    pytest.param(
        LINK_ID,
        "    zzz:  # here\n      - 1\n",
        "private_endpoints[0].zzz",
        "unknown key zzz; Keys here: name, virtual_network, ip",
        id="unknown key like no other",
    ),
    pytest.param(
        HUB,
        HUB + "  - {name: x}  # here\n",
        "virtual_networks[2].address_space",
        "is missing; the key is required",
        id="missing key",
    ),
    pytest.param(
        HUB,
        HUB + "  - x  # here\n",
        "virtual_networks[2]",
        "is x, but must be a mapping with the keys name, region",
        id="text for a mapping",
    ),
    pytest.param(
        HUB,
        HUB + "  - {name: x, address_space: 10.0.0.0/8}  # here\n",
        "virtual_networks[2].address_space",
        "is 10.0.0.0/8, but must be a list",
        id="text for a list",
    ),
    pytest.param(
        HUB,
        HUB + "  - {name: x, address_space: []}  # here\n",
        "virtual_networks[2].address_space",
        "is an empty list; at least 1 needed",
        id="empty address space",
    ),
    pytest.param(
        NAT_IPS,
        "    nat_ips: []  # here\n",
        "private_link_services[0].nat_ips",
        "is an empty list; at least 1 needed",
        id="no NAT IP",
    ),
    pytest.param(
        HUB,
        HUB + "  - name: x\n    address_space:\n      - 10.8.0.0/16\n      - 10.7.0.1/16  # here\n",
        "virtual_networks[2].address_space[1]",
        "10.7.0.1/16 has bits set beyond its length; write 10.7.0.0/16",
        id="host bits",
    ),
    pytest.param(
        HUB,
        HUB + "  - {name: 12, address_space: [10.8.0.0/16]}  # here\n",
        "virtual_networks[2].name",
        '12 is not text; write it in quotes: "12"',
        id="number for a name",
    ),
    pytest.param(
        HUB,
        HUB + "  - {name: a b, address_space: [10.8.0.0/16]}  # here\n",
        "virtual_networks[2].name",
        "a b is not a name; names have 1 to 80",
        id="bad name",
    ),
    pytest.param(
        TCP_RULE,
        "        - {protocol: icmp, frontend_port: 443, backend_port: 8443}  # here\n",
        "private_link_services[0].load_balancer.rules[0].protocol",
        "icmp is none of the choices: tcp, udp",
        id="unknown word",
    ),
    pytest.param(
        TCP_RULE,
        "        - {protocol: tcp, frontend_port: 0, backend_port: 8443}  # here\n",
        "private_link_services[0].load_balancer.rules[0].frontend_port",
        "0 is too small; the least is 1",
        id="port 0",
    ),
    pytest.param(
        TCP_RULE,
        "        - {protocol: tcp, frontend_port: 443, backend_port: 65536}  # here\n",
        "private_link_services[0].load_balancer.rules[0].backend_port",
        "65536 is too large; the most is 65535",
        id="port 65536",
    ),
    pytest.param(
        TCP_RULE,
        '        - {protocol: tcp, frontend_port: "443", backend_port: 8443}  # here\n',
        "private_link_services[0].load_balancer.rules[0].frontend_port",
        "is 443, but must be a whole number",
        id="port as text",
    ),
    pytest.param(
        "      spill: true\n",
        "      spill: yes  # here\n",
        "private_link_services[0].nat.spill",
        "is yes, but must be true or false",
        id="yes is a word in YAML 1.2",
    ),
    pytest.param(
        "      ports_per_endpoint: null\n",
        "      ports_per_endpoint: 0  # here\n",
        "private_link_services[0].nat.ports_per_endpoint",
        "0 is too small; the least is 1",
        id="cap of nothing",
    ),
    pytest.param(
        "      sessions_per_backend: null\n",
        "      sessions_per_backend: 0  # here\n",
        "private_link_services[0].nat.sessions_per_backend",
        "0 is too small; the least is 1",
        id="no sessions",
    ),
    pytest.param(
        "      nat_ports: 1024-65535\n",
        "      nat_ports: 2000-1024  # here\n",
        "private_link_services[0].nat.nat_ports",
        "2000-1024 is not a port range",
        id="range backwards",
    ),
    pytest.param(
        "tcp_half_open: 30s, ",
        "tcp_half_open: 0s,  # here\n        ",
        "private_link_services[0].nat.timeouts.tcp_half_open",
        "must be longer than 0s",
        id="timeout of nothing",
    ),
    pytest.param(
        "      port_hold: 0s\n",
        "      port_hold: 10  # here\n",
        "private_link_services[0].nat.port_hold",
        "10 needs a unit: write 10s",
        id="duration without unit",
    ),
    pytest.param(
        NAT,
        "      profile: aws  # here\n",
        "private_link_services[0].nat.profile",
        "aws is none of the choices: azure-pls, azure-natgw, azure-slb, gcp-psc, rfc, linux, vpp",
        id="unknown profile",
    ),
    pytest.param(
        "      port_allocation: random\n",
        "      port_allocation: lowest  # here\n",
        "private_link_services[0].nat.port_allocation",
        "lowest is none of the choices: random, sequential, preserve, hash, hash_buckets, block",
        id="unknown allocation",
    ),
    *(
        pytest.param(
            NAT,
            f"{NAT}      probes: {written}  # here\n",
            "private_link_services[0].nat.probes",
            message,
            id=f"probes {written}"[:30],
        )
        for written, message in (
            ("0", "0 is not a number of ports to look at; write 1 to 65535, a list of these"),
            ("65536", "65536 is not a number of ports to look at; write 1 to 65535"),
            ("true", "true is not a number of ports"),
            ('"10"', "10 is not a number of ports"),
            ("1.0", "1.0 is not a number of ports"),
            ("{}", "a mapping is not a number of ports"),
            ("[8, 0]", "0 is not a number of ports"),
            ("[8, null]", "empty is not a number of ports"),
            ("[[8]]", "a list is not a number of ports"),
            ("[]", "is a list of 0 runs; write 1 to 64, or null for an exact search"),
            (str([1] * 65), "is a list of 65 runs; write 1 to 64, or null for an exact search"),
        )
    ),
    *(
        pytest.param(
            "      port_allocation: random\n",
            f"      port_allocation: {allocation}\n      probes: {probes}  # here\n",
            "private_link_services[0].nat.probes",
            f"{shown} does not go with port_allocation {allocation}; write null, or allocate by one of "
            "random, preserve, hash, hash_buckets",
            id=f"{shown} of probes for {allocation}",
        )
        for allocation, probes, shown in (("sequential", "10", "10"), ("block", "[8, 4]", "a list"))
    ),
    pytest.param(
        NAT,
        NAT + "      block_size: 0  # here\n",
        "private_link_services[0].nat.block_size",
        "0 is too small; the least is 1",
        id="blocks of nothing",
    ),
    pytest.param(
        NAT,
        NAT + "      blocks_per_endpoint: 0  # here\n",
        "private_link_services[0].nat.blocks_per_endpoint",
        "0 is too small; the least is 1",
        id="no blocks",
    ),
    pytest.param(
        NAT,
        NAT + "      icmp: echo  # here\n",
        "private_link_services[0].nat.icmp",
        "echo is none of the choices: none, errors, all",
        id="unknown ICMP",
    ),
    pytest.param(
        NAT,
        NAT + "      fragments: true  # here\n",
        "private_link_services[0].nat.fragments",
        "true is none of the choices: drop, translate",
        id="unknown fragments",
    ),
    pytest.param(
        NAT,
        NAT + "      tcp: first_fin  # here\n",
        "private_link_services[0].nat.tcp",
        "is first_fin, but must be a mapping with the keys closing, reset, reopen, closing_refresh",
        id="tcp as a word",
    ),
    pytest.param(
        NAT,
        NAT + "      tcp:  # here\n",
        "private_link_services[0].nat.tcp",
        "is empty, but must be a mapping with the keys closing",
        id="tcp left empty",
    ),
    *(
        pytest.param(
            NAT,
            f"{NAT}      tcp:\n        reset: final\n        {written}  # here\n",
            f"private_link_services[0].nat.tcp.{written.partition(':')[0]}",
            message,
            id=f"tcp {written}",
        )
        for written, message in (
            ("closing: both", "both is none of the choices: both_fins, first_fin"),
            ("reopen: true", "true is none of the choices: new_session, handshake"),
            ("reopen: null", "empty is none of the choices: new_session, handshake"),
            ("closing_refresh: yes", "is yes, but must be true or false"),
            ("zzz: true", "unknown key zzz; Keys here: closing, reset, reopen, closing_refresh"),
            ("closing_refersh: true", "did you mean closing_refresh?"),
        )
    ),
    *(
        pytest.param(
            "timeouts: {tcp_established: 300s, ",
            f"timeouts: {{{written},  # here\n        tcp_established: 300s, ",
            f"private_link_services[0].nat.timeouts.{written.partition(':')[0]}",
            message,
            id=f"timeout {written}",
        )
        for written, message in (
            ("tcp_half_closed: 0s", "must be longer than 0s"),
            ("udp_unreplied: 5", "5 needs a unit: write 5s"),
            ("icmp: null", "is empty, but must be a duration"),
        )
    ),
    pytest.param(
        TCP_RULE,
        "        - {protocol: tcp, frontend_port: 443, backend_port: 1, idle_timeout: 0s}  # here\n",
        "private_link_services[0].load_balancer.rules[0].idle_timeout",
        "must be longer than 0s",
        id="idle time-out of nothing",
    ),
    pytest.param(
        TCP_RULE,
        "        - {protocol: tcp, frontend_port: 443, backend_port: 1, idle_timeout: 4}  # here\n",
        "private_link_services[0].load_balancer.rules[0].idle_timeout",
        "4 needs a unit: write 4s",
        id="idle time-out without unit",
    ),
    pytest.param(
        LINK_ID,
        "    link_id: 4294967296  # here\n",
        "private_endpoints[0].link_id",
        "4294967296 is too large; the most is 4294967295",
        id="link id beyond 32 bits",
    ),
    pytest.param(
        "    connection: approved\n",
        "    connection: aproved  # here\n",
        "private_endpoints[0].connection",
        "aproved is none of the choices: pending, approved, rejected, disconnected",
        id="unknown state",
    ),
    pytest.param(
        EVENTS, "events:  # here\n", "events", "is empty; write a list, [] for none", id="list left empty"
    ),
    pytest.param(
        EVENTS,
        "limits: 5  # here\n",
        "limits",
        "5 is none of the choices: azure, none",
        id="unknown limits",
    ),
]

WHOLE_CASES = [
    pytest.param(
        HUB,
        HUB + "  - {name: backbone, address_space: [10.8.0.0/16]}  # here\n",
        "virtual_networks[2].name",
        "backbone is the point between the networks",
        id="network named backbone",
    ),
    pytest.param(
        HUB,
        HUB + "  - {name: contoso, address_space: [10.8.0.0/16]}  # here\n",
        "virtual_networks[2].name",
        "contoso is already virtual_networks[0].name; names of virtual_networks are unique",
        id="network twice",
    ),
    pytest.param(
        EVENTS,
        "  - name: pe-contoso  # here\n    virtual_network: contoso\n    ip: 10.0.1.6\n    target: orders\n",
        "private_endpoints[2].name",
        "pe-contoso is already private_endpoints[0].name; names of private_endpoints are unique",
        id="endpoint twice",
    ),
    pytest.param(
        "    virtual_network: contoso\n",
        "    virtual_network: cotoso  # here\n",
        "private_endpoints[0].virtual_network",
        "no virtual network is named cotoso; did you mean contoso?",
        id="endpoint in an unknown network",
    ),
    pytest.param(
        "  - name: invoices\n    virtual_network: provider\n",
        "  - name: invoices\n    virtual_network: nowhere  # here\n",
        "private_link_services[1].virtual_network",
        "no virtual network is named nowhere; there are: contoso, contoso-hub, fabrikam, provider",
        id="service in an unknown network",
    ),
    pytest.param(
        "    target: invoices\n",
        "    target: invoice  # here\n",
        "private_endpoints[1].target",
        "no service is named invoice; did you mean invoices?",
        id="unknown target",
    ),
    pytest.param(
        "    peered_with: [contoso-hub]\n",
        "    peered_with: [contoso-hub, spoke]  # here\n",
        "virtual_networks[0].peered_with[1]",
        "no virtual network is named spoke",
        id="peered with nobody",
    ),
    pytest.param(
        "    peered_with: [contoso-hub]\n",
        "    peered_with: [contoso]  # here\n",
        "virtual_networks[0].peered_with[0]",
        "contoso is this network itself",
        id="peered with itself",
    ),
    pytest.param(
        "    peered_with: [contoso-hub]\n",
        "    peered_with:\n      - contoso-hub\n      - contoso-hub  # here\n",
        "virtual_networks[0].peered_with[1]",
        "contoso-hub is listed twice",
        id="peered twice",
    ),
    pytest.param(
        "    peered_with: [contoso-hub]\n",
        "    peered_with:\n      - contoso-hub\n      - fabrikam  # here\n",
        "virtual_networks[0].peered_with[1]",
        "10.0.0.0/16 of contoso overlaps 10.0.0.0/16 of fabrikam, but contoso and fabrikam are peered",
        id="peered networks overlap",
    ),
    pytest.param(
        FABRIKAM,
        "  - name: fabrikam\n    address_space: [10.0.0.0/16]\n    peered_with: [contoso-hub]  # here\n",
        "virtual_networks[2].peered_with[0]",
        "10.0.0.0/16 of contoso overlaps 10.0.0.0/16 of fabrikam, but both are peered with contoso-hub",
        id="two peers of one network overlap",
    ),
    pytest.param(
        HUB,
        "  - {name: contoso-hub, address_space: [10.9.0.0/16], peered_with: [fabrikam]}  # here\n",
        "virtual_networks[1].peered_with[0]",
        "10.0.0.0/16 of contoso overlaps 10.0.0.0/16 of fabrikam, but both are peered with contoso-hub",
        id="two peers overlap, each peering written on another side",
    ),
    pytest.param(
        HUB,
        "  - name: contoso-hub\n    address_space:\n      - 10.9.0.0/16\n      - 10.9.1.0/24  # here\n",
        "virtual_networks[1].address_space[1]",
        "10.9.1.0/24 overlaps 10.9.0.0/16 in the same address space",
        id="an address space overlaps itself",
    ),
    pytest.param(
        FABRIKAM_ENDPOINT,
        "    virtual_network: fabrikam\n    ip: 10.1.0.5  # here\n",
        "private_endpoints[1].ip",
        "10.1.0.5 is not in fabrikam's address space 10.0.0.0/16; choose an address in it",
        id="endpoint outside its network",
    ),
    pytest.param(
        FABRIKAM_ENDPOINT,
        "    virtual_network: contoso\n    ip: 10.0.1.5  # here\n",
        "private_endpoints[1].ip",
        "10.0.1.5 is already private_endpoints[0].ip in contoso",
        id="two endpoints with one address",
    ),
    pytest.param(
        FABRIKAM_ENDPOINT,
        FABRIKAM_ENDPOINT + "    link_id: 553665985  # here\n",
        "private_endpoints[1].link_id",
        "553665985 is already private_endpoints[0].link_id",
        id="link id twice",
    ),
    pytest.param(
        NAT_IPS,
        "    nat_ips: [192.168.50.4, 10.0.0.4]  # here\n",
        "private_link_services[0].nat_ips[1]",
        "10.0.0.4 is not in provider's address space 192.168.0.0/16",
        id="NAT IP outside",
    ),
    pytest.param(
        NAT_IPS,
        "    nat_ips:\n      - 192.168.50.4\n      - 192.168.50.4  # here\n",
        "private_link_services[0].nat_ips[1]",
        "192.168.50.4 is listed twice",
        id="NAT IP twice",
    ),
    pytest.param(
        "    nat_ips: [192.168.51.4]\n",
        "    nat_ips: [192.168.50.5]  # here\n",
        "private_link_services[1].nat_ips[0]",
        "192.168.50.5 is already a NAT IP of orders; services in one network may not share NAT IPs",
        id="NAT IP of two services",
    ),
    pytest.param(
        NAT_IPS,
        "    nat_ips: [192.168.61.5]  # here\n",
        "private_link_services[0].nat_ips[0]",
        "192.168.61.5 is also a backend (private_link_services[0].load_balancer.backend_pool[1])",
        id="NAT IP is a backend",
    ),
    pytest.param(
        NAT_IPS,
        "    nat_ips: [192.168.60.11]  # here\n",
        "private_link_services[0].nat_ips[0]",
        "192.168.60.11 is also a load balancer's frontend (private_link_services[1]",
        id="NAT IP is the frontend of another service",
    ),
    pytest.param(
        FABRIKAM_ENDPOINT,
        "    virtual_network: provider\n    ip: 192.168.50.4  # here\n",
        "private_endpoints[1].ip",
        "192.168.50.4 is also a NAT IP in provider",
        id="endpoint is a NAT IP",
    ),
    pytest.param(
        FABRIKAM_ENDPOINT,
        "    virtual_network: provider\n    ip: 192.168.61.4  # here\n",
        "private_endpoints[1].ip",
        "192.168.61.4 is also a backend",
        id="endpoint is a backend",
    ),
    pytest.param(
        POOL,
        "      backend_pool: [192.168.61.4, 10.0.0.1]  # here\n",
        "private_link_services[0].load_balancer.backend_pool[1]",
        "10.0.0.1 is not in provider's address space",
        id="backend outside",
    ),
    pytest.param(
        POOL,
        "      backend_pool:\n        - 192.168.61.4\n        - 192.168.61.4  # here\n",
        "private_link_services[0].load_balancer.backend_pool[1]",
        "192.168.61.4 is listed twice",
        id="backend twice",
    ),
    pytest.param(
        TCP_RULE,
        TCP_RULE + "        - {protocol: TCP, frontend_port: 443, backend_port: 1}  # here\n",
        "private_link_services[0].load_balancer.rules[1].frontend_port",
        "tcp port 443 already has a rule at private_link_services[0].load_balancer.rules[0]",
        id="two rules for one port",
    ),
    pytest.param(
        "    enable_proxy_protocol: false\n",
        "    enable_proxy_protocol: true  # here\n",
        "private_link_services[0].enable_proxy_protocol",
        "proxy protocol is not yet supported",
        id="proxy protocol",
    ),
    pytest.param(
        '    visibility: ["*"]\n',
        "    visibility: [a-subscription]  # here\n",
        "private_link_services[0].visibility",
        'a visibility other than ["*"] is not yet supported',
        id="visibility",
    ),
    pytest.param(
        "    security_rules: []\n",
        "    security_rules:  # here\n"
        "      - {name: a, priority: 100, action: Allow, protocol: Tcp, source: 10.0.0.0/8, "
        "destination_ports: [443]}\n",
        "private_endpoints[0].security_rules",
        "security rules are not yet supported",
        id="security rules",
    ),
]


@pytest.mark.parametrize(("old", "new", "path", "message"), FIELD_CASES + WHOLE_CASES)
def test_a_fault_is_named_with_line_place_and_rule(old: str, new: str, path: str, message: str) -> None:
    (problem,) = problems_of(old, new)
    assert problem[:2] == (line_of_mark(EXAMPLE.replace(old, new)), path)
    assert message in problem[2]


def test_approval_of_who_cannot_see_the_service_is_refused() -> None:
    new = "    visibility: [a]\n    auto_approval: [b]\n"
    found = problems_of('    visibility: ["*"]\n    auto_approval: []\n', new)
    assert [(line, path) for line, path, _ in found] == [
        (17, "private_link_services[0].visibility"),
        (18, "private_link_services[0].auto_approval[0]"),
    ]
    assert "b is approved but cannot see the service" in found[1][2]


def test_a_platform_service_and_its_endpoint_are_not_yet_supported() -> None:
    platform = (
        "platform_services:\n  - {name: NAME, kind: storage, sub_resource: blob, frontend_ip: 52.239.1.10}\n"
    )
    found = problems_of(EVENTS, platform.replace("NAME", "contosodata"))
    assert [path for _, path, _ in found] == ["platform_services"]
    found = problems_of(EVENTS, platform.replace("NAME", "orders"))
    assert {path for _, path, _ in found} == {
        "platform_services",
        "platform_services[0].name",
        "private_endpoints[0].target",
    }
    assert any("orders is already a private link service" in message for _, _, message in found)
    assert any("a target not yet supported" in message for _, _, message in found)


def test_faults_of_events_and_of_what_is_not_yet_supported_are_named_too() -> None:
    rules = (
        "    security_rules:\n"
        "      - {name: a, priority: 100, action: allow}\n"
        "      - {name: a, priority: 100, action: allow}\n"
        "      - {name: b, priority: 99, action: drop}\n"
    )
    found = {path: message for _, path, message in problems_of("    security_rules: []\n", rules)}
    at = "private_endpoints[0].security_rules"
    assert set(found) == {at, f"{at}[1].name", f"{at}[1].priority", f"{at}[2].priority", f"{at}[2].action"}

    events = (
        "events:\n"
        "  - {at: 1s, approve: nobody}\n"
        "  - {at: 2s, backend_up: nothing, address: 192.168.61.4}\n"
        "  - {at: 3s, backend_down: orders, address: 192.168.61.9}\n"
        "  - {at: 4s}\n"
        "  - {at: 5s, add_nat_ip: orders}\n"
        "  - {at: 6s, reject: pe-contoso, address: 192.168.61.4}\n"
        "  - {at: 7, reject: pe-contoso}\n"
    )
    found = {path: message for _, path, message in problems_of(EVENTS, events)}
    assert "no private endpoint is named nobody" in found["events[0].approve"]
    assert "no private link service is named nothing" in found["events[1].backend_up"]
    assert "192.168.61.9 is not a backend of orders" in found["events[2].address"]
    assert "has 0 actions" in found["events[3]"]
    assert "add_nat_ip needs an address" in found["events[4]"]
    assert "reject takes no address" in found["events[5]"]
    assert "7 needs a unit" in found["events[6].at"]
    assert len(found) == 7


NAT_IP_EVENTS = [
    ([("1s", "add", 51), ("2s", "remove", 50)], {}),
    ([("1s", "add", 50)], {0: "192.168.50.50 is a NAT IP of orders at that time already"}),
    ([("2s", "remove", 51), ("1s", "add", 51)], {}),
    ([("1s", "remove", 51), ("2s", "add", 51)], {0: "192.168.50.51 is no NAT IP of orders at that time; there are: "}),
    ([("1s", "remove", 50)], {0: "192.168.50.50 is the last NAT IP of orders; a service keeps one at least"}),
    ([("1s", "add", host) for host in range(51, 59)], {7: "9 NAT IPs of a private link service at that time"}),
]


@pytest.mark.parametrize(("events", "faults"), NAT_IP_EVENTS)
def test_nat_ips_come_and_go_in_order_of_time(events: list[tuple[str, str, int]], faults: dict[int, str]) -> None:
    text = EXAMPLE.replace(NAT_IPS, "    nat_ips: [192.168.50.50]\n").replace(EVENTS, "events:\n")
    for at, change, host in events:
        text += f"  - {{at: {at}, {change}_nat_ip: orders, address: 192.168.50.{host}}}\n"
    found: dict[str, str] = {}
    try:
        parse_topology(text)
    except TopologyError as error:
        found = {path: message for _, path, message in error.problems}
    assert [path.split(".")[0] for path in found] == [f"events[{number}]" for number in faults]
    assert all(rule in message for rule, message in zip(faults.values(), found.values(), strict=True))


def test_an_added_nat_ip_has_an_address_of_its_own_in_the_providers_network() -> None:
    for host, message in (
        ("10.9.0.1", "is not in provider's address space"),
        ("192.168.61.4", "is also a backend"),
        ("192.168.60.10", "is also a load balancer's frontend"),
    ):
        found = problems_of(EVENTS, f"events:\n  - {{at: 1s, add_nat_ip: orders, address: {host}}}\n")
        assert [path for _, path, _ in found] == ["events[0].address"]
        assert message in found[0][2]


def test_a_name_that_cannot_be_read_does_not_make_its_users_wrong() -> None:
    found = problems_of("  - name: contoso\n", "  - nmae: contoso\n")
    assert [path for _, path, _ in found] == ["virtual_networks[0].name", "virtual_networks[0].nmae"]


def test_two_services_of_one_name_are_refused() -> None:
    found = problems_of("  - name: invoices\n", "  - name: orders\n")
    assert (38, "private_link_services[1].name") == found[0][:2]
    assert "orders is already private_link_services[0].name" in found[0][2]


def test_networks_may_overlap_when_they_do_not_meet() -> None:
    topology = parse_topology(EXAMPLE)
    assert topology.network("contoso").address_space == topology.network("fabrikam").address_space
