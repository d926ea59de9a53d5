"""Every kernel once: a small replay of each kind, so that later starts load machine code from disk."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

from dataplane.capture import PcapngWriter, PcapWriter
from dataplane.packets.batch import PacketBatch
from dataplane.runs.exhaust import Exhaust, exhaust
from dataplane.runs.replay import Replay, infer, replay
from dataplane.runs.scenario import Scenario
from dataplane.runs.sources import parse_sources
from dataplane.topology import Topology

#: A SYN from 10.0.0.4:50000 to 10.0.1.5:443 in Ethernet.
_SYN = (
    bytes.fromhex("020000000002020000000001" + "0800")
    + struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, bytes((10, 0, 0, 4)), bytes((10, 0, 1, 5)))
    + struct.pack("!HHIIBBHHH", 50_000, 443, 1, 0, 0x50, 0x02, 64_240, 0, 0)
)


def warm_up() -> None:
    """Run what a replay can run, on two captures of two packets, and an experiment of a second."""
    with tempfile.TemporaryDirectory(prefix="dataplane-") as name:
        folder = Path(name)
        batch = PacketBatch.from_bytes([_SYN, _SYN], [0, 400_000_000_000])
        with PcapWriter(folder / "a.pcap") as pcap:
            pcap.write_batch(batch)
        with PcapngWriter(folder / "b.pcapng") as pcapng:
            pcapng.write_batch(batch, pcapng.add_interface("consumer", 1))
        captures = [str(folder / "a.pcap"), str(folder / "b.pcapng")]
        pcaps = {"backbone": folder / "c.pcap"}
        replay(Replay(captures, folder=folder / "run", pcaps=pcaps))
        replay(Replay(captures[:1]))
        replay(Replay(captures[:1], workers=2))
        # A single pcap's records are rewritten where they are.
        replay(Replay(captures[:1], pcaps={"consumer": folder / "d.pcap"}))
        # Where fragments are translated, there is one kernel more.
        topology = infer(parse_sources(captures[:1], set()))
        document = topology.model_dump(mode="json")
        document["private_link_services"][0]["nat"]["fragments"] = "translate"
        replay(Replay(captures[:1], topology=Topology.model_validate(document)))
        endpoint = topology.private_endpoints[0].name
        source = {"name": "all", "endpoint": endpoint, "port": 443, "arrivals": {"pattern": "poisson", "rate": 20}}
        exhaust(Exhaust(Scenario.model_validate({"topology": topology, "duration": "1s", "traffic": [source]})))
