"""`dataplane plan`: how many NAT IPs a load needs."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dataplane.cli.common import announce_compilation, common_options, errors_as_lines, fail, given

if TYPE_CHECKING:
    from dataplane.runs.loads import Load

#: What says how much load there is.
_LOADS = {"rate": "--rate", "scenario": "--scenario", "capture": "--capture", "flow_logs": "--flow-log"}

#: Options that only some loads have.
_ONLY_WITH = {
    **dict.fromkeys(
        ("life", "protocol", "ends", "profile", "timeout", "port_hold", "backends", "ports", "no_spill", "idle",
         "keep_alive"),
        ("rate",),
    ),
    "topology": ("capture", "flow_logs"),
    "copies": ("capture", "flow_logs"),
}  # fmt: skip


class Within(click.FloatRange):
    """Numbers of a range; NaN is none, though no comparison refuses it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click calls it."""
        number = super().convert(value, param, ctx)
        return self.fail(f"{value} is no number", param, ctx) if math.isnan(number) else number


@click.command("plan", epilog="Example: dataplane plan --rate 700 --life 20 --ends fin --headroom 25")
@click.option("--rate", type=Within(0.001, 1e7), help="The load: new connections per second.")
@click.option("--scenario", type=click.Path(path_type=Path), metavar="FILE", help="The load: that of a scenario.")
@click.option("--capture", metavar="[POINT=]FILE", help="The load: the connections of a capture, again and again.")
@click.option(
    "--flow-log", "flow_logs", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="The load: that of virtual network flow logs, again and again; several files as --flow-log FILE each.",
)  # fmt: skip
@click.option("--topology", "-t", type=click.Path(path_type=Path), help="Of --capture and --flow-log: the services.")
@click.option(
    "--copies", type=Within(0.001, 1e6), default=1.0, show_default=True, metavar="N",
    help="Of --capture and --flow-log: so many connections for each one.",
)  # fmt: skip
@click.option("--target", type=float, default=1e-6, show_default=True, help="Share of sessions that may fail.")
@click.option("--headroom", type=Within(0, 1000), default=0.0, show_default=True, help="Percent to grow.")
@click.option("--no-simulation", is_flag=True, help="Formulas only.")
@click.option("--life", type=Within(0, 1e6), default=1.0, show_default=True,
              help="Of --rate: the connections' mean life, seconds.")  # fmt: skip
@click.option("--protocol", type=click.Choice(["tcp", "udp"]), default="tcp", show_default=True, help="Of --rate.")
@click.option(
    "--ends",
    type=click.Choice(["fin", "rst", "never"]),
    default="fin",
    show_default=True,
    help="Of --rate: how TCP connections end; never: they are left to the idle time-out.",
)
@click.option("--idle", type=Within(0, 100), default=0.0, show_default=True,
              help="Of --rate: percent that say nothing between their beginning and end.")  # fmt: skip
@click.option("--keep-alive", type=Within(0.1, 1e6), help="Of --idle: silent seconds before a keep-alive.")
@click.option("--profile", default="azure-pls", show_default=True, help="Of --rate: the NAT's profile, its time-outs.")
@click.option("--timeout", type=Within(0.01, 1e7),
              help="Of --rate: seconds from the last packet to the port's release.")  # fmt: skip
@click.option("--port-hold", type=Within(0, 1e7),
              help="Of --rate: seconds for which a released port is held.")  # fmt: skip
@click.option("--backends", type=click.IntRange(1, 1000), default=1, show_default=True, help="Of --rate.")
@click.option("--ports", type=click.IntRange(1, 64512), default=64512, show_default=True,
              help="Of --rate: ports of each pool.")  # fmt: skip
@click.option("--no-spill", is_flag=True, help="Of --rate: a session tries its first NAT IP only.")
@common_options
def command(
    target: float, headroom: float, no_simulation: bool, as_json: bool, quiet: bool, seed: int, **told: Any
) -> None:
    """Tell how many NAT IPs a load needs, by formula and by simulation, and what else would help.

    The load is one of --rate, --scenario, --capture and --flow-log. A connection takes a port for its life, the
    time-out after its last packet, and the port hold. docs/plan.md has examples, docs/models.md the formulas.
    """
    _check(told, target)
    with errors_as_lines():
        from dataplane.runs.folder import to_json
        from dataplane.runs.plan import plan

        if not no_simulation or told["capture"] is not None:
            announce_compilation(quiet)
        load = _load(told)
        chosen = seed if given("seed") else None  # else the scenario's own
        result = plan(load, target, headroom / 100, seed=chosen, simulate=not no_simulation)
    if as_json:
        click.echo(to_json(result.document()), nl=False)
    else:
        from dataplane.cli.plan_tables import tell

        tell(result)
    sys.exit(0)


def _check(told: dict[str, Any], target: float) -> None:
    """Refuse options that do not go together."""
    if not 0 < target < 1:
        fail(f"--target {target:g}: a share of sessions is above 0 and below 1; write 1e-6 for one in a million")
    loads = [name for name in _LOADS if told[name] not in (None, ())]
    choices = ", ".join(_LOADS.values())
    if not loads:
        fail(f"what is the load? Give one of {choices}")
    if len(loads) > 1:
        names = " and ".join(_LOADS[name] for name in loads)
        fail(f"{names} are different loads; give one of {choices}")
    for name, fitting in _ONLY_WITH.items():
        if given(name) and loads[0] not in fitting:
            words = " and ".join(_LOADS[one] for one in fitting)
            fail(f"--{name.replace('_', '-')} goes with {words}, not with {_LOADS[loads[0]]}; leave it out")
    if loads == ["flow_logs"] and told["topology"] is None:
        fail("--flow-log needs the topology that tells private endpoints and NAT IPs; name one with -t")
    if told["keep_alive"] is not None and not told["idle"]:
        fail("--keep-alive is of connections that are idle; say with --idle how many percent are")


def _load(told: dict[str, Any]) -> Load:
    """The load that the options name."""
    from dataplane.runs.loads import Numbers, scenario_load
    from dataplane.runs.measured import capture_load, flow_log_load
    from dataplane.topology import load_topology
    from dataplane.topology.profiles import PROFILES

    topology = None if told["topology"] is None else load_topology(told["topology"])
    if told["scenario"] is not None:
        return scenario_load(told["scenario"])
    if told["capture"] is not None:
        return capture_load(told["capture"], topology, told["copies"])
    if told["flow_logs"]:
        assert topology is not None
        return flow_log_load(told["flow_logs"], topology, told["copies"])
    if told["profile"] not in PROFILES:
        fail(f"--profile {told['profile']}: there is no such profile; there are: {', '.join(PROFILES)}")
    names = ("rate", "life", "protocol", "ends", "profile", "port_hold", "timeout", "backends", "ports", "keep_alive")
    numbers = {name: told[name] for name in names}
    return Numbers(**numbers, spill=not told["no_spill"], idle=told["idle"] / 100).load()
