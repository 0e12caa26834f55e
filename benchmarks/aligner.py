"""Does an aligner put the right picture first more often than the encoder alone?

    python benchmarks/aligner.py --out DIR [--aligner DIR ...]

Fetches the pictures of benchmarks/data/aligner_pairs.py into DIR, writes DIR/pairs.jsonl for
`mmrag train aligner`, and asks for emoji by their English and Chinese names, among the pictures of one
vendor that neither encoder nor aligner was trained on. "Known" are concepts whose names, with other vendors'
pictures, both were trained on; "new" ones (fold 0) were never named to either. R@1 in the encoder's order and
with its first 20 reordered, over the same questions, and the gain with its 95 % bootstrap interval. Prints a
Markdown table for each aligner; without --aligner, for the packaged one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
from data import aligner_pairs, emoji
from numpy.typing import NDArray

from pipelines.core.aligner import PACKAGED, MemoryAligner
from pipelines.core.cache import VectorCache
from pipelines.core.embedder import EmbedderConfig, load_embedder
from pipelines.core.encoder import EncoderConfig, load_encoder
from pipelines.train.aligner_data import Row, pairs_of_file
from pipelines.train.aligner_loop import hits, interval
from pipelines.train.aligner_pairs import Pairs

LANGUAGES = ("en", "zh")
Hits = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def vendor_pairs(out: Path, concepts: list[emoji.Concept], vendor: str) -> Pairs:
    """The vendor's pictures of these concepts, each with its English and its Chinese name."""
    encoder, embedder = load_encoder(EncoderConfig()), load_embedder(EmbedderConfig())
    rows = [
        Row(
            image=f"pictures/{vendor}/{concept.picture}",
            texts=tuple(concept.names[language] for language in LANGUAGES),
        )
        for concept in concepts
    ]
    cache = VectorCache(out / "cache" / "aligner-vectors.sqlite", encoder.cache_key)
    pairs = pairs_of_file(rows, out, encoder, embedder, cache, _told(vendor))
    assert not pairs.skipped
    return pairs


def _told(vendor: str) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if done == total:
            print(f"{total:,} pictures of {vendor}", flush=True)

    return tell


def measured(aligner: MemoryAligner, pairs: Pairs, names: list[dict[str, str]], language: str) -> Hits:
    """Of each name: whether a picture that bears it came first among those of all names, before and after.
    Pictures that are the same are one, and bear the names of all."""
    place = {text: number for number, text in enumerate(pairs.texts)}
    belong = {tuple(pair) for pair in pairs.of.tolist()}
    pictures: dict[int, set[int]] = defaultdict(set)
    for text, picture in belong:
        pictures[text].add(picture)
    both = [set.intersection(*(pictures[place[name[one]]] for one in LANGUAGES)) for name in names]
    among = sorted(set().union(*both))
    texts = [place[name[language]] for name in names]
    bears = np.array([[(text, picture) in belong for picture in among] for text in texts])
    return hits(aligner, pairs.visual[texts], pairs.text[texts], pairs.pictures[among], bears)


def line(name: str, language: str, found: Hits) -> str:
    before, after = found
    gained = after.astype(float) - before
    low, high = interval(gained)
    mean = gained.mean()
    return (
        f"| {name} | {language} | {len(before):,} | {before.mean():.3f} | {after.mean():.3f} "
        f"| {mean:+.3f} ({low:+.3f} to {high:+.3f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "mmrag-benchmarks")
    parser.add_argument("--aligner", type=Path, action="append", help="again for more; else the packaged one")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    concepts = aligner_pairs.build(args.out)
    folds = np.array([concept.fold for concept in concepts])
    new = folds == aligner_pairs.HELD_OUT_FOLD
    drawn = {
        vendor: np.array(
            [(args.out / "pictures" / vendor / concept.picture).exists() for concept in concepts]
        )
        for vendor in aligner_pairs.MEASURED_VENDORS
    }
    of_vendor = {
        vendor: vendor_pairs(args.out, [concepts[number] for number in np.flatnonzero(there)], vendor)
        for vendor, there in drawn.items()
    }
    for directory in args.aligner or [PACKAGED]:
        aligner = MemoryAligner.load(directory)
        print(f"\n{directory.name}: {aligner.description.kind}\n")
        print("| concepts, pictures of | | questions | encoder | aligner | gain (95 %) |")
        print("|---|---|---|---|---|---|")
        for name, wanted in (("known", ~new), ("new", new)):
            for language in LANGUAGES:
                for vendor, pairs in of_vendor.items():
                    names = [concepts[number].names for number in np.flatnonzero(wanted & drawn[vendor])]
                    found = measured(aligner, pairs, names, language)
                    print(line(f"{name}, {vendor}", language, found), flush=True)


if __name__ == "__main__":
    main()
