"""LexicalStore on tantivy: BM25 in a directory, no server. Knows no paths of an index but its own.

One process writes at a time; any number read, and see what was committed. Tantivy's query language
is used only for ranges over terms of our own making, never on what a user wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import tantivy
from tantivy import Occur, Query

from pipelines.core.errors import StoreError, StoreLocked
from pipelines.core.filters import Filter
from pipelines.core.stores import facets
from pipelines.core.stores.records import check_parts, dump, from_row, last_of_each, to_row
from pipelines.core.stores.words import query_words, stemmer, words
from pipelines.core.types import Found, Part

_HEAP_BYTES: Final = 64 << 20
_ANALYZER: Final = "mmrag_words"


class TantivyStore:
    """A LexicalStore. Use `open`."""

    def __init__(self, path: Path, index: tantivy.Index, writable: bool) -> None:
        self._path = path
        self._index = index
        self._writable = writable
        self._writer: tantivy.IndexWriter | None = None
        self._dirty = False

    @classmethod
    def open(cls, path: Path, *, writable: bool) -> Self:
        """Open the index in `path`; with `writable`, create it if there is none.

        The writer's lock is taken by the first write, which raises StoreLocked if another process
        has it, and given back by the next `commit`.
        """
        with _translated(path):
            if not path.is_dir() or not tantivy.Index.exists(str(path)):
                if not writable:
                    raise StoreError(f"{path}: no lexical index here; run `mmrag ingest` first")
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            index = tantivy.Index(_schema(), str(path))
            # Analyzers are not part of what is on disk: each Index object needs them again.
            index.register_tokenizer(_ANALYZER, stemmer())
            index.config_reader("manual")
        return cls(path, index, writable)

    def upsert(self, parts: Sequence[Part]) -> None:
        check_parts(parts)
        writer = self._writing
        with _translated(self._path):
            for key, position in last_of_each(parts).items():
                writer.delete_documents_by_term("key", key)
                writer.add_document(_document(parts[position]))
        self._dirty = True

    def search(self, text: str, k: int, where: Filter | None = None) -> list[Found]:
        if k < 1:
            raise StoreError(f"k is {k}; ask for at least 1 hit")
        schema = self._index.schema
        tokens = dict.fromkeys(self._analyze(" ".join(query_words(text))))
        if not tokens:
            return []
        query = _either([Query.term_query(schema, "body", token, "freq") for token in tokens])
        if where is not None:
            kept = self._plan(facets.plan(where))
            query = Query.boolean_query(
                [(Occur.Must, query), (Occur.Must, Query.const_score_query(kept, 0.0))]
            )
        with _translated(self._path):
            self._index.reload()
            searcher = self._index.searcher()
            hits = searcher.search(query, min(k, max(1, searcher.num_docs)), count=False).hits
            return [Found(_part(searcher.doc(address)), float(score)) for score, address in hits]

    def delete(self, keys: Sequence[str]) -> None:
        writer = self._writing
        with _translated(self._path):
            for key in keys:
                writer.delete_documents_by_term("key", key)
        self._dirty = True

    def delete_documents(self, document_keys: Sequence[str], keep: Sequence[str] = ()) -> None:
        schema, writer = self._index.schema, self._writing
        stale = [(Occur.Must, Query.term_set_query(schema, "document_key", list(document_keys)))]
        if keep:
            stale.append((Occur.MustNot, Query.term_set_query(schema, "key", list(keep))))
        with _translated(self._path):
            writer.delete_documents_by_query(Query.boolean_query(stale))
        self._dirty = True

    def fetch(self, keys: Sequence[str]) -> dict[str, Part]:
        self.flush()
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return {}
        query = Query.term_set_query(self._index.schema, "key", wanted)
        with _translated(self._path):
            self._index.reload()
            searcher = self._index.searcher()
            hits = searcher.search(query, len(wanted), count=False).hits
            found = [_part(searcher.doc(address)) for _, address in hits]
        return {part.key: part for part in found}

    def count(self) -> int:
        self.flush()
        with _translated(self._path):
            self._index.reload()
            return int(self._index.searcher().num_docs)

    def flush(self) -> None:
        """What is committed is searchable too."""
        self.commit()

    def commit(self) -> None:
        """Gives the writer's lock back, too: of a job the driver writes, then a worker, and then it again."""
        if self._writer is None:
            return
        with _translated(self._path):
            if self._dirty:
                self._writer.commit()
                self._dirty = False
            writer, self._writer = self._writer, None
            writer.wait_merging_threads()

    def close(self) -> None:
        self.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _writing(self) -> tantivy.IndexWriter:
        if not self._writable:
            raise StoreError(f"{self._path}: opened for reading only")
        if self._writer is None:
            with _translated(self._path):
                self._writer = self._index.writer(_HEAP_BYTES, 1)
        return self._writer

    @cached_property
    def _analyze(self) -> Callable[[str], list[str]]:
        return stemmer().analyze  # type: ignore[no-any-return]

    def _plan(self, plan: facets.Plan) -> Query:
        schema = self._index.schema
        match plan:
            case facets.AnyTerm(terms):
                return Query.term_set_query(schema, "facets", list(terms))
            case facets.TermRange(lower, upper, include_lower, include_upper):
                # Terms are letters and digits, so nothing in them can be taken for syntax.
                left, right = "[" if include_lower else "{", "]" if include_upper else "}"
                return self._index.parse_query(f"facets:{left}{lower} TO {upper}{right}", ["facets"])
            case facets.Any(plans):
                return _either([self._plan(inner) for inner in plans])
            case facets.All(plans, without):
                return Query.boolean_query(
                    [
                        (Occur.Must, Query.all_query()),
                        *((Occur.Must, self._plan(inner)) for inner in plans),
                        *((Occur.MustNot, self._plan(inner)) for inner in without),
                    ]
                )


def _either(queries: Sequence[Query]) -> Query:
    return Query.boolean_query([(Occur.Should, query) for query in queries])


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for name in ("key", "document_key", "facets"):
        builder.add_text_field(name, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("body", tokenizer_name=_ANALYZER, index_option="freq")
    builder.add_bytes_field("row", stored=True)
    return builder.build()


def _document(part: Part) -> tantivy.Document:
    document = tantivy.Document()
    document.add_text("key", part.key)
    document.add_text("document_key", part.document_key)
    for term in facets.terms(part):
        document.add_text("facets", term)
    document.add_text("body", " ".join(words(part.text)))
    document.add_bytes("row", dump(to_row(part)).encode())
    return document


def _part(document: tantivy.Document) -> Part:
    return from_row(json.loads(bytes(document["row"][0])))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, OSError) as exc:  # tantivy raises ValueError for everything
        if "LockBusy" in str(exc):
            raise StoreLocked(
                f"{path}: another process is writing this index; wait for it to finish, or stop it"
            ) from exc
        raise StoreError(f"{path}: the lexical index failed: {exc}") from exc
