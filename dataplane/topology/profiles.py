"""What a NAT profile says about every key that the file leaves out.

Azure does not publish how Private Link chooses ports or how long it holds them, so values marked
"unconfirmed" are stand-ins: the documented figure of the closest Azure service, or a plain choice.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

DEFAULT_PROFILE: Final = "azure-pls"

PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "azure-pls": {
            # "64K" per NAT IP and backend VM is documented (Private Link FAQ); this exact range is
            # unconfirmed: the 64,512 ports that NAT Gateway documents.
            "nat_ports": "1024-65535",
            "port_allocation": "random",  # unconfirmed; NAT Gateway documents a random choice
            "nat_ip_selection": "hash",  # unconfirmed; the FAQ says only that connections spread over NAT IPs
            "ports_per_endpoint": None,  # no cap is documented
            "spill": True,  # unconfirmed
            "decrement_ttl": True,  # unconfirmed
            "sessions_per_backend": None,  # unconfirmed how sessions count against a VM's 500,000 flows
            "first_packet": "syn",  # unconfirmed
            "port_hold": "0s",  # unconfirmed: no cool-down is documented for Private Link
            "timeouts": {
                "tcp_established": "300s",  # Private Link service overview: idle timeout of about 5 minutes
                "tcp_half_open": "30s",  # unconfirmed; NAT Gateway's cool-down of half-open connections
                "tcp_closing": "65s",  # unconfirmed; NAT Gateway's after FIN
                "tcp_reset": "16s",  # unconfirmed; NAT Gateway's after RST
                "udp": "300s",  # unconfirmed; the same as TCP
            },
        },
    }
)
"""The keys of `nat` by profile. A profile in the schema but not in here is not yet supported."""
