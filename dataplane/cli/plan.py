"""`dataplane plan`: how many NAT IPs a load needs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from dataplane.cli.common import announce_compilation, common_options, errors_as_lines, fail

if TYPE_CHECKING:
    from dataplane.runs.plan import Plan


@click.command("plan", epilog="Example: dataplane plan --rate 700 --life 20 --ends fin --headroom 25")
@click.option("--rate", type=click.FloatRange(0.001, 1e7), required=True, help="New connections per second.")
@click.option("--life", type=click.FloatRange(0, 1e6), default=1.0, show_default=True, help="Their mean life, seconds.")
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), default="tcp", show_default=True)
@click.option(
    "--ends",
    type=click.Choice(["fin", "rst", "never"]),
    default="fin",
    show_default=True,
    help="How TCP connections end; never: they are left to the idle time-out.",
)
@click.option("--profile", default="azure-pls", show_default=True, help="The NAT's profile: time-outs, port hold.")
@click.option("--timeout", type=click.FloatRange(0.01, 1e7), help="Seconds from the last packet to the port's release.")
@click.option("--port-hold", type=click.FloatRange(0, 1e7), help="Seconds for which a released port is held.")
@click.option("--backends", type=click.IntRange(1, 1000), default=1, show_default=True)
@click.option("--ports", type=click.IntRange(1, 64512), default=64512, show_default=True, help="Ports of each pool.")
@click.option("--no-spill", is_flag=True, help="A session tries its first NAT IP only.")
@click.option("--target", type=float, default=1e-6, show_default=True, help="Share of sessions that may fail.")
@click.option("--headroom", type=click.FloatRange(0, 1000), default=0.0, show_default=True, help="Percent to grow.")
@click.option("--no-simulation", is_flag=True, help="Formulas only.")
@common_options
def command(
    rate: float,
    life: float,
    protocol: str,
    ends: str,
    profile: str,
    timeout: float | None,
    port_hold: float | None,
    backends: int,
    ports: int,
    no_spill: bool,
    target: float,
    headroom: float,
    no_simulation: bool,
    as_json: bool,
    quiet: bool,
    seed: int,
) -> None:
    """Tell how many NAT IPs a load needs, by formula and by simulation, and what else would help.

    A connection takes a port for its life, the time-out after its last packet, and the port hold. docs/plan.md has an
    example, docs/models.md the formulas.
    """
    if not 0 < target < 1:
        fail(f"--target {target:g}: a share of sessions is above 0 and below 1; write 1e-6 for one in a million")
    with errors_as_lines():
        from dataplane.runs.folder import to_json
        from dataplane.runs.plan import Load, plan
        from dataplane.topology.profiles import PROFILES

        if profile not in PROFILES:
            fail(f"--profile {profile}: there is no such profile; there are: {', '.join(PROFILES)}")
        if not no_simulation:
            announce_compilation(quiet)
        load = Load(rate, life, protocol, ends, profile, port_hold, timeout, backends, ports, not no_spill)
        result = plan(load, target, headroom / 100, seed=seed, simulate=not no_simulation)
    if as_json:
        click.echo(to_json(result.document()), nl=False)
    else:
        _tell(result)
    sys.exit(0)


def _tell(result: Plan) -> None:
    from dataplane.cli.tables import console_for_output, show, table

    out = console_for_output()
    load, needed = result.load, result.needed
    more = f" and {100 * result.headroom:g} % more" if result.headroom else ""
    out.print(
        f"{load.rate:,g} {load.protocol} connections/s{more}, each on a port for {load.holding:,g} s "
        f"({load.life:g} s of life, {load.tail:g} s after it): {result.erlangs * (1 + result.headroom):,.0f} ports at "
        f"a time, {needed.load_per_backend:,.0f} toward each of {load.backends} backend(s)"
    )
    if needed.nat_ips is None:
        out.print(
            f"8 NAT IPs, the most that a service may have, cannot carry it: {100 * needed.failure_probability:.3g} % "
            "of sessions would fail. What would help stands below."
        )
    else:
        out.print(
            f"NAT IPs needed: {needed.nat_ips}. Then {_share(needed.failure_probability)} by formula, "
            f"{100 * needed.utilisation:.1f} % of the ports are in use, and the load can grow by "
            f"{result.growth_percent:,.0f} % before more than {result.target:g} fails."
        )
    out.print()
    rows = [
        (
            f"{one.nat_ips}",
            f"{one.connections:,}",
            f"{one.failures:,}",
            f"{one.share:.3g}",
            f"{one.low:.2g} to {one.high:.2g}",
            f"{one.lowest_availability_percent:.2f} %",
        )
        for one in result.simulated
    ]
    columns = ("connections", "failed", "share", "95 % between", "lowest availability")
    show(out, table("Simulated with 3 seeds", "NAT IPs", *columns), rows)
    for note in result.notes:
        out.print(f"note: {note}", end="\n\n")
    changes = [
        (knob.change, "more than 8" if knob.nat_ips is None else f"{knob.nat_ips}", f"{knob.erlangs:,.0f}")
        for knob in result.knobs
    ]
    show(out, table("What a change buys, by formula", "change", "NAT IPs needed", "ports at a time"), changes)


def _share(probability: float) -> str:
    return "practically nothing fails" if probability < 1e-12 else f"a share of {probability:.2g} fails"
