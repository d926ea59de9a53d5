"""`dataplane topology`: check, show, schema, infer, import."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dataplane.cli.common import USAGE, announce_compilation, common_options, errors_as_lines
from dataplane.runs.folder import to_json
from dataplane.topology import TopologyError, dump_topology, load_topology, topology_schema


@click.group("topology", epilog="Example: dataplane topology check topology.yaml")
def command() -> None:
    """Check, show, infer and import topologies."""


@command.command("check", epilog="Example: dataplane topology check topology.yaml")
@click.argument("file", type=click.Path(path_type=Path))
@common_options
def check(file: Path, as_json: bool, quiet: bool, seed: int) -> None:
    """Say whether a topology file is right; list everything that is wrong with it, with lines."""
    try:
        topology = load_topology(file)
    except TopologyError as error:
        if as_json:
            problems = [problem._asdict() for problem in error.problems]
            click.echo(to_json({"valid": False, "problems": problems}), nl=False)
        else:
            click.echo(str(error), err=True)
        sys.exit(USAGE)
    if as_json:
        click.echo(to_json({"valid": True, "problems": []}), nl=False)
    else:
        click.echo(
            f"{file}: right: {len(topology.virtual_networks)} virtual networks, "
            f"{len(topology.private_link_services)} private link services, "
            f"{len(topology.private_endpoints)} private endpoints"
        )


@command.command("show", epilog="Example: dataplane topology show topology.yaml")
@click.argument("file", type=click.Path(path_type=Path))
@common_options
def show(file: Path, as_json: bool, quiet: bool, seed: int) -> None:
    """Print a topology with every default filled in."""
    with errors_as_lines():
        topology = load_topology(file)
        if as_json:
            click.echo(to_json(topology.model_dump(mode="json")), nl=False)
        else:
            click.echo(dump_topology(topology), nl=False)


@command.command("schema", epilog="Example: dataplane topology schema > topology.schema.json")
@common_options
def schema(as_json: bool, quiet: bool, seed: int) -> None:
    """Print the JSON Schema of topology files."""
    click.echo(to_json(topology_schema()), nl=False)


@command.command("infer", epilog="Example: dataplane topology infer monday.pcap > topology.yaml")
@click.argument("captures", nargs=-1, required=True, metavar="CAPTURE…")
@common_options
def infer(captures: tuple[str, ...], as_json: bool, quiet: bool, seed: int) -> None:
    """Print the topology in which every server of the captures is a private endpoint's service.

    It is what `dataplane replay` uses when it is given none. A capture that breaks counts as far as it can be read.
    """
    with errors_as_lines():
        from dataplane.runs import replay
        from dataplane.runs.sources import parse_sources, spooled

        announce_compilation(quiet)
        damage: list[str] = []
        with spooled(parse_sources(captures, set(replay.INFERRED_NETWORKS))) as sources:
            topology = replay.infer(sources, damage)
        if as_json:
            click.echo(to_json(topology.model_dump(mode="json")), nl=False)
        else:
            click.echo(dump_topology(topology), nl=False)
    for line in damage:
        click.echo(f"error: {line}", err=True)
    sys.exit(3 if damage else 0)


@command.command("import", epilog="Example: dataplane topology import vnets.json services.json -o topology.yaml")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Instead of standard output.")
@common_options
def import_(files: tuple[Path, ...], output: Path | None, as_json: bool, quiet: bool, seed: int) -> None:
    """Print the topology that Azure has, from what `az network vnet, private-link-service, private-endpoint, lb, nic`
    and `nsg` print (list or show, -o json), from REST responses and from ARM templates (az group export).

    Every FILE is told by what it holds. What the files do not say, and what was put in its place, is said on standard
    error, one line each.
    """
    with errors_as_lines():
        from dataplane.runs.folder import WholeFiles, check_outputs
        from dataplane.topology.azure import import_azure
        from dataplane.topology.dump import yaml_text

        imported = import_azure(files)
        text = to_json(imported.document) if as_json else yaml_text(imported.document)
        if output is None:
            click.echo(text, nl=False)
        else:
            check_outputs(map(str, files), None, [output])
            with WholeFiles() as written:
                written.text(output).write(text)
    if not quiet:
        for line in imported.notes:
            click.echo(f"note: {line}", err=True)
