"""What an ingest must make of a corpus of hostile and broken inputs (`hostile_inputs` makes one).

Of a damaged file it cannot always be told whether something of it can be used: then either is right, but it
may not vanish. Each input ends in the ledger, in the dead letters, or in both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

_STATUSES = {"good": ("complete",), "partial": ("partial",), "refused": ("rejected", None)}
_INSIDE = re.compile(r"(\.(?:jsonl|json|csv|parquet|tar))[:/#].*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Expected:
    """What must become of an input: a file, or a row of one.

    `name` is its document's id. `good`: complete. `partial`: some of it. `refused`: nothing of it. `either`:
    in the ledger or in the dead letters. `stage` is where its dead letters come from, of which there are
    `letters`.
    """

    name: str
    outcome: Literal["good", "partial", "refused", "either"]
    stage: str = ""
    letters: int = 0


def refused(name: str, stage: str) -> Expected:
    return Expected(name, "refused", stage, letters=1)


@dataclass(frozen=True, slots=True)
class HostileCorpus:
    """`damaged` are addresses of manifests of which no other rows are told: some of each must be there."""

    sources: tuple[str, ...]
    expected: tuple[Expected, ...]
    damaged: tuple[str, ...]

    def complaints(
        self, ledger: Sequence[Mapping[str, Any]], letters: Sequence[Mapping[str, str]]
    ) -> list[str]:
        """What did not become what it must; empty where all is right."""
        status = {row["document_id"]: row["status"] for row in ledger}
        stages: dict[str, list[str]] = {}
        for letter in letters:
            stages.setdefault(letter["document_id"], []).append(letter["stage"])
        places = {letter["document_id"]: letter["source"] for letter in letters}
        places |= {row["document_id"]: row["scope"] for row in ledger}
        manifests = {_manifest(place) for place in places.values()}
        wrong = [f"{address}: vanished" for address in self.damaged if address not in manifests]
        strange = sorted(places.keys() - {e.name for e in self.expected})
        wrong += [f"{n}: nobody made it" for n in strange if _manifest(places[n]) not in self.damaged]
        for e in self.expected:
            if e.outcome == "either":
                if e.name not in places:
                    wrong.append(f"{e.name}: vanished")
                continue
            if status.get(e.name) not in _STATUSES[e.outcome]:
                wrong.append(f"{e.name}: is {status.get(e.name)}, not {e.outcome}")
            if stages.get(e.name, []) != [e.stage] * e.letters:
                wrong.append(f"{e.name}: dead letters of {stages.get(e.name)}, not {e.letters} of {e.stage}")
        return wrong


def _manifest(place: str) -> str:
    """`/a/rows.csv` of `/a/rows.csv:12`, `/a/shard.tar` of `/a/shard.tar/0001.png`."""
    return _INSIDE.sub(r"\1", place)
