"""VectorStore on Milvus: milvus-lite as a server, or Milvus 2.3 and later. Knows no models and no jobs.

One collection holds one vector field, compared by inner product. Everything that the servers are
known to take silently (NaN, another dimension, an unknown index type, a message that is too big) is
refused here, before anything is written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from pipelines.core.addresses import is_here
from pipelines.core.errors import StoreError
from pipelines.core.filters import Filter
from pipelines.core.identity import require_own
from pipelines.core.stores import Vectors
from pipelines.core.stores.config import SEARCH_PARAMETERS, MilvusConfig, parameters
from pipelines.core.stores.milvus_errors import translated
from pipelines.core.stores.milvus_filter import dynamic_fields, expression, literal, one_of
from pipelines.core.stores.pymilvus_names import DataType, LoadState, MilvusClient, MilvusException
from pipelines.core.stores.records import (
    MAX_FIELD_BYTES,
    MAX_TEXT_BYTES,
    check_parts,
    check_vectors,
    from_row,
    last_of_each,
    to_row,
)
from pipelines.core.types import Found, Part

MAX_K: Final = 16_384  # Milvus's own limit on the rows of one answer
_MESSAGE_BYTES: Final = 32 << 20  # Milvus refuses 64 MiB; half leaves room for protobuf
_KEYS_A_REQUEST: Final = 2_000
_FIELDS: Final = {
    "document_key": 32,
    "tenant": MAX_FIELD_BYTES,
    "id": MAX_FIELD_BYTES,
    "kind": 16,
    "document_id": MAX_FIELD_BYTES,
    "source": MAX_FIELD_BYTES,
    "text": MAX_TEXT_BYTES,
    "content": MAX_FIELD_BYTES,
    "image_ids": MAX_TEXT_BYTES,
    "metadata": MAX_TEXT_BYTES,  # as it came; what filters read are the dynamic fields beside it
}
_OUTPUT: Final = ["key", *_FIELDS]
_OWNER: Final = "mmrag: "  # how a description begins that names the index; any other is somebody's words

# pymilvus pings every 10 s; milvus-lite, with gRPC's default policy, hangs up on a client that pings an idle
# connection more than once in five minutes ("Too many pings").
_CHANNEL: Final = {"grpc.keepalive_time_ms": 600_000, "grpc.keepalive_permit_without_calls": 0}


class MilvusStore:
    """A VectorStore. Use `open`."""

    def __init__(
        self, client: MilvusClient, config: MilvusConfig, collection: str, dim: int, index: str, rows: int = 0
    ) -> None:
        self.dim = dim
        self._client = client
        self._config = config
        self._collection = collection
        self._index = index
        self._search_defaults = parameters(index, rows)[1]
        self._timeout = config.timeout_s

    @classmethod
    def open(
        cls,
        config: MilvusConfig,
        collection: str,
        dim: int,
        *,
        create: bool = True,
        expected_rows: int = 0,
        owner: str = "",
    ) -> Self:
        """Open `prefix + collection`; if it is not there and `create` says so, create it for `expected_rows`,
        as the index `owner`'s.

        StoreUnavailable when nothing answers at `uri`; StoreError when the collection is missing or
        was made with another dimension or index; OtherIndex when it is not `owner`'s.
        """
        name = config.prefix + collection
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
            raise StoreError(f"collection {name!r}: use letters, digits and _ only, and no leading digit")
        client = _connect(config)
        try:
            with translated(config.uri, f"open collection {name}"):
                if not client.has_collection(name, timeout=config.timeout_s):
                    if not create:
                        raise StoreError(f"{config.uri}: no collection {name}; run `mmrag ingest` first")
                    _create(client, config, name, dim, expected_rows, owner)
                index = _check_existing(client, config, name, dim, owner)
                if client.get_load_state(name, timeout=config.timeout_s)["state"] != LoadState.Loaded:
                    client.load_collection(name, timeout=config.timeout_s)
                rows = int(client.get_collection_stats(name, timeout=config.timeout_s)["row_count"])
        except BaseException:
            client.close()
            raise
        return cls(client, config, name, dim, index, rows)

    @staticmethod
    def exists(config: MilvusConfig, collection: str, owner: str = "") -> bool:
        """Whether `prefix + collection` is there. Raises StoreUnavailable and StoreError as `open` does, and
        OtherIndex when it is not `owner`'s."""
        client, name = _connect(config), config.prefix + collection
        try:
            with translated(config.uri, "look"):
                return _is_there(client, config, name, owner)
        finally:
            client.close()

    @staticmethod
    def drop(config: MilvusConfig, collection: str, owner: str = "") -> None:
        """Delete `prefix + collection`; one that is not there is no error. Raises as `exists` does, and
        OtherIndex when it is not `owner`'s."""
        client, name = _connect(config), config.prefix + collection
        try:
            with translated(config.uri, f"drop collection {name}"):
                if _is_there(client, config, name, owner):
                    client.drop_collection(name, timeout=config.timeout_s)
        finally:
            client.close()

    def upsert(self, parts: Sequence[Part], vectors: Vectors) -> None:
        check_vectors(vectors, len(parts), self.dim)
        check_parts(parts)
        rows = []
        # Milvus 2.3 keeps both rows when one message names a key twice.
        for position in last_of_each(parts).values():
            part = parts[position]
            vector = vectors[position].astype(np.float32)
            rows.append(to_row(part) | dynamic_fields(part.metadata) | {"vector": vector})
        for batch in _by_bytes(rows, self.dim):
            with translated(self._config.uri, "upsert"):
                answer = self._client.upsert(self._collection, batch, timeout=self._timeout)
            if answer["upsert_count"] != len(batch):
                raise StoreError(
                    f"{self._config.uri}: acknowledged {answer['upsert_count']} of {len(batch)} rows; "
                    "run the same upsert again"
                )

    def search(self, vector: Vectors, k: int, where: Filter | None = None) -> list[Found]:
        check_vectors(vector[None], 1, self.dim)
        if not 1 <= k <= MAX_K:
            raise StoreError(f"k is {k}; Milvus answers 1 to {MAX_K} hits")
        with translated(self._config.uri, "search"):
            answer = self._client.search(
                self._collection,
                data=[vector.astype(np.float32)],
                filter=expression(where) if where is not None else "",
                limit=k,
                output_fields=_OUTPUT,
                search_params={"metric_type": "IP", "params": self._search_params(k)},
                anns_field="vector",
                # Fresh writes are made visible by `flush`; Strong would cost every search a time tick.
                consistency_level="Bounded",
                timeout=self._timeout,
            )
        return [Found(from_row(hit["entity"]), float(hit["distance"])) for hit in answer[0]]

    def has_content(self, content: str, tenant: str) -> bool:
        with translated(self._config.uri, "query"):
            rows = self._client.query(
                self._collection,
                filter=f"content == {literal(content)} and tenant == {literal(tenant)}",
                output_fields=["key"],
                limit=1,
                consistency_level="Bounded",
                timeout=self._timeout,
            )
        return bool(rows)

    def contents(self, among: Sequence[str]) -> set[str]:
        found: set[str] = set()
        for start in range(0, len(among), _KEYS_A_REQUEST):
            found.update(self._values("content", one_of("content", among[start : start + _KEYS_A_REQUEST])))
        return found

    def delete(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), _KEYS_A_REQUEST):
            batch = list(keys[start : start + _KEYS_A_REQUEST])
            with translated(self._config.uri, "delete"):
                self._client.delete(self._collection, ids=batch, timeout=self._timeout)

    def delete_documents(self, document_keys: Sequence[str], keep: Sequence[str] = ()) -> None:
        kept = set(keep)
        for start in range(0, len(document_keys), _KEYS_A_REQUEST):
            batch = document_keys[start : start + _KEYS_A_REQUEST]
            found = self._values("key", one_of("document_key", batch))
            self.delete([key for key in found if key not in kept])

    def fetch(self, keys: Sequence[str]) -> dict[str, Part]:
        found: dict[str, Part] = {}
        for start in range(0, len(keys), _KEYS_A_REQUEST):
            with translated(self._config.uri, "fetch"):
                rows = self._client.query(
                    self._collection,
                    filter=one_of("key", keys[start : start + _KEYS_A_REQUEST]),
                    output_fields=_OUTPUT,
                    consistency_level="Strong",
                    timeout=self._timeout,
                )
            found |= {row["key"]: from_row(row) for row in rows}
        return found

    def vectors(self, keys: Sequence[str]) -> dict[str, Vectors]:
        found: dict[str, Vectors] = {}
        for start in range(0, len(keys), self._vectors_a_request):
            with translated(self._config.uri, "fetch vectors"):
                rows = self._client.query(
                    self._collection,
                    filter=one_of("key", keys[start : start + self._vectors_a_request]),
                    output_fields=["key", "vector"],
                    consistency_level="Bounded",
                    timeout=self._timeout,
                )
            found |= {row["key"]: np.asarray(row["vector"], dtype=np.float32) for row in rows}
        return found

    def scan(self) -> Iterator[tuple[list[Part], Vectors]]:
        with translated(self._config.uri, "scan"):
            rows = self._client.query_iterator(
                self._collection,
                batch_size=self._vectors_a_request,
                output_fields=[*_OUTPUT, "vector"],
                consistency_level="Strong",
                timeout=self._timeout,
            )
        try:
            while True:
                with translated(self._config.uri, "scan"):
                    batch = rows.next()
                if not batch:
                    return
                parts = [from_row(row) for row in batch]
                yield parts, np.array([row["vector"] for row in batch], dtype=np.float32)
        finally:
            rows.close()

    @property
    def _vectors_a_request(self) -> int:
        """As many as an answer holds, a row's other fields at an eighth of what they may be at most."""
        return max(1, min(_KEYS_A_REQUEST, _MESSAGE_BYTES // (4 * self.dim + MAX_TEXT_BYTES // 2)))

    def count(self) -> int:
        with translated(self._config.uri, "count"):
            rows = self._client.query(
                self._collection,
                filter="",
                output_fields=["count(*)"],
                consistency_level="Strong",
                timeout=self._timeout,
            )
        return int(rows[0]["count(*)"])

    def flush(self) -> None:
        with translated(self._config.uri, "flush"):
            self._client.flush(self._collection, timeout=self._timeout)
        self.count()  # A Strong read: what comes after it, Bounded or not, sees these writes.

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def _search_params(self, k: int) -> dict[str, int]:
        params = self._search_defaults | self._config.search
        # These two bound the candidate list, which must hold more than k for filtered rows to drop out of.
        for name in params.keys() & {"ef", "itopk_size"}:
            most = SEARCH_PARAMETERS[self._index][name][1]
            params[name] = min(max(params[name], 2 * k), most)
            if params[name] < k:
                raise StoreError(f"k is {k}; a {self._index} index answers at most {most} hits")
        return params

    def _values(self, field: str, where: str) -> list[str]:
        with translated(self._config.uri, "query"):
            pages = self._client.query_iterator(
                self._collection,
                batch_size=MAX_K,
                filter=where,
                output_fields=[field],
                consistency_level="Strong",
                timeout=self._timeout,
            )
            found: list[str] = []
            while page := pages.next():
                found.extend(row[field] for row in page)
            pages.close()
        return found


def _connect(config: MilvusConfig) -> MilvusClient:
    # It logs a traceback for every failed call; ours say the same in one line.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    token = config.token.get_secret_value() if config.token else ""
    options = _CHANNEL | ({"grpc.enable_http_proxy": 0} if is_here(config.uri) else {})
    with translated(config.uri, "connect"):
        return MilvusClient(config.uri, token=token, timeout=config.timeout_s, grpc_options=options)


def _create(client: MilvusClient, config: MilvusConfig, name: str, dim: int, rows: int, owner: str) -> None:
    index: str = config.index_type
    if index == "auto":
        lite = client.get_server_version(timeout=config.timeout_s).startswith("milvus_lite")
        index = "FLAT" if lite else "HNSW"
    description = f"{_OWNER}{owner}" if owner else ""
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True, description=description)
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=32)
    for field, length in _FIELDS.items():
        schema.add_field(field, DataType.VARCHAR, max_length=length)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    params = client.prepare_index_params()
    build = parameters(index, rows)[0] | config.build
    params.add_index("vector", index_type=index, metric_type="IP", params=build)
    try:
        client.create_collection(name, schema=schema, index_params=params, timeout=config.timeout_s)
    except MilvusException:
        if not client.has_collection(name, timeout=config.timeout_s):
            raise  # Otherwise another process was faster, and what it made is checked next.


def _is_there(client: MilvusClient, config: MilvusConfig, name: str, owner: str) -> bool:
    """Raises OtherIndex for one that is not `owner`'s."""
    if not client.has_collection(name, timeout=config.timeout_s):
        return False
    described = client.describe_collection(name, timeout=config.timeout_s)
    _require_own(described, config.uri, name, owner)
    return True


def _require_own(described: Mapping[str, Any], uri: str, name: str, owner: str) -> None:
    description = described.get("description") or ""
    found = description.removeprefix(_OWNER) if description.startswith(_OWNER) else ""
    require_own(f"{uri}: collection {name}", found, owner, "stores.milvus.prefix")


def _check_existing(client: MilvusClient, config: MilvusConfig, name: str, dim: int, owner: str) -> str:
    """The type of the collection's index, once it is known that the collection is ours."""
    described = client.describe_collection(name, timeout=config.timeout_s)
    found = {f["name"]: f for f in described["fields"]}
    missing = {"vector", *_OUTPUT} - found.keys()
    if missing:
        raise StoreError(
            f"{config.uri}: collection {name} is not mmrag's (no field {', '.join(sorted(missing))}); "
            "set another prefix"
        )
    _require_own(described, config.uri, name, owner)
    if (other := int(found["vector"]["params"]["dim"])) != dim:
        raise StoreError(
            f"{config.uri}: collection {name} holds vectors of {other} dimensions, not {dim}; "
            "use the encoder that wrote it, or another prefix or index"
        )
    (index_name,) = client.list_indexes(name, field_name="vector", timeout=config.timeout_s)
    built = client.describe_index(name, index_name, timeout=config.timeout_s)["index_type"]
    if config.index_type not in ("auto", built):
        raise StoreError(
            f"{config.uri}: collection {name} has a {built} index, the settings say {config.index_type}; "
            f"set index_type: {built}, or ingest under another prefix"
        )
    return str(built)


def _by_bytes(rows: Sequence[dict[str, Any]], dim: int) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    total = 0
    for row in rows:
        # 4 bytes a character covers UTF-8; the JSON fields are bounded by MAX_JSON_BYTES and rarely big.
        size = 4 * dim + 4 * sum(
            len(v) if isinstance(v, str) else len(str(v)) for k, v in row.items() if k != "vector"
        )
        if batch and total + size > _MESSAGE_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += size
    if batch:
        yield batch
