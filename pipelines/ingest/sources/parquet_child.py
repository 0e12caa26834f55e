"""A process of its own that counts what the lists of a Parquet file hold, by its footer on standard input.

It prints, of each row group, the most values of a column of lists, as one JSON list. pyarrow (26.0.1) ends
its process over some broken footers when a column of a row group is looked at. Run as a file, it imports
nothing of this package.
"""

from __future__ import annotations

import io
import json
import resource
import sys
from contextlib import suppress

MEMORY_BYTES = 2 * 2**30  # of address space; not enforced on a Mac
CPU_S = 20


def main() -> None:
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    import pyarrow.parquet as pq

    footer = pq.read_metadata(io.BytesIO(sys.stdin.buffer.read()))
    repeated = [n for n in range(footer.num_columns) if footer.schema.column(n).max_repetition_level]
    groups = map(footer.row_group, range(footer.num_row_groups))
    json.dump(
        [max((group.column(n).num_values for n in repeated), default=0) for group in groups], sys.stdout
    )


if __name__ == "__main__":
    main()
