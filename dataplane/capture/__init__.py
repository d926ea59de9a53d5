"""Files: capture formats in and out.

Names load on first use, so that catching `CaptureError` costs no compiled code. Merging is in `merge.py`.
"""

from typing import TYPE_CHECKING, Any

from dataplane.capture.errors import CaptureError, CaptureWarning

if TYPE_CHECKING:
    from dataplane.capture.open import CaptureReader, open_capture, read_capture
    from dataplane.capture.pcap import PcapWriter
    from dataplane.capture.pcapng_writer import PcapngWriter

__all__ = [
    "CaptureError",
    "CaptureReader",
    "CaptureWarning",
    "PcapWriter",
    "PcapngWriter",
    "open_capture",
    "read_capture",
]

_HOMES = {
    "CaptureReader": "open",
    "PcapWriter": "pcap",
    "PcapngWriter": "pcapng_writer",
    "open_capture": "open",
    "read_capture": "open",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
