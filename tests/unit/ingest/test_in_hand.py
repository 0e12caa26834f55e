"""What workers had in hand when they were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipelines.ingest.chunk import ChunkConfig
from pipelines.ingest.in_hand import KILLS, InHand
from pipelines.ingest.listed import ITEMS
from pipelines.ingest.sources import SourceConfig
from pipelines.ingest.stages import ParseItems


def killed_over(folder: Path, what: str, times: int = 1) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from pipelines.ingest.in_hand import InHand\n"
        "InHand(Path(sys.argv[1]))(sys.argv[2])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for _ in range(times):
        done = subprocess.run([sys.executable, "-c", code, folder, what], timeout=60)
        assert done.returncode == -signal.SIGKILL


def test_what_kills_its_readers_is_known_after_some_of_them_and_what_lives_is_not(tmp_path: Path) -> None:
    here = InHand(tmp_path)
    killed_over(tmp_path, "散热器.pdf", KILLS - 1)
    assert here.killers(["散热器.pdf", "b"]) == set()
    assert here.suspects() == ["散热器.pdf"]
    here("b")
    killed_over(tmp_path, "散热器.pdf")
    assert here.killers(["散热器.pdf", "b"]) == {"散热器.pdf"}
    here("")
    assert len(list(tmp_path.iterdir())) == KILLS


def test_what_many_have_in_hand_at_once_kills_by_a_part_of_it(tmp_path: Path) -> None:
    for number in range(KILLS):
        InHand(tmp_path)("logo.png", f"document {number}")
        next(tmp_path.glob("*.*")).rename(tmp_path / f"host-{number}")
    assert InHand(tmp_path).killers(["logo.png"]) == set()
    for number in range(KILLS):
        (tmp_path / f"host-{number}").write_bytes(b"logo.png\0document 0")
    assert InHand(tmp_path).killers(["logo.png"]) == {"logo.png"}


def test_a_name_that_is_no_utf_8_is_told_apart_too(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    for number in range(KILLS):
        (tmp_path / f"host.{number}").write_bytes(name.encode(errors="surrogatepass"))
    assert InHand(tmp_path).killers([name]) == {name}
    assert len(InHand(tmp_path).suspects()) == 1


def items(folder: Path) -> pa.Table:
    made = []
    for name in "ab":
        (folder / f"{name}.txt").write_text(name)
        address = str(folder / f"{name}.txt")
        fields = {"form": "text", "document_id": name, "address": address, "scope": str(folder)}
        made.append(fields | {"root": str(folder), "inputs": [address], "tenant": "", "payload": b""})
    return pa.Table.from_pylist(made, schema=ITEMS)


@pytest.mark.parametrize("times", [KILLS - 1, KILLS])
def test_a_document_that_kills_its_readers_is_refused_and_its_neighbour_is_read(
    tmp_path: Path, times: int
) -> None:
    batch = items(tmp_path)
    name = f"a ({tmp_path / 'a.txt'})"
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(times):
        (notes / f"host.{number}").write_text(name)
    rows = ParseItems(SourceConfig(), ChunkConfig(), in_hand=InHand(notes))(batch).to_pylist()
    refused = [row for row in rows if row["reason"] is not None]
    if times < KILLS:
        assert refused == []
    else:
        [bad] = refused
        assert (bad["document_id"], bad["stage"]) == ("a", "parse")
        assert bad["reason"].startswith(f"{name}: {KILLS} processes died over it; is it damaged")
    assert next(row["text"] for row in rows if row["document_id"] == "b") == "b"
    assert len(list(notes.iterdir())) == times
