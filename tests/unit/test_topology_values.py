"""Durations, port ranges, addresses and names, as a topology file writes them."""

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from dataplane.topology import values
from dataplane.topology.values import LONGEST_DURATION, PortRange, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "nanoseconds", "written"),
    [
        ("0s", 0, "0s"),
        ("1ns", 1, "1ns"),
        ("15us", 15_000, "15us"),
        ("15µs", 15_000, "15us"),
        ("250ms", 250_000_000, "250ms"),
        ("1.5s", 1_500_000_000, "1500ms"),
        ("0.000000001s", 1, "1ns"),
        ("30s", 30_000_000_000, "30s"),
        ("5m", 300_000_000_000, "300s"),
        ("0.5m", 30_000_000_000, "30s"),
        ("1h", 3_600_000_000_000, "3600s"),
        ("1d", 86_400_000_000_000, "86400s"),
        ("3650d", LONGEST_DURATION, "315360000s"),
    ],
)
def test_a_duration_is_read_exactly_and_written_short(text: str, nanoseconds: int, written: str) -> None:
    assert parse_duration(text) == nanoseconds
    assert format_duration(nanoseconds) == written


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (30, "needs a unit: write 30s"),
        (1.5, "needs a unit: write 1.5s"),
        ("30", "needs a unit"),
        ("-5", "needs a unit"),
        ("-5s", "is not a duration"),
        ("5 s", "is not a duration"),
        ("5min", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("", "is not a duration"),
        ("s", "is not a duration"),
        ("٣s", "is not a duration"),
        ("0.5ns", "finer than a nanosecond"),
        ("3651d", "longest duration is 3650d"),
        (None, "must be a duration"),
        (True, "must be a duration"),
        ([], "must be a duration"),
    ],
)
def test_what_is_no_duration_is_refused_with_a_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_duration(value)


@given(st.integers(0, LONGEST_DURATION))
def test_every_duration_survives_being_written(nanoseconds: int) -> None:
    assert parse_duration(format_duration(nanoseconds)) == nanoseconds


def test_a_timeout_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="longer than 0s"):
        TypeAdapter(values.PositiveDuration).validate_python("0ms")


def test_a_port_range_knows_its_size_and_members() -> None:
    ports = values.parse_port_range("1024-65535")
    assert (ports.first, ports.last, ports.size) == (1024, 65535, 64512)
    assert 1024 in ports
    assert 65535 in ports
    assert 1023 not in ports
    assert "1024" not in ports
    assert str(ports) == "1024-65535"
    assert PortRange(7, 7).size == 1


@pytest.mark.parametrize(
    "text", ["0-5", "5-4", "1-65536", "1024", "1024:2048", "", 1024, None, "1-2-3", " 1-2"]
)
def test_what_is_no_port_range_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a port range"):
        values.parse_port_range(text)


@pytest.mark.parametrize(
    "text", ["10.0.0.256", "10.0.0", "10.0.0.01", "host", "", 5, None, True, b"\x0a\x00\x00\x01"]
)
def test_what_is_no_address_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not an IPv4 address; write"):
        values.parse_address(text)


def test_an_ipv6_address_is_refused_as_such() -> None:
    with pytest.raises(ValueError, match="IPv4 only"):
        values.parse_address("fd00::1")


def test_a_prefix_with_host_bits_is_refused_and_the_right_one_named() -> None:
    with pytest.raises(ValueError, match=r"write 10\.0\.0\.0/16"):
        values.parse_prefix("10.0.1.0/16")


@pytest.mark.parametrize("text", ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "", 10, "10.0.0/8", "/8"])
def test_what_is_no_prefix_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not an IPv4 prefix"):
        values.parse_prefix(text)


@pytest.mark.parametrize("name", ["a", "0", "pe-1", "a.b_c-d", "A" * 80, "x_"])
def test_names_that_azure_takes(name: str) -> None:
    assert TypeAdapter(values.Name).validate_python(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "a.", "_a", "a b", "a=b", "a/b", "A" * 81, "né", "a\n", 5, None]
)
def test_names_that_azure_refuses(name: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(values.Name).validate_python(name)


@pytest.mark.parametrize(
    ("value", "text"),
    [(443, "443-443"), ("443", "443-443"), ("80-90", "80-90"), ("*", "1-65535")],
)
def test_destination_ports_of_a_security_rule(value: object, text: str) -> None:
    assert str(TypeAdapter(values.DestinationPorts).validate_python(value)) == text


def test_sources_of_a_security_rule() -> None:
    source = TypeAdapter(values.Source)
    assert source.validate_python("*") == IPv4Network("0.0.0.0/0")
    assert source.validate_python("10.0.0.4") == IPv4Network("10.0.0.4/32")
    assert source.validate_python("10.0.0.0/8") == IPv4Network("10.0.0.0/8")


def test_typed_values_pass_as_they_are() -> None:
    assert values.parse_address(IPv4Address("10.0.0.1")) == IPv4Address("10.0.0.1")
    assert values.parse_prefix(IPv4Network("10.0.0.0/8")) == IPv4Network("10.0.0.0/8")
    assert values.parse_port_range(PortRange(1, 2)) == PortRange(1, 2)
