"""Broken captures: everything before the fault is delivered, the fault is named, nothing crashes."""

import random
from io import BytesIO
from pathlib import Path

import pytest

from dataplane.capture import CaptureError, open_capture
from tests.unit.test_capture_builders import (
    PACKETS,
    block,
    enhanced,
    interface,
    pcap_file,
    pcapng_file,
    read,
    section,
    simple,
)

FILES = {
    "pcap": pcap_file(PACKETS),
    "pcap big-endian": pcap_file(PACKETS, big=True, nano=False),
    "pcapng": pcapng_file(PACKETS),
    "pcapng big-endian": pcapng_file(PACKETS, ">"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("chunk_bytes", [64, 1 << 16])
def test_a_capture_cut_at_any_byte_gives_the_packets_before_the_cut(kind: str, chunk_bytes: int) -> None:
    file = FILES[kind]
    header = len(pcap_file([])) if "pcapng" not in kind else len(section())
    ends = [
        len(pcap_file(PACKETS[:n]) if "pcapng" not in kind else pcapng_file(PACKETS[:n])) for n in range(5)
    ]
    for cut in range(len(file)):
        if cut < header:
            with pytest.raises(CaptureError):
                open_capture(BytesIO(file[:cut]), chunk_bytes=chunk_bytes)
            continue
        packets, reader = read(file[:cut], chunk_bytes=chunk_bytes)
        assert packets == PACKETS[: sum(end <= cut for end in ends[1:])]
        clean = cut in (header, *ends)
        assert (reader.damage is None) == clean, cut
        if not clean:
            assert f"packet {len(packets) + 1} at byte" in reader.damage
            assert "the file ends within" in reader.damage


@pytest.mark.parametrize("kind", FILES)
def test_any_single_bit_flip_gives_packets_or_a_message(kind: str) -> None:
    file = FILES[kind]
    for bit in range(len(file) * 8):
        flipped = bytearray(file)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            packets, _ = read(bytes(flipped), chunk_bytes=256)
        except CaptureError:
            continue
        assert len(packets) <= len(PACKETS) * 8


@pytest.mark.parametrize("kind", FILES)
def test_random_bytes_after_a_valid_header(kind: str) -> None:
    dice = random.Random(kind)
    header = FILES[kind][:24] if "pcapng" not in kind else pcapng_file([], ">" if "big" in kind else "<")
    for _ in range(200):
        _, reader = read(header + dice.randbytes(dice.randrange(1, 400)), chunk_bytes=64)
        assert reader.damage is not None


def _damage(file: bytes) -> str:
    packets, reader = read(file)
    assert len(packets) == 1
    assert isinstance(reader.damage, str)
    return reader.damage


def test_a_captured_length_beyond_the_limit_is_named() -> None:
    good = pcap_file(PACKETS[:1])
    damage = _damage(good + pcap_file([(0, bytes(262_145), 0)])[24:])
    assert damage == (
        "stream: packet 2 at byte 100: captured length 262145 exceeds the limit of 262144 bytes"
    )
    wide = pcap_file([(0, bytes(262_145), 262_145)], snaplen=300_000)
    assert len(read(wide)[0]) == 1


def test_an_absurd_snap_length_does_not_lift_the_limit() -> None:
    file = pcap_file(PACKETS[:1], snaplen=0xFFFFFFFF) + b"\0" * 8 + b"\xff\xff\xff\x7f" + b"\0" * 4
    assert "captured length 2147483647 exceeds the limit of 134217728 bytes" in _damage(file)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        (b"\x99\0\0\0\x0b\0\0\0\0\0\0\0", "block length 11 is not a multiple of 4 of at least 12"),
        (b"\x99\0\0\0\x0e\0\0\0" + bytes(8), "block length 14 is not a multiple of 4 of at least 12"),
        (b"\x99\0\0\0\xfc\xff\xff\xff" + bytes(8), "block length 4294967292 exceeds the limit of 134217728"),
        (b"\x99\0\0\0\x10\0\0\0" + bytes(8), "block length 16 at its start and 0 at its end differ"),
        (block("<", 6, bytes(16)), "block length 28 is below the 32 bytes that a packet block needs"),
        (block("<", 3, b""), "block length 12 is below the 16 bytes that a packet block needs"),
        (enhanced(0, b"abcd", 4, which=1), "interface 1 was not declared; the section has 1 so far"),
        (block("<", 6, bytes(12) + b"\x05\0\0\0" + bytes(8)), "captured length 5 exceeds the 4 bytes that"),
        (simple(b"", 1), "captured length 1 exceeds the 0 bytes that the block holds"),
        (section() + enhanced(0, b"", 0), "interface 0 was not declared; the section has 0 so far"),
        (section() + simple(b"", 0), "interface 0 was not declared; the section has 0 so far"),
        (section(major=2), "pcapng version 2.0 is not known"),
        (b"\x0a\x0d\x0d\x0a" + bytes(24), "section header's byte-order magic is 00000000"),
        (b"\x0a\x0d\x0d\x0a\x1d\0\0\0\x4d\x3c\x2b\x1a" + bytes(16), "section header's length 29 is not a"),
        (block("<", 1, b"\1\0\0\0"), "interface description's length 16 is below 20 bytes"),
        (block("<", 1, bytes(8) + b"\x09\0\x08\0\0\0\0\0"), "option 9 of 8 bytes runs beyond its block"),
        (block("<", 1, bytes(8) + b"\x09\0\x02\0\0\0\0\0"), "if_tsresol has 2 bytes"),
    ],
)
def test_what_is_wrong_with_a_block_is_named(rest: bytes, message: str) -> None:
    good = section() + interface() + enhanced(0, b"abcd", 4)
    damage = _damage(good + rest)
    assert message in damage
    assert damage.startswith("stream: packet 2 at byte ")


def test_the_place_is_that_of_the_broken_block_whatever_the_buffer() -> None:
    good = section() + interface() + enhanced(0, b"abcd", 4) * 50
    for chunk_bytes in (64, 100, 1000, 1 << 20):
        _, reader = read(good + enhanced(0, b"", 0, which=9), chunk_bytes=chunk_bytes)
        assert reader.damage is not None
        assert f"packet 51 at byte {len(good)}: interface 9" in reader.damage


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty; accepted are pcap and pcapng"),
        (b"hello", "no known capture format: it starts with 68 65 6c 6c 6f; accepted are pcap and pcapng"),
        (b"\xd4\xc3", "no known capture format: it starts with d4 c3"),
        (FILES["pcap"][:23], "the pcap header is cut short: 23 of 24 bytes"),
        (FILES["pcapng"][:27], "the pcapng section header is cut short: 27 of 28 bytes"),
        (pcap_file([], major=3), "pcap version 3.4 is not known"),
        (section(major=9), "pcapng version 9.0 is not known"),
    ],
)
def test_a_file_that_is_no_capture_is_refused_in_one_line(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(content)
    with pytest.raises(CaptureError) as error:
        open_capture(path)
    assert str(error.value).startswith(f"{path}: {message}")
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"absent\.pcap: cannot be opened: No such file"):
        open_capture(tmp_path / "absent.pcap")
    with pytest.raises(CaptureError, match="Is a directory"):
        open_capture(tmp_path)
    with pytest.raises(CaptureError, match="cannot be opened"):
        open_capture("in\0.pcap")


class _Failing(BytesIO):
    def readinto(self, view: memoryview) -> int:  # type: ignore[override]
        if self.tell() >= 100:
            raise OSError(5, "Input/output error")
        return super().readinto(view[:100])


def test_a_disk_that_fails_midway_is_damage() -> None:
    packets, reader = read(_Failing(FILES["pcap"]))
    assert packets == PACKETS[:1]
    assert reader.damage == f"stream: packet 2 at byte {100}: cannot be read: Input/output error"
