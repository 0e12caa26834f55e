"""`mmrag export` and `mmrag import`: an index out to an address, and back. Imports the work when it runs."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from pipelines.cli_options import (
    DEFAULT_INDEX,
    AsJson,
    Assignments,
    ConfigFile,
    IndexDir,
    effective_settings,
    print_json,
)

Address = Annotated[
    str,
    typer.Argument(
        metavar="DIR_OR_ADDRESS", help="A directory, or an address such as s3://bucket/backups/kb."
    ),
]

Replace = Annotated[
    bool,
    typer.Option(
        "--replace", help="Also an export of another index, or a full one where this index is empty."
    ),
]


def export(
    address: Address,
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
    replace: Replace = False,
    as_json: AsJson = False,
) -> None:
    """Back an index up: vectors, texts, previews, ledger and manifest, as Parquet.

    An earlier export at the address is deleted when the new one is whole: there must be room for both.

    Refused: a directory that holds anything else, and an index whose stores lack what its ledger says.

    An export of another index stands, and so does one that is full where this index is empty: see --replace.
    """
    settings = effective_settings(config, assignments)
    from pipelines.console import print_moved, progress_bar
    from pipelines.core.index import Index
    from pipelines.ingest.backup import export_index

    with Index(index, settings.index, writable=True) as opened, progress_bar() as progress:
        moved = export_index(opened, address, progress, replace=replace)
    if as_json:
        print_json({"index": str(index), **moved.as_dict()})
    else:
        print_moved("exported", moved)


def import_(
    address: Address,
    index: IndexDir = DEFAULT_INDEX,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
) -> None:
    """Fill a new or empty index with an export, in whatever stores the config names. Encodes nothing.

    The models must be those that wrote the export. The next ingest of the same sources does nothing.
    """
    settings = effective_settings(config, assignments)
    from pipelines.console import print_moved, progress_bar
    from pipelines.core.index import Index
    from pipelines.ingest.backup import import_index

    # The models' packages may print on stdout, which is the result's.
    with (
        Index(index, settings.index, writable=True) as opened,
        progress_bar() as progress,
        redirect_stdout(sys.stderr),
    ):
        moved = import_index(opened, address, progress)
    if as_json:
        print_json({"index": str(index), **moved.as_dict()})
    else:
        print_moved("imported", moved)
