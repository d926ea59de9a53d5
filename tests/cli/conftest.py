"""The command as a process and in this process, captures of any size, a topology with one consumer network."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dataplane.cli import main

ROOT = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "dataplane")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}

#: A SYN in Ethernet from 10.0.2.4:1024 to 10.0.1.5:443; bytes 34 and 35 are the source port.
SYN = (
    bytes.fromhex("020000000002020000000001" + "0800")
    + struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, bytes((10, 0, 2, 4)), bytes((10, 0, 1, 5)))
    + struct.pack("!HHIIBBHHH", 1024, 443, 1, 0, 0x50, 0x02, 64_240, 0, 0)
)
_RECORD = np.dtype([("s", "<u4"), ("us", "<u4"), ("captured", "<u4"), ("wire", "<u4"), ("data", "u1", len(SYN))])

TOPOLOGY = """\
virtual_networks:
  - {name: contoso, region: eastus, address_space: [10.0.0.0/16]}
  - {name: provider, region: westus, address_space: [192.168.0.0/16]}
private_link_services:
  - name: orders
    virtual_network: provider
    nat_ips: [192.168.50.4]
    load_balancer:
      frontend_ip: 192.168.60.10
      rules: [{protocol: tcp, frontend_port: 443, backend_port: 8443}]
      backend_pool: [192.168.61.4]
private_endpoints:
  - {name: pe-contoso, virtual_network: contoso, ip: 10.0.1.5, target: orders}
"""

#: The same service, reached from two networks that use the same addresses.
TWO_CONSUMERS = (
    TOPOLOGY.replace(
        "  - {name: provider",
        "  - {name: fabrikam, region: eastus, address_space: [10.0.0.0/16]}\n  - {name: provider",
    )
    + "  - {name: pe-fabrikam, virtual_network: fabrikam, ip: 10.0.1.5, target: orders}\n"
)


def write_syns(path: Path, count: int, *, ports: int = 1000, step_us: int = 1000, start_s: int = 1_700_000_000) -> Path:
    """A pcap of `count` SYNs to 10.0.1.5:443, from `ports` source ports in turn, `step_us` apart."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for first in range(0, count, 100_000):
            number = np.arange(first, min(first + 100_000, count))
            records = np.zeros(len(number), _RECORD)
            time_us = number * step_us
            records["s"], records["us"] = start_s + time_us // 1_000_000, time_us % 1_000_000
            records["captured"] = records["wire"] = len(SYN)
            records["data"] = np.frombuffer(SYN, np.uint8)
            port = 1024 + number % ports
            records["data"][:, 34], records["data"][:, 35] = port >> 8, port & 255
            file.write(records.tobytes())
    return path


@pytest.fixture
def syns(tmp_path: Path) -> Path:
    """A pcap of 50 SYNs of 50 conversations."""
    return write_syns(tmp_path / "syns.pcap", 50)


@pytest.fixture
def topology(tmp_path: Path) -> Path:
    """A topology file with one consumer network, contoso."""
    path = tmp_path / "topology.yaml"
    path.write_text(TOPOLOGY)
    return path


@pytest.fixture
def two_consumers(tmp_path: Path) -> Path:
    """A topology file with two consumer networks, contoso and fabrikam."""
    path = tmp_path / "two.yaml"
    path.write_text(TWO_CONSUMERS)
    return path


@pytest.fixture
def invoke() -> Callable[..., Result]:
    """The command in this process; an exception that is not an exit fails the test."""

    def call(*arguments: object, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin, catch_exceptions=False)

    return call


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command as a process, waited for."""

    def call(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.run(command, env=ENVIRONMENT, text=True, timeout=120, check=False, **options)

    return call


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The command as a process that goes on; killed at the end of the test if it still runs."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            env=ENVIRONMENT,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def make_syns() -> Callable[..., Path]:
    """`write_syns`."""
    return write_syns
