"""LexicalStore on Elasticsearch 8 or 9: BM25 over one index. Knows no models and no jobs.

One text field serves Chinese and English with built-in filters: pairs of neighbouring characters
for Chinese, stems for English. Metadata is kept as it came and not mapped; filters go through
`facets`, so no field of a user's can change the mapping, or conflict with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

from pipelines.core.errors import MissingDependency, PartsRefused, StoreError, StoreUnavailable, install_line
from pipelines.core.filters import Filter
from pipelines.core.identity import require_own
from pipelines.core.stores import facets
from pipelines.core.stores.config import ElasticConfig
from pipelines.core.stores.records import check_parts, from_row, last_of_each, to_row
from pipelines.core.stores.words import query_words
from pipelines.core.types import Found, Part

try:
    from elasticsearch import ApiError, Elasticsearch, TransportError
    from elasticsearch.helpers import streaming_bulk
except ImportError as exc:
    raise MissingDependency(f"stores.elastic needs: {install_line('elastic')}") from exc

MAX_K: Final = 10_000  # index.max_result_window
_MAX_TERMS: Final = 65_536  # index.max_terms_count, of one `terms` query
_TRANSIENT: Final = (429, 502, 503, 504)
_BAD_PART: Final = ("document_parsing_exception", "mapper_parsing_exception")  # others are the index's
_BULK_ACTIONS: Final = 500
_BULK_BYTES: Final = 10 << 20
_KEYS_A_REQUEST: Final = 1_000
_DELETE_S: Final = 600.0
"""A delete by query goes on at the server when we give it up, and is in the way of the next one."""
_DELETE_TRIES: Final = 5
_REASONS_SHOWN: Final = 3

_OWNER: Final = "mmrag"  # in the mapping's _meta, the index whose it is
_STORED_ONLY: Final = {"type": "keyword", "index": False, "doc_values": False}
_MAPPINGS: Final[Mapping[str, Any]] = {
    "dynamic": "strict",
    "properties": {
        "key": {"type": "keyword"},
        "document_key": {"type": "keyword"},
        "facets": {"type": "keyword"},
        "text": {"type": "text", "analyzer": "mmrag_index", "search_analyzer": "mmrag_query"},
        "id": _STORED_ONLY,
        "kind": _STORED_ONLY,
        "document_id": _STORED_ONLY,
        "source": _STORED_ONLY,
        "tenant": _STORED_ONLY,
        "content": _STORED_ONLY,
        "image_ids": _STORED_ONLY,
        "metadata": {"type": "object", "enabled": False},
    },
}
_SETTINGS: Final[Mapping[str, Any]] = {
    "analysis": {
        "filter": {
            # Single characters are indexed beside the pairs, so that a query of one character finds
            # them; a longer query is cut into pairs only.
            "mmrag_cjk": {"type": "cjk_bigram", "output_unigrams": True},
            "mmrag_stem": {"type": "stemmer", "language": "english"},
        },
        # The standard tokenizer keeps `size:32` and `a_b` in one piece.
        "char_filter": {
            "mmrag_breaks": {"type": "mapping", "mappings": [f"{sign}=>\\u0020" for sign in ":_.'’"]}
        },
        "analyzer": {
            "mmrag_index": {
                "char_filter": ["mmrag_breaks"],
                "tokenizer": "standard",
                "filter": ["cjk_width", "lowercase", "mmrag_cjk", "mmrag_stem"],
            },
            "mmrag_query": {
                "char_filter": ["mmrag_breaks"],
                "tokenizer": "standard",
                "filter": ["cjk_width", "lowercase", "cjk_bigram", "mmrag_stem"],
            },
        },
    }
}


class ElasticStore:
    """A LexicalStore. Use `open`."""

    def __init__(self, client: Elasticsearch, config: ElasticConfig, index: str) -> None:
        self._client = client
        self._config = config
        self._index = index

    @classmethod
    def open(cls, config: ElasticConfig, index: str, *, create: bool = True, owner: str = "") -> Self:
        """Open `prefix + index`, and create it, as the mmrag index `owner`'s, if it is not there and `create`
        says so.

        StoreUnavailable when nothing answers at `url`; StoreError when the index is missing or not
        mmrag's; OtherIndex when it is not `owner`'s.
        """
        name = config.prefix + index
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,200}", name):
            raise StoreError(
                f"index {name!r}: use lower-case letters, digits, - and _, starting with no sign"
            )
        client = _connect(config)
        try:
            with _translated(config.url, f"open index {name}"):
                if not client.indices.exists(index=name):
                    if not create:
                        raise StoreError(f"{config.url}: no index {name}; run `mmrag ingest` first")
                    _create(client, name, owner)
                _check_existing(client, config.url, name, owner)
        except BaseException:
            client.close()
            raise
        return cls(client, config, name)

    @staticmethod
    def exists(config: ElasticConfig, index: str, owner: str = "") -> bool:
        """Whether `prefix + index` is there. Raises StoreUnavailable and StoreError as `open` does, and
        OtherIndex when it is not `owner`'s."""
        name = config.prefix + index
        with _connect(config) as client, _translated(config.url, "look"):
            return _is_there(client, config.url, name, owner)

    @staticmethod
    def drop(config: ElasticConfig, index: str, owner: str = "") -> None:
        """Delete `prefix + index`; one that is not there is no error. Raises as `exists` does, and OtherIndex
        when it is not `owner`'s."""
        name = config.prefix + index
        with _connect(config) as client, _translated(config.url, f"drop index {name}"):
            if _is_there(client, config.url, name, owner):
                client.indices.delete(index=name)

    def upsert(self, parts: Sequence[Part]) -> None:
        check_parts(parts)
        self._bulk(
            {
                "_op_type": "index",
                "_index": self._index,
                "_id": key,
                "_source": to_row(parts[position])
                | {
                    "image_ids": list(parts[position].image_ids),
                    "metadata": dict(parts[position].metadata),
                    "facets": facets.terms(parts[position]),
                },
            }
            for key, position in last_of_each(parts).items()
        )

    def search(self, text: str, k: int, where: Filter | None = None) -> list[Found]:
        if not 1 <= k <= MAX_K:
            raise StoreError(f"k is {k}; Elasticsearch answers 1 to {MAX_K} hits")
        wanted = " ".join(query_words(text))
        if not wanted:
            return []
        query: dict[str, Any] = {"must": [{"match": {"text": {"query": wanted}}}]}
        if where is not None:
            query["filter"] = [_plan(facets.plan(where))]
        with _translated(self._config.url, "search"):
            answer = self._client.search(
                index=self._index,
                query={"bool": query},
                size=k,
                source_excludes=["facets"],
                track_total_hits=False,
            )
        return [Found(from_row(hit["_source"]), float(hit["_score"])) for hit in answer["hits"]["hits"]]

    def delete(self, keys: Sequence[str]) -> None:
        self._bulk({"_op_type": "delete", "_index": self._index, "_id": key} for key in dict.fromkeys(keys))

    def delete_documents(self, document_keys: Sequence[str], keep: Sequence[str] = ()) -> None:
        self._refresh()  # a delete by query sees what a search sees
        for start in range(0, len(document_keys), _KEYS_A_REQUEST):
            batch = list(document_keys[start : start + _KEYS_A_REQUEST])
            query: dict[str, Any] = {"filter": [{"terms": {"document_key": batch}}]}
            query["must_not"] = [
                {"terms": {"key": list(keep[first : first + _MAX_TERMS])}}
                for first in range(0, len(keep), _MAX_TERMS)
            ]
            self._delete_found({"bool": query})

    def fetch(self, keys: Sequence[str]) -> dict[str, Part]:
        found: dict[str, Part] = {}
        for start in range(0, len(keys), _KEYS_A_REQUEST):
            with _translated(self._config.url, "fetch"):
                answer = self._client.mget(
                    index=self._index,
                    ids=list(dict.fromkeys(keys[start : start + _KEYS_A_REQUEST])),
                    source_excludes=["facets"],
                )
            found |= {doc["_id"]: from_row(doc["_source"]) for doc in answer["docs"] if doc.get("found")}
        return found

    def count(self) -> int:
        self._refresh()
        with _translated(self._config.url, "count"):
            return int(self._client.count(index=self._index)["count"])

    def commit(self) -> None:
        """Acknowledged writes are durable already."""

    def flush(self) -> None:
        """A refresh makes them searchable, which costs the server a segment."""
        self._refresh()

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _delete_found(self, query: Mapping[str, Any]) -> None:
        """Delete what a search finds, until none is left that was changed between the search and its turn."""
        client = self._client.options(request_timeout=max(self._config.timeout_s, _DELETE_S))
        for _ in range(_DELETE_TRIES):
            with _translated(self._config.url, "delete"):
                answer = client.delete_by_query(
                    index=self._index, query=query, conflicts="proceed", refresh=True
                )
            if answer.get("failures"):
                raise StoreError(
                    f"{self._config.url}: {len(answer['failures'])} parts were not deleted; run it again"
                )
            if not (answer.get("version_conflicts") or answer.get("timed_out")):
                return
        raise StoreUnavailable(f"{self._config.url}: others keep changing the parts that are to be deleted")

    def _refresh(self) -> None:
        with _translated(self._config.url, "refresh"):
            self._client.indices.refresh(index=self._index)

    def _bulk(self, actions: Iterable[dict[str, Any]]) -> None:
        """Send all actions. Raises StoreError where some failed for a reason that is not theirs, else
        StoreUnavailable where the server had no room for some, which passes, else PartsRefused."""
        refused: dict[str, str] = {}
        failed: dict[str, str] = {}
        busy = 0
        with _translated(self._config.url, "write"):
            for ok, item in streaming_bulk(
                self._client,
                actions,
                chunk_size=_BULK_ACTIONS,
                max_chunk_bytes=_BULK_BYTES,
                raise_on_error=False,
                max_retries=self._config.max_retries,
                initial_backoff=1,
                max_backoff=30,
                retry_on_status=_TRANSIENT,
            ):
                (operation, outcome), *_ = item.items()
                if ok or (operation == "delete" and outcome.get("status") == 404):
                    continue
                if outcome["status"] in _TRANSIENT:
                    busy += 1
                else:
                    errors = refused if _is_of_the_part(outcome.get("error")) else failed
                    errors[outcome["_id"]] = _reason(outcome.get("error"))
        if failed:
            raise StoreError(f"{self._config.url}: {_shown(failed)}")
        if busy:
            raise StoreUnavailable(f"{self._config.url}: too busy to write {busy} parts")
        if refused:
            raise PartsRefused(f"{self._config.url}: {_shown(refused)}", refused)


def _is_of_the_part(error: Any) -> bool:
    """Whether an item's error is of what is in it: a field that cannot be parsed or indexed."""
    kind = error.get("type") if isinstance(error, Mapping) else None
    return kind in _BAD_PART or "immense term" in _reason(error)


def _shown(reasons: Mapping[str, str]) -> str:
    first = (f"{key}: {reason}" for key, reason in islice(reasons.items(), _REASONS_SHOWN))
    return f"{len(reasons)} parts were refused, among them {'; '.join(first)}"


def _connect(config: ElasticConfig) -> Elasticsearch:
    options: dict[str, Any] = {
        "request_timeout": config.timeout_s,
        "max_retries": config.max_retries,
        "retry_on_status": _TRANSIENT,
    }
    if config.api_key is not None:
        options["api_key"] = config.api_key.get_secret_value()
    if config.username is not None and config.password is not None:
        options["basic_auth"] = (config.username, config.password.get_secret_value())
    if config.url.startswith("https"):
        options |= {"verify_certs": config.verify_certs, "ca_certs": config.ca_certs}
    return Elasticsearch(config.url, **options)


def _create(client: Elasticsearch, name: str, owner: str) -> None:
    mappings = {**_MAPPINGS, "_meta": {_OWNER: owner}} if owner else _MAPPINGS
    try:
        client.indices.create(index=name, mappings=mappings, settings=_SETTINGS)
    except ApiError as exc:
        if exc.error != "resource_already_exists_exception":
            raise  # Otherwise another process was faster, and what it made is checked next.


def _mappings(client: Elasticsearch, name: str) -> list[dict[str, Any]]:
    """Of the index; of each index, where the name is an alias."""
    return [found["mappings"] for found in client.indices.get_mapping(index=name).values()]


def _is_there(client: Elasticsearch, url: str, name: str, owner: str) -> bool:
    """Raises OtherIndex for one that is not `owner`'s."""
    if not client.indices.exists(index=name):
        return False
    for mappings in _mappings(client, name):
        _require_own(mappings, url, name, owner)
    return True


def _require_own(mappings: Mapping[str, Any], url: str, name: str, owner: str) -> None:
    found = mappings.get("_meta", {}).get(_OWNER, "")
    require_own(f"{url}: Elasticsearch's index {name}", found, owner, "stores.elastic.prefix")


def _check_existing(client: Elasticsearch, url: str, name: str, owner: str) -> None:
    for mappings in _mappings(client, name):
        missing = _MAPPINGS["properties"].keys() - mappings.get("properties", {}).keys()
        if missing:
            raise StoreError(
                f"{url}: index {name} is not mmrag's (no field {', '.join(sorted(missing))}); "
                "set another prefix"
            )
        _require_own(mappings, url, name, owner)


def _plan(plan: facets.Plan) -> dict[str, Any]:
    match plan:
        case facets.AnyTerm(terms):
            return {"terms": {"facets": list(terms)}}
        case facets.TermRange(lower, upper, include_lower, include_upper):
            low, high = "gte" if include_lower else "gt", "lte" if include_upper else "lt"
            return {"range": {"facets": {low: lower, high: upper}}}
        case facets.Any(plans):
            return {"bool": {"should": [_plan(inner) for inner in plans], "minimum_should_match": 1}}
        case facets.All(plans, without):
            return {
                "bool": {
                    "filter": [{"match_all": {}}, *(_plan(inner) for inner in plans)],
                    "must_not": [_plan(inner) for inner in without],
                }
            }


@contextmanager
def _translated(url: str, doing: str) -> Iterator[None]:
    try:
        yield
    except TransportError as exc:
        raise StoreUnavailable(f"{url}: {doing} failed; is Elasticsearch running there? ({exc})") from exc
    except ApiError as exc:
        if exc.status_code in _TRANSIENT:
            raise StoreUnavailable(f"{url}: {doing} failed, the server is busy: {exc.message}") from exc
        if exc.status_code in (401, 403):
            raise StoreError(
                f"{url}: {doing} is not allowed; check api_key or username and password"
            ) from exc
        raise StoreError(f"{url}: {doing} refused: {_reason(exc.body)}") from exc


def _reason(error: Any) -> str:
    """The sentence inside an error of Elasticsearch's, which may be text or nested objects."""
    if isinstance(error, dict):
        return _reason(error.get("reason") or error.get("error") or str(error))
    return str(error)[:500]
