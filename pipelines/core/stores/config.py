"""Where the server stores are and how they index. Imports no vendor, so that reading settings is quick."""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

IndexType = Literal["FLAT", "HNSW", "IVF_FLAT", "GPU_CAGRA"]
# What each index may be built and searched with, and Milvus's bounds for it.
BUILD_PARAMETERS: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "FLAT": {},
    "HNSW": {"M": (2, 2048), "efConstruction": (1, 65_536)},
    "IVF_FLAT": {"nlist": (1, 65_536)},
    "GPU_CAGRA": {"intermediate_graph_degree": (1, 1024), "graph_degree": (1, 1024)},
}
SEARCH_PARAMETERS: Final[dict[str, dict[str, tuple[int, int]]]] = {
    "FLAT": {},
    "HNSW": {"ef": (1, 32_768)},
    "IVF_FLAT": {"nprobe": (1, 65_536)},
    "GPU_CAGRA": {"itopk_size": (32, 1024), "search_width": (1, 1024)},
}
DEFAULT_PARAMETERS: Final[dict[str, tuple[dict[str, int], dict[str, int]]]] = {
    "FLAT": ({}, {}),
    "HNSW": ({"M": 16, "efConstruction": 200}, {"ef": 128}),
    "IVF_FLAT": ({"nlist": 1024}, {"nprobe": 64}),
    "GPU_CAGRA": ({"intermediate_graph_degree": 64, "graph_degree": 32}, {"itopk_size": 128}),
}
LARGE_ROWS: Final = 1_000_000
_LARGE: Final = DEFAULT_PARAMETERS | {"HNSW": ({"M": 32, "efConstruction": 400}, {"ef": 256})}


def parameters(index: str, rows: int) -> tuple[dict[str, int], dict[str, int]]:
    """(build, search) parameters of an index over so many vectors, where the settings name none.

    The recall of a graph falls as it grows: from a million vectors on it has twice the edges and candidates,
    within what hnswlib's ALGO_PARAMS.md advises. `mmrag status --recall` measures what comes of it.
    """
    return (_LARGE if rows >= LARGE_ROWS else DEFAULT_PARAMETERS)[index]


def _without_password(address: str) -> str:
    """Addresses stand in messages and logs; secrets have settings of their own, which do not."""
    if "@" in urlsplit(address).netloc:
        raise ValueError("names a user in the address: set token (Milvus), or username and password, instead")
    return address


ServerAddress = Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_without_password)]


class MilvusConfig(BaseModel):
    """Where Milvus is and how it indexes.

    `index_type: auto` is FLAT on milvus-lite, whose filtered HNSW returned a third of what it should
    at a 1 % filter, and HNSW on a server, which searches exactly where a filter leaves few rows.
    FLAT reads every vector: beyond some 100,000 of them, run a server. What an index type is built with
    goes by the number of documents of the first ingest, or of a rebuild (an import: of vectors); what it is
    searched with, by the vectors that it holds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: ServerAddress
    token: SecretStr | None = None
    prefix: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")
    index_type: Literal["auto"] | IndexType = "auto"
    build: dict[str, int] = {}
    search: dict[str, int] = {}
    timeout_s: float = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def _known_parameters(self) -> Self:
        if self.index_type == "auto":
            if self.build or self.search:
                raise ValueError("build and search parameters need an index_type other than auto")
            return self
        for given, known in ((self.build, BUILD_PARAMETERS), (self.search, SEARCH_PARAMETERS)):
            for name, value in given.items():
                bounds = known[self.index_type].get(name)
                if bounds is None:
                    options = ", ".join(known[self.index_type]) or "no parameters"
                    raise ValueError(f"{self.index_type} has no parameter {name!r}; it has {options}")
                if not bounds[0] <= value <= bounds[1]:
                    raise ValueError(f"{self.index_type} {name} is {value}; it must be in {list(bounds)}")
        return self


class ElasticConfig(BaseModel):
    """Where Elasticsearch is and who we are to it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: ServerAddress
    api_key: SecretStr | None = None
    username: str | None = None
    password: SecretStr | None = None
    prefix: str = Field(default="", pattern=r"^[a-z0-9_-]*$")
    verify_certs: bool = True
    ca_certs: str | None = None
    timeout_s: float = Field(default=30.0, gt=0)
    max_retries: int = Field(default=3, ge=0)

    @model_validator(mode="after")
    def _one_identity(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password go together")
        if self.api_key is not None and self.username is not None:
            raise ValueError("set api_key, or username and password, not both")
        return self


class StoresConfig(BaseModel):
    """Server stores by address; what is left out is embedded in the index directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    milvus: MilvusConfig | None = None
    elastic: ElasticConfig | None = None
