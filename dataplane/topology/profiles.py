"""What a NAT profile says about every key of `nat` that the file leaves out: one table, a column of keys per profile.

Every value has its source beside it. "unconfirmed" means that nobody published the value: it is the documented figure
of the closest relative, or a plain choice. A profile is how an engine behaves as far as the settings here can say it;
where it still differs from the engine of its name is told in docs/rfc.md ("Profiles").

`BASE` holds what no profile has reason to change; a profile names the rest.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

DEFAULT_PROFILE: Final = "azure-pls"

BASE: Final[Mapping[str, Any]] = MappingProxyType(
    {
        "nat_ports": "1024-65535",  # RFC 6056 §3.2: the whole range of ports that are no well-known ones
        "probes": None,  # exact: an allocator finds the last free port
        "block_size": 1024,  # used by `block` only: Azure's ports per instance in pools of up to 50 instances
        "blocks_per_endpoint": None,  # RFC 6888 REQ-4: a cap is for the operator to set
        "ports_per_endpoint": None,  # RFC 6888 REQ-4, as above
        "sessions_per_backend": None,  # a limit of backends (Azure: 500,000 flows per NIC), not of the translator
        "decrement_ttl": True,  # RFC 791, RFC 1812 §5.3.1: every forwarder does
        "port_hold": "0s",  # RFC 6888 REQ-8 (C) asks for no hold where filtering is address-dependent or stricter
        "idle_reset": False,  # for Private Link unconfirmed: azure-docs issue 94724 reports resets, both ways
    }
)
"""What every profile says unless it says otherwise."""

_TCP_PLAIN: Final = {
    "closing": "both_fins",  # RFC 7857 §2.1, RFC 6146 §3.5.2.2
    "reset": "final",  # RFC 793 §3.4: RST ends a connection
    "reopen": "new_session",  # RFC 1122 §4.2.2.13: a SYN in TIME-WAIT may open a new connection
    "closing_refresh": False,  # RFC 6146 §3.5.2.2: a closed session's time is not prolonged
}

PROFILES: Final[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
    {
        # Azure Private Link service, as far as it is documented.
        "azure-pls": {
            **BASE,  # unconfirmed: Private Link documents no cap, no hold and nothing of the time to live
            "nat_ports": "1024-65535",  # unconfirmed; "64K" per NAT IP and VM (FAQ), 64,512 as with NAT Gateway
            "port_allocation": "random",  # unconfirmed; NAT Gateway documents a random choice
            "nat_ip_selection": "hash",  # unconfirmed; the FAQ says only that connections spread over NAT IPs
            "spill": True,  # unconfirmed
            "first_packet": "syn",  # unconfirmed
            "icmp": "errors",  # unconfirmed; no echo: Private Link carries TCP and UDP only (FAQ)
            "fragments": "drop",  # unconfirmed; Azure's outbound NATs refuse them
            "tcp": _TCP_PLAIN,  # unconfirmed
            "timeouts": {
                "tcp_established": "300s",  # Private Link service overview: idle timeout of about 5 minutes
                "tcp_half_open": "30s",  # unconfirmed; NAT Gateway's cool-down of half-open connections
                "tcp_half_closed": None,  # unconfirmed
                "tcp_closing": "65s",  # unconfirmed; NAT Gateway's after FIN
                "tcp_reset": "16s",  # unconfirmed; NAT Gateway's after RST
                "udp": "300s",  # unconfirmed; the same as TCP
                "udp_unreplied": None,  # unconfirmed
                "icmp": "60s",  # not used without echo; RFC 5508 REQ-2
            },
        },
        # Azure NAT Gateway (outbound): its pages "SNAT" (nat-gateway-snat), "resource" (nat-gateway-resource) and FAQ.
        "azure-natgw": {
            **BASE,  # unconfirmed
            "nat_ports": "1024-65535",  # SNAT: 64,512 ports per public IP; the exact range is unconfirmed
            "port_allocation": "random",  # SNAT: a port is chosen at random
            "nat_ip_selection": "hash",  # FAQ: a public IP at random, for which a hash stands here
            "spill": True,  # SNAT: the ports of all IPs are one inventory
            "first_packet": "syn",  # unconfirmed
            "icmp": "none",  # resource: no ICMP
            "fragments": "drop",  # resource, FAQ: no fragments
            "tcp": _TCP_PLAIN,  # unconfirmed
            "timeouts": {
                "tcp_established": "240s",  # resource: idle timeout, 4 minutes by default, settable up to 120
                "tcp_half_open": "30s",  # resource: TCP half open
                "tcp_half_closed": None,  # unconfirmed
                "tcp_closing": "65s",  # resource: port reuse timer after FIN
                "tcp_reset": "16s",  # resource: port reuse timer after RST
                "udp": "240s",  # resource: 4 minutes, not settable; the port is held 65 s more, which is not modelled
                "udp_unreplied": None,  # unconfirmed
                "icmp": "60s",  # not used without echo; RFC 5508 REQ-2
            },
        },
        # Azure Load Balancer's outbound SNAT with default port allocation; the endpoint stands for the instance.
        # Its page "outbound connections" (load-balancer-outbound-connections), where nothing else is named.
        "azure-slb": {
            **BASE,  # unconfirmed
            "nat_ports": "1024-65023",  # 64,000 usable ports per frontend IP; which they are is unconfirmed
            "port_allocation": "block",  # ports are preallocated to each instance, the lowest free one is given
            "block_size": 1024,  # 1,024 ports per instance in pools of up to 50 instances
            "blocks_per_endpoint": 1,  # no more than what was preallocated, per frontend IP
            "nat_ip_selection": "fill_first",  # azure-docs issue 81893: a second IP is used after the first is spent
            "spill": True,  # more frontend IPs add ports
            "first_packet": "syn",  # unconfirmed
            "icmp": "none",  # ICMP is not translated
            "fragments": "drop",  # fragments are not translated
            "tcp": _TCP_PLAIN,  # unconfirmed
            "timeouts": {
                "tcp_established": "240s",  # idle timeout, 4 minutes by default, settable from 4 to 120
                "tcp_half_open": "30s",  # unconfirmed; NAT Gateway's
                "tcp_half_closed": None,  # unconfirmed
                "tcp_closing": "240s",  # older versions of the page: 240 s after FIN
                "tcp_reset": "15s",  # older versions of the page: 15 s after RST
                "udp": "240s",  # idle timeout, as TCP
                "udp_unreplied": None,  # unconfirmed
                "icmp": "60s",  # not used without echo; RFC 5508 REQ-2
            },
        },
        # Google Cloud Private Service Connect, the producer's NAT subnet: its page "About published services"
        # (about-vpc-hosted-services).
        "gcp-psc": {
            **BASE,  # unconfirmed
            "nat_ports": "1024-65535",  # 64,512 ports of TCP and of UDP per endpoint and VM; the range is unconfirmed
            "port_allocation": "random",  # unconfirmed
            "nat_ip_selection": "paired",  # one NAT IP per consumer endpoint; here one per client of it
            "spill": False,  # an endpoint has one NAT IP
            "first_packet": "syn",  # unconfirmed
            "icmp": "errors",  # unconfirmed
            "fragments": "drop",  # not supported
            "tcp": _TCP_PLAIN,  # unconfirmed
            "timeouts": {
                "tcp_established": "1200s",  # established connections: 20 minutes
                "tcp_half_open": "30s",  # transitory connections: 30 s
                "tcp_half_closed": None,  # unconfirmed
                "tcp_closing": "120s",  # 2 minutes before a 5-tuple is used again
                "tcp_reset": "120s",  # 2 minutes before a 5-tuple is used again
                "udp": "30s",  # 30 s; the port is held 2 minutes more, which is not modelled
                "udp_unreplied": None,  # unconfirmed
                "icmp": "60s",  # not used without echo; RFC 5508 REQ-2
            },
        },
        # What the RFCs ask for, with their recommended values.
        "rfc": {
            **BASE,  # the sources named there
            "port_allocation": "random",  # RFC 7857 §9: randomise as in RFC 6056
            "nat_ip_selection": "paired",  # RFC 4787 REQ-2, RFC 6888 REQ-2: one address per host
            "spill": True,  # RFC 7857 §4: another address when the paired one has no port left
            "first_packet": "syn",  # RFC 6146 §3.5.2.2: state begins with a SYN
            "icmp": "all",  # RFC 5508 REQ-1, REQ-4, REQ-5
            "fragments": "translate",  # RFC 4787 REQ-14
            "tcp": {**_TCP_PLAIN, "reset": "until_data"},  # RFC 7857 §2.2
            "timeouts": {
                "tcp_established": "7440s",  # RFC 5382 REQ-5: at least 2 hours 4 minutes
                "tcp_half_open": "240s",  # RFC 5382 REQ-5, RFC 7857 §2.1: transitory, 4 minutes
                "tcp_half_closed": None,  # RFC 6146 §3.5.2.2: as established
                "tcp_closing": "240s",  # RFC 7857 §2.1
                "tcp_reset": "240s",  # RFC 7857 §2.2
                "udp": "300s",  # RFC 4787 REQ-5: 5 minutes recommended
                "udp_unreplied": None,  # RFC 4787 REQ-5 knows one timer
                "icmp": "60s",  # RFC 5508 REQ-2
            },
        },
        # Linux nf_conntrack and nf_nat: Documentation/networking/nf_conntrack-sysctl.rst, net/netfilter/nf_nat_core.c.
        "linux": {
            **BASE,  # nf_conntrack has none of these caps and holds
            "nat_ports": "1024-65535",  # nf_nat_core.c: the class of source ports from 1024 on
            "port_allocation": "preserve",  # nf_nat_core.c: the original tuple first
            "probes": [128, 64, 32, 16, 8],  # nf_nat_core.c: adjacent ports from a random one, 248 at most
            "nat_ip_selection": "paired",  # nf_nat_core.c: a hash of source and destination address
            "spill": False,  # nf_nat_core.c: no other address is tried
            "first_packet": "any",  # nf_conntrack_tcp_loose = 1
            "icmp": "all",  # nf_conntrack_proto_icmp.c
            "fragments": "translate",  # nf_defrag_ipv4
            "tcp": {**_TCP_PLAIN, "closing_refresh": True},  # nf_conntrack_proto_tcp.c: every valid packet refreshes
            "timeouts": {
                "tcp_established": "432000s",  # nf_conntrack_tcp_timeout_established: 5 days
                "tcp_half_open": "120s",  # nf_conntrack_tcp_timeout_syn_sent (…_syn_recv: 60)
                "tcp_half_closed": "120s",  # nf_conntrack_tcp_timeout_fin_wait (…_close_wait: 60)
                "tcp_closing": "120s",  # nf_conntrack_tcp_timeout_time_wait (…_last_ack: 30)
                "tcp_reset": "10s",  # nf_conntrack_tcp_timeout_close
                "udp": "120s",  # nf_conntrack_udp_timeout_stream, once both sides have spoken
                "udp_unreplied": "30s",  # nf_conntrack_udp_timeout
                "icmp": "30s",  # nf_conntrack_icmp_timeout
            },
        },
        # FD.io VPP, plugin nat44-ed: src/plugins/nat.
        "vpp": {
            **BASE,  # nat44_ed has none of these caps and holds
            "nat_ports": "1024-65535",  # nat44_ed_in2out.c: the slice of a single worker
            "port_allocation": "preserve",  # nat44_ed_in2out.c: the source port first
            "probes": 9,  # nat44_ed.h: ED_PORT_ALLOC_ATTEMPTS is 10, and the source port is the first of them
            "nat_ip_selection": "paired",  # nat44_ed_in2out.c: by the source address
            "spill": False,  # nat44_ed_in2out.c: no other address is tried
            "first_packet": "syn",  # nat44_ed_in2out.c: "non-SYN packet try to create session"
            "icmp": "all",  # nat44_ed_in2out.c, nat44_ed_out2in.c
            "fragments": "translate",  # shallow virtual reassembly
            "tcp": {
                "closing": "first_fin",  # nat44_ed_inlines.h: FIN or RST from either side
                "reset": "final",  # the same: data does not bring a session back
                "reopen": "handshake",  # the same: only SYN and ACK both ways do
                "closing_refresh": True,  # the same: every translated packet is heard
            },
            "timeouts": {
                "tcp_established": "7440s",  # nat_lib, as all of these: NAT_TCP_ESTABLISHED_TIMEOUT
                "tcp_half_open": "240s",  # NAT_TCP_TRANSITORY_TIMEOUT
                "tcp_half_closed": None,  # not used: the first FIN closes
                "tcp_closing": "240s",  # NAT_TCP_TRANSITORY_TIMEOUT
                "tcp_reset": "240s",  # NAT_TCP_TRANSITORY_TIMEOUT
                "udp": "300s",  # NAT_UDP_TIMEOUT
                "udp_unreplied": None,  # nat_lib knows one timer
                "icmp": "60s",  # NAT_ICMP_TIMEOUT
            },
        },
    }
)
"""The keys of `nat` by profile."""
