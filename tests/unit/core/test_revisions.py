"""An index goes by the commit of a hub's model. No hub is asked: its cache is laid out here as it does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes import tiny_clip
from huggingface_hub import constants

from pipelines.core.errors import SpaceMismatch
from pipelines.core.index import Index, IndexConfig, pinned
from pipelines.core.manifest import Manifest
from pipelines.core.revisions import pinned as pinned_revision

OLD, NEW = "a" * 40, "b" * 40
MODEL = "someone/vit"


class Hub:
    """This machine's cache of the hub's models, with two commits of one."""

    def __init__(self, root: Path) -> None:
        self.home = root / "models--someone--vit"
        for seed, commit in enumerate((OLD, NEW)):
            tiny_clip(self.home / "snapshots" / commit, seed=seed)
        self.moves_to(OLD)

    def moves_to(self, commit: str, branch: str = "main") -> None:
        (self.home / "refs").mkdir(exist_ok=True)
        (self.home / "refs" / branch).write_text(commit)

    def index(self, directory: Path, **encoder: Any) -> Index:
        told = {"kind": "clip", "model": MODEL, "dtype": "float32", "device": "cpu"} | encoder
        return Index(directory, IndexConfig.model_validate({"encoder": told}), writable=True)

    def made(self, directory: Path, **encoder: Any) -> Manifest:
        with self.index(directory, **encoder) as index, index.write_lock():
            return index.create()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return Hub(tmp_path / "hub")


def test_a_new_index_goes_by_the_commit_that_the_branch_is_at(hub: Hub, tmp_path: Path) -> None:
    manifest = hub.made(tmp_path / "kb")
    assert (manifest.space["model"], manifest.space["revision"]) == (f"clip:{MODEL}", OLD)
    with hub.index(tmp_path / "kb") as index:
        assert index.check_spaces().space["revision"] == index.pinned().encoder.revision == OLD


def test_a_branch_that_moved_is_refused_and_its_commit_is_taken(hub: Hub, tmp_path: Path) -> None:
    hub.made(tmp_path / "kb")
    hub.moves_to(NEW)
    with (
        hub.index(tmp_path / "kb") as index,
        pytest.raises(
            SpaceMismatch, match=f"revision: index '{OLD}', config '{NEW}'.* its branch may have moved"
        ),
    ):
        index.check_spaces()
    with hub.index(tmp_path / "kb", revision=OLD) as index:
        assert index.check_spaces().space["revision"] == OLD


def test_all_that_an_index_loads_is_of_one_commit_though_the_branch_moves_meanwhile(
    hub: Hub, tmp_path: Path
) -> None:
    with hub.index(tmp_path / "kb") as index, index.write_lock():
        index.create()
        hub.moves_to(NEW)
        assert index.pinned().encoder.revision == index.encoder().space.revision == OLD
        assert index.encoder().encode_texts(["a red picture"]).shape == (1, index.encoder().dim)


@pytest.mark.parametrize("asked", [None, "main", "v2"])
def test_an_index_from_before_commits_were_recorded_keeps_its_branch_as_its_name(
    hub: Hub, tmp_path: Path, asked: str | None
) -> None:
    """So its fingerprints, and with them its ledger, cache and aligner, stay what they are."""
    hub.moves_to(OLD, "v2")
    manifest = hub.made(tmp_path / "kb")
    old = dict(manifest.space) | {"revision": asked or "main"}
    Manifest(old, manifest.text_space).save(tmp_path / "kb")
    hub.moves_to(NEW)
    with hub.index(tmp_path / "kb", revision=asked) as index:
        assert index.check_spaces().space == index.encoder().space.as_dict() == old
    with hub.index(tmp_path / "none", revision=asked) as other:  # as an import of its export does
        assert other.check_spaces(Manifest(old, manifest.text_space)).space == old


def test_a_text_embedder_is_pinned_too(hub: Hub) -> None:
    config = IndexConfig.model_validate({"embedder": {"kind": "hub", "model": MODEL}})
    assert pinned(config, None).embedder.revision == OLD
    assert pinned(config, Manifest({}, {"revision": "main"})).embedder.revision is None


def test_what_is_no_hubs_is_as_it_was_given(hub: Hub, tmp_path: Path) -> None:
    assert pinned(IndexConfig(), None) == IndexConfig()
    assert pinned_revision(str(tmp_path), None, None) is None
    assert pinned_revision(MODEL, NEW, None) == NEW
    assert pinned_revision("someone/not-here", "main", None) == "main"
    assert pinned_revision("/no/such/directory", None, None) is None
    shutil.rmtree(hub.home)
    assert pinned_revision(MODEL, None, None) is None
