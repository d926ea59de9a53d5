"""A plan as people read it: the load, the answer by formula and by simulation, what changes buy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from dataplane.cli.tables import console_for_output, show, table

if TYPE_CHECKING:
    from dataplane.runs.plan import Plan

#: A probability that is as good as none.
_NOTHING = 1e-12


def tell(plan: Plan) -> None:
    """Print a plan on standard output."""
    out = console_for_output()
    _load(out, plan)
    _answer(out, plan)
    out.print()
    _pools(out, plan)
    _simulated(out, plan)
    for note in plan.notes:
        out.print(f"note: {note}", markup=False)
    if plan.notes:
        out.print()
    _changes(out, plan)


def _load(out: Console, plan: Plan) -> None:
    more = f", and {100 * plan.headroom:g} % more" if plan.headroom else ""
    needed, first = plan.pools[0].needed, plan.pools[0]
    busiest = first.ports * (1 + plan.headroom)
    of_one = f" of {first.service}, {first.protocol}" if len(plan.pools) > 1 else ""
    out.print(
        f"{plan.load.words}{more}: {_figure(plan.rate * (1 + plan.headroom))} sessions/s, each on a port "
        f"for {_figure(plan.holding_seconds)} s in the mean; at the busiest moment {busiest:,.0f} ports at a "
        f"time{of_one}, {needed.load_per_backend:,.0f} toward each of {first.backends} backend(s)",
        markup=False,
    )
    if plan.broken:
        out.print(
            f"{100 * plan.broken:.3g} % of the connections are silent for longer than the idle time-out and lose their "
            "session while they live."
        )


def _answer(out: Console, plan: Plan) -> None:
    first = plan.pools[0]
    needed = first.needed
    if plan.nat_ips is None:
        out.print(
            f"8 NAT IPs, the most that a service may have, cannot carry it: {100 * needed.failure_probability:.3g} % "
            "of sessions would fail at the busiest moment, by formula. What would help stands below."
        )
    else:
        growth = ""
        if first.growth_percent is not None:
            growth = f", and the load can grow by {first.growth_percent:,.0f} % before more than {plan.target:g} fails"
        out.print(
            f"NAT IPs needed by formula: {plan.nat_ips}. Then {_share(needed.failure_probability)}, "
            f"{100 * needed.utilisation:.1f} % of the ports are in use{growth}."
        )
    if not plan.simulated:
        return
    if plan.simulated_nat_ips is None:
        tried = ", ".join(str(one.nat_ips) for one in plan.simulated)
        out.print(f"By simulation more than {plan.target:g} fails with {tried} NAT IP(s).")
        return
    chosen = next(one for one in plan.simulated if one.nat_ips == plan.simulated_nat_ips)
    bound = f"the share that fails is between {chosen.low:.2g} and {chosen.high:.2g} with 95 %"
    if chosen.high > plan.target:
        bound += f", so that it may be more than {plan.target:g}"
    out.print(f"NAT IPs needed by simulation: {plan.simulated_nat_ips}; {bound}.")


def _pools(out: Console, plan: Plan) -> None:
    """Each service's pools, where there are several."""
    if len(plan.pools) < 2:
        return
    rows = [
        (
            f"{pool.service} {pool.protocol}",
            f"{pool.ports:,.0f}",
            f"{pool.backends}",
            _number(pool.needed.nat_ips),
            f"{100 * pool.needed.utilisation:.1f} %",
            "-" if pool.growth_percent is None else f"{pool.growth_percent:,.0f} %",
        )
        for pool in plan.pools
    ]
    columns = ("ports at a time", "backends", "NAT IPs needed", "in use", "can grow by")
    show(out, table("By service and protocol, by formula", "service", *columns), rows)


def _simulated(out: Console, plan: Plan) -> None:
    rows = [
        (
            f"{one.nat_ips}",
            f"{one.connections:,}",
            f"{one.failures:,}",
            f"{one.share:.3g}",
            f"{one.low:.2g} to {one.high:.2g}",
            "0" if one.formula < _NOTHING else f"{one.formula:.3g}",
            f"{one.lowest_availability_percent:.2f} %",
        )
        for one in plan.simulated
    ]
    columns = ("connections", "failed", "share", "95 % between", "by formula", "lowest availability")
    show(out, table("Simulated with 3 seeds", "NAT IPs", *columns), rows)


def _changes(out: Console, plan: Plan) -> None:
    breaks = plan.broken or any(knob.broken for knob in plan.knobs)
    columns = ["NAT IPs needed", "ports at a time", "which frees", *(["lose their session"] if breaks else [])]
    rows = [
        (
            knob.change,
            _number(knob.nat_ips),
            f"{knob.ports:,.0f}",
            f"{knob.frees:,.0f}",
            *([_percent(knob.broken)] if breaks else []),
        )
        for knob in plan.knobs
    ]
    show(out, table("What a change buys, by formula", "change", *columns), rows)
    capped = [
        (
            f"{cap.service} {cap.protocol}",
            f"{cap.nat_ips}",
            f"{cap.ports_per_endpoint:,}",
            cap.endpoint,
            f"{cap.ports:,.0f}",
            _percent(cap.refused),
        )
        for cap in plan.caps
    ]
    names = ("with NAT IPs", "ports_per_endpoint", "busiest endpoint", "its ports", "refused of it")
    show(out, table("A cap per endpoint that leaves enough for all others, by formula", "service", *names), capped)
    carried = [(f"{one.nat_ips}", f"{one.backends:,}") for one in plan.backends]
    show(out, table("By backends", "NAT IPs", "backends needed"), carried)


def _percent(share: float) -> str:
    return "0 %" if share < _NOTHING else f"{100 * share:.3g} %"


def _figure(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _number(nat_ips: int | None) -> str:
    return "more than 8" if nat_ips is None else f"{nat_ips}"


def _share(probability: float) -> str:
    return "practically nothing fails" if probability < _NOTHING else f"a share of {probability:.2g} fails"
