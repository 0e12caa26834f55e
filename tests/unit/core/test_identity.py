"""The name of an index directory, and who may use a collection that carries it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes import memory_index

from pipelines.core.errors import OtherIndex, StoreError, UsageError
from pipelines.core.identity import FILE, identity, make_identity, require_own


def test_an_index_has_a_name_from_its_first_writer_on_and_keeps_it(tmp_path: Path) -> None:
    assert identity(tmp_path / "kb") == ""
    index = memory_index(tmp_path / "kb")
    name = identity(index.directory)
    assert name.startswith(f"{index.directory} (")
    with index.write_lock():
        assert identity(index.directory) == name
    (tmp_path / "kb").rename(tmp_path / "moved")
    make_identity(tmp_path / "moved")
    assert identity(tmp_path / "moved") == name


def test_an_index_made_again_in_its_place_is_another_one(tmp_path: Path) -> None:
    make_identity(tmp_path)
    before = identity(tmp_path)
    (tmp_path / FILE).unlink()
    make_identity(tmp_path)
    assert identity(tmp_path) != before


def test_any_directory_has_a_name(tmp_path: Path) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n"))
    directory.mkdir()
    make_identity(directory)
    assert identity(directory).encode()


@pytest.mark.parametrize("owner", ["", "/kb (1)"])
def test_an_own_collection_and_one_without_a_name_are_taken(owner: str) -> None:
    require_own("m: collection kb_text", owner, "/kb (1)", "stores.milvus.prefix")


@pytest.mark.parametrize("ours", ["", "/kb (2)"])
def test_anothers_collection_is_refused_with_what_to_do(ours: str) -> None:
    told = r"m: collection kb_text belongs to the index /kb \(1\).*set another stores\.milvus\.prefix, or"
    with pytest.raises(OtherIndex, match=told) as caught:
        require_own("m: collection kb_text", "/kb (1)", ours, "stores.milvus.prefix")
    assert isinstance(caught.value, StoreError)
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_status == 2
