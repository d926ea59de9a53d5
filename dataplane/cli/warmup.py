"""`dataplane warmup`: compile everything once."""

from __future__ import annotations

import time

import click

from dataplane.cli.common import announce_compilation, common_options
from dataplane.runs.folder import to_json


@click.command("warmup", epilog="Example: dataplane warmup")
@common_options
def command(as_json: bool, quiet: bool, seed: int) -> None:
    """Compile the kernels for this processor, so that no later command has to.

    The machine code is kept in the user's cache folder (or NUMBA_CACHE_DIR) until the package changes.
    """
    from dataplane.kernel import CACHE_FOLDER
    from dataplane.runs.warmup import warm_up

    announce_compilation(quiet)
    start = time.perf_counter()
    warm_up()
    seconds = time.perf_counter() - start
    folder = None if CACHE_FOLDER is None else str(CACHE_FOLDER)
    if as_json:
        click.echo(to_json({"seconds": round(seconds, 3), "cache": folder}), nl=False)
    else:
        click.echo(f"the kernels are ready after {seconds:.1f} s: {folder or 'compilation is switched off'}")
