"""What can be wrong with a capture file, and the few numbers that readers agree on."""

#: The largest frame that a capture may hold whatever its snap length says (libpcap's MAXIMUM_SNAPLEN).
USUAL_SNAPLEN = 262_144

#: No record or block may be larger than this: the largest that libpcap and Wireshark allow for any link type.
LARGEST_RECORD = 128 << 20


class CaptureError(ValueError):
    """A capture that cannot be used at all: missing, unreadable, empty or of no known format."""


class CaptureWarning(UserWarning):
    """A capture that breaks off or is damaged after a valid start; what came before was read."""
