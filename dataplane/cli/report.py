"""`dataplane report`: one page of a run or a sweep."""

from __future__ import annotations

from pathlib import Path

import click

from dataplane.cli.common import common_options, fail


@click.command("report", epilog="Example: dataplane report run --png slides")
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Instead of FOLDER/report.html.")
@click.option("--png", type=click.Path(path_type=Path), metavar="DIR", help="Also every chart as PNG, for slides.")
@common_options
def command(folder: Path, output: Path | None, png: Path | None, as_json: bool, quiet: bool, seed: int) -> None:
    """Make one HTML page of a run or a sweep.

    FOLDER is what -o of `dataplane replay`, `exhaust` or `sweep` named. The page of a run shows NAT ports, who used
    them, sessions, bytes, drops; that of a sweep its figures over the settings of the grid. It is one file that needs
    no network. --png needs matplotlib: pip install 'matplotlib>=3.8'.
    """
    from dataplane.report import write_report
    from dataplane.runs.folder import RunError, to_json

    try:
        report = write_report(folder, output, png)
    except RunError as error:
        fail(str(error))
    except MemoryError:
        fail("the machine has not enough memory for this")
    size = report.page.stat().st_size
    if as_json:
        pictures = [{"path": str(path), "bytes": path.stat().st_size} for path in report.pictures]
        told = {"path": str(report.page), "bytes": size, "charts": report.charts, "pictures": pictures}
        click.echo(to_json(told), nl=False)
    else:
        click.echo(f"written to {report.page}: {report.charts} charts, {size / 1e6:.1f} MB")
        if report.pictures:
            click.echo(f"{len(report.pictures)} pictures in {png}")
