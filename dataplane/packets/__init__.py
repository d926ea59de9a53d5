"""Bytes: packet batches, header offsets, checksums, and scapy packets in and out."""
