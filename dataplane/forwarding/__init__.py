"""The path of a packet, one stage per file."""
