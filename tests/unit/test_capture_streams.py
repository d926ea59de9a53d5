"""Compression, standard input, digests, progress."""

import bz2
import gzip
import hashlib
import io
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zstandard

from dataplane.capture import CaptureError, open_capture
from dataplane.capture.streams import Stored, StreamDamage
from tests.unit.test_capture_builders import PACKETS, Packet, pcap_file, pcapng_file, read

ROOT = Path(__file__).resolve().parents[2]
_DICE = random.Random(1)
MANY: list[Packet] = [(index, _DICE.randbytes(200), 200) for index in range(3000)]
FILE = pcap_file(MANY)


def _members(content: bytes, pack: object) -> bytes:
    """The content compressed in three parts, one after another."""
    third = len(content) // 3
    parts = [content[:third], content[third : 2 * third], content[2 * third :]]
    return b"".join(pack(part) for part in parts)  # type: ignore[operator]


ZSTD = zstandard.ZstdCompressor(write_checksum=True).compress
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
PACKED = {
    "gzip": gzip.compress(FILE),
    "gzip members": _members(FILE, gzip.compress),
    "gzip padded": gzip.compress(FILE) + bytes(700),
    "zstd": ZSTD(FILE),
    "zstd frames": _members(FILE, ZSTD),
    "zstd skippable": SKIPPABLE + ZSTD(FILE) + SKIPPABLE,
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_compressed_captures_are_opened_whatever_their_name(
    kind: str, chunk_bytes: int, tmp_path: Path
) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(PACKED[kind])
    packets, reader = read(path, chunk_bytes=chunk_bytes, digest=True)
    assert packets == MANY
    assert reader.damage is None
    assert reader.size == reader.bytes_read == len(PACKED[kind])
    assert reader.sha256 == hashlib.sha256(PACKED[kind]).hexdigest()


@pytest.mark.parametrize("kind", ["gzip", "gzip members", "zstd", "zstd frames"])
def test_compressed_captures_cut_short_give_what_was_readable(kind: str) -> None:
    content = PACKED[kind]
    for cut in range(0, len(content), len(content) // 40):
        try:
            packets, reader = read(content[:cut])
        except CaptureError:
            assert cut < 200_000
            continue
        assert packets == MANY[: len(packets)]
        assert reader.damage is not None
        assert "(uncompressed)" in reader.damage


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_damaged_compression_is_damage_with_the_packets_before(kind: str) -> None:
    content = bytearray(PACKED[kind])
    content[len(content) // 2 : len(content) // 2 + 2000] = bytes(2000)
    packets, reader = read(bytes(content), digest=True)
    assert packets[:1000] == MANY[:1000]
    assert reader.damage is not None
    assert reader.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_other_bytes_after_compressed_data_are_damage(kind: str) -> None:
    packets, reader = read(PACKED[kind] + b"some other text, long enough")
    assert packets == MANY
    assert reader.damage is not None
    assert f"the {kind} data are damaged" in reader.damage


def test_compressed_text_and_nothing_are_refused() -> None:
    with pytest.raises(CaptureError, match="starts with 68 65 6c 6c 6f inside gzip"):
        open_capture(io.BytesIO(gzip.compress(b"hello")))
    with pytest.raises(CaptureError, match="empty inside zstd"):
        open_capture(io.BytesIO(ZSTD(b"")))
    with pytest.raises(CaptureError, match="zstd data end too early"):
        open_capture(io.BytesIO(PACKED["zstd"][:9]))
    with pytest.raises(CaptureError, match="starts with 42 5a 68"):
        open_capture(io.BytesIO(bz2.compress(FILE)))


def test_a_bomb_is_expanded_in_small_steps() -> None:
    bomb = ZSTD(pcap_file([]) + bytes(300 << 20))
    with open_capture(io.BytesIO(bomb), chunk_bytes=1 << 16) as reader:
        batch = next(reader)
    assert len(batch.data) <= 1 << 16


def test_standard_input_is_read_to_its_end() -> None:
    script = (
        "import dataplane.capture as c; r = c.open_capture('-', digest=True); "
        "n = sum(len(b) for b in r); print(n, r.name, r.size, r.damage, r.sha256)"
    )
    for content in (FILE, PACKED["gzip"]):
        done = subprocess.run(
            [sys.executable, "-c", script], input=content, capture_output=True, cwd=ROOT, check=True
        )
        digest = hashlib.sha256(content).hexdigest()
        assert done.stdout.decode().strip() == f"3000 standard input None None {digest}"


class _Trickle(io.RawIOBase):
    """A pipe that gives a few bytes at a time and can only `read`."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.readinto = None  # type: ignore[assignment]

    def read(self, size: int = -1) -> bytes:
        block, self._content = self._content[: min(size, 7)], self._content[7:] if size >= 7 else b""
        return block


def test_a_source_that_trickles_is_read_whole() -> None:
    for file in (pcap_file(PACKETS), pcapng_file(PACKETS)):
        packets, reader = read(_Trickle(file), chunk_bytes=1 << 16)
        assert packets == PACKETS
        assert reader.damage is None


def test_the_digest_covers_the_whole_file_even_when_it_broke_early() -> None:
    file = pcap_file(PACKETS) + b"\xff" * 3_000_000
    _, reader = read(file, chunk_bytes=256, digest=True)
    assert reader.damage is not None
    assert reader.sha256 == hashlib.sha256(file).hexdigest()


def test_there_is_no_digest_before_the_end_or_unasked() -> None:
    with open_capture(io.BytesIO(FILE), chunk_bytes=1000, digest=True) as reader:
        next(reader)
        assert reader.sha256 is None
    assert read(FILE)[1].sha256 is None


def test_progress_counts_stored_bytes(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap.gz"
    path.write_bytes(PACKED["gzip"])
    with open_capture(str(path), chunk_bytes=4096) as reader:
        assert reader.size == len(PACKED["gzip"])
        seen = [reader.bytes_read for _ in reader]
    assert seen == sorted(seen)
    assert seen[0] < seen[-1] == reader.size


def test_a_closed_reader_gives_nothing_more() -> None:
    reader = open_capture(io.BytesIO(FILE), chunk_bytes=1000)
    next(reader)
    reader.close()
    assert list(reader) == []


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read ahead however small the file is, in small blocks."""
    monkeypatch.setattr("dataplane.capture.open._WORTH_A_THREAD", 0)
    monkeypatch.setattr("dataplane.capture.overlap._BLOCK", 5_000)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", ["plain", *PACKED])
@pytest.mark.parametrize("chunk_bytes", [1000, 1 << 20])
def test_reading_ahead_reads_the_same(kind: str, chunk_bytes: int, tmp_path: Path) -> None:
    content = {"plain": FILE, **PACKED}[kind]
    for cut in (0, 1, 1_000, len(content) // 2):
        path = tmp_path / f"cut-{cut}"
        path.write_bytes(content[: len(content) - cut])
        packets, reader = read(path, chunk_bytes=chunk_bytes, digest=True)
        packets_ahead, reader_ahead = read(path, chunk_bytes=chunk_bytes, digest=True, ahead=True)
        assert packets_ahead == packets
        assert reader_ahead.damage == reader.damage
        assert reader_ahead.sha256 == reader.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("eager")
def test_damage_found_while_reading_ahead_leaves_the_digest_whole(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(FILE[:100_000] + b"\xff" * 3_000_000)
    packets, reader = read(path, chunk_bytes=10_000, digest=True, ahead=True)
    assert (packets, reader.damage) == (read(path)[0], read(path)[1].damage)
    assert reader.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("eager")
def test_a_file_that_cannot_be_read_on_says_so_from_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(FILE)
    readinto = Stored.readinto

    def breaks(self: Stored, view: memoryview) -> int:
        if self.count > 200_000:
            raise StreamDamage("cannot be read: Input/output error")
        return readinto(self, view[:20_000])

    monkeypatch.setattr(Stored, "readinto", breaks)
    packets, reader = read(path, chunk_bytes=10_000, digest=True, ahead=True)
    assert 900 < len(packets) < len(MANY)
    assert reader.damage is not None
    assert "Input/output error" in reader.damage


@pytest.mark.usefixtures("eager")
def test_a_reader_that_is_closed_early_leaves_no_thread(tmp_path: Path) -> None:
    path = tmp_path / "in.pcap"
    path.write_bytes(FILE)
    with open_capture(path, chunk_bytes=1000, digest=True, ahead=True) as reader:
        next(reader)
        assert "read-ahead" in {thread.name for thread in threading.enumerate()}
        assert reader.sha256 is None
    assert "read-ahead" not in {thread.name for thread in threading.enumerate()}
