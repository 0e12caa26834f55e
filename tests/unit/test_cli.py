"""The command line as its users meet it: exit statuses, messages, and what stdout holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from exported import of_the_second_format
from fakes import chunk_part, image_part, memory_index, picture
from memory_stores import MemoryVectorStore
from shell import mmrag
from small_index import ledger_row
from typer.main import get_command

import pipelines.core.index
from pipelines import __version__, cli
from pipelines.cli_serve import application
from pipelines.core.errors import StoreLocked, StoreUnavailable, UsageError
from pipelines.core.index import Index
from pipelines.core.types import store_key
from pipelines.ingest.ledger import SCHEMA, Ledger


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def kb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An index over stores in memory: a red picture with its text, and a note. Every command opens it."""
    index = memory_index(tmp_path / "kb")
    index.with_metadata_types({"year": "number"})
    red = np.array([[1, 0, 0, 1, 0, 0]], np.float32) / np.sqrt(2, dtype=np.float32)
    index.visual().upsert([image_part("rose", metadata={"year": 2020})], red)
    chunks = [
        chunk_part("rose", "a red rose 红", images=[0], metadata={"year": 2020}),
        chunk_part("note", "red [bold]is[/bold] a warning"),
    ]
    index.text().upsert(chunks, index.embedder().embed_passages([chunk.text for chunk in chunks]))
    index.lexical().upsert(chunks)

    def reopened(directory: Path, config: object, *, writable: bool = False) -> Index:
        if directory != index.directory:
            return Index(directory, config, writable=writable)  # type: ignore[arg-type]
        return index

    monkeypatch.setattr(pipelines.core.index, "Index", reopened)
    return index.directory


# Help.


def test_help_names_every_command() -> None:
    answer = mmrag("--help")
    assert answer.status == 0
    for command in ("ingest", "search", "delete", "status", "export", "import", "demo", "train", "evaluate"):
        assert command in answer.out


def names(command: Any, *above: str) -> Iterator[tuple[str, ...]]:
    """Of a command and of all below it."""
    yield above
    for name, inner in getattr(command, "commands", {}).items():
        yield from names(inner, *above, name)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", [*names(get_command(cli.app))], ids=" ".join)
def test_a_line_of_help_ends_where_the_terminal_does(
    command: tuple[str, ...], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    words = mmrag(*command, "--help").out.partition("╭")[0]
    lines = [line.strip() for line in words.splitlines()]
    assert len(lines) > 3
    for line, following in pairwise(lines):
        if line and following:
            assert len(f"{line} {following.split()[0]}") > width - 2, line


def takes(option: str, command: tuple[str, ...]) -> bool:
    found: Any = get_command(cli.app)
    for name in command:
        found = found.commands[name]
    return any(option in one.opts for one in found.params)


@pytest.mark.parametrize(
    "command",
    [command for command in names(get_command(cli.app)) if takes("--index", command)],
    ids=" ".join,
)
def test_no_command_takes_an_address_for_its_index(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = mmrag(*command, "--index", "s3://bucket/kb")
    assert (answer.status, answer.out) == (2, "")
    assert "index s3://bucket/kb: is an address" in answer.err
    assert not list(tmp_path.iterdir())


def test_the_application_of_serve_deploy_takes_none_either() -> None:
    with pytest.raises(UsageError, match="index s3://bucket/kb: is an address"):
        application({"index": "s3://bucket/kb"})


def test_no_command_shows_the_help() -> None:
    answer = mmrag()
    assert "ingest" in answer.out + answer.err


def test_the_version_is_printed() -> None:
    assert mmrag("--version").out == f"mmrag {__version__}\n"


@pytest.mark.parametrize(
    "command", [["serch"], ["search", "--kk", "3"], ["ingest"], ["search", "-k", "many"]]
)
def test_a_wrong_command_line_is_status_2(command: list[str]) -> None:
    answer = mmrag(*command)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err


def test_the_installed_command_starts_without_heavy_imports() -> None:
    code = (
        "import sys, pipelines.cli; heavy = {'torch', 'ray', 'transformers', 'pymilvus', 'pandas'}; "
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Search.


def test_search_prints_a_table(kb: Path) -> None:
    answer = mmrag("search", "red", "--index", kb)
    assert answer.status == 0
    assert "rose#img-0" in answer.out
    assert "[bold]is[/bold]" in answer.out  # text of the corpus is no markup
    assert answer.err == ""


def test_search_json_is_one_object_and_nothing_else(kb: Path) -> None:
    answer = mmrag("search", "red", "--index", kb, "--json", "-k", 1)
    assert answer.out.count("\n") == 1
    body = json.loads(answer.out)
    assert list(body) == ["hits", "degraded"]
    [hit] = body["hits"]
    assert hit == {
        "id": "rose#img-0",
        "document_id": "rose",
        "kind": "image",
        # The only picture stands out from none; "red" is one of four words, and of the note's weight of √8.
        "score": pytest.approx(0.4 * (0.33 * (1 / 2 - 1 / 8**0.5) + 0.67)),
        "text": "a red rose 红",
        "source": "/rose.png",
        "image_uri": hit["image_uri"],
        "metadata": {"year": 2020},
        "citation_id": 1,
        "sources": {"text_to_image": 1, "text": 1, "lexical": 1},
        "lines": [],
        "scores": hit["scores"],
        "tenant": "",
    }
    assert hit["scores"].keys() == hit["sources"].keys()
    assert hit["image_uri"].startswith("file://")
    assert "红" in answer.out


def test_search_takes_a_picture_a_mode_and_a_filter(kb: Path, tmp_path: Path) -> None:
    (tmp_path / "query.png").write_bytes(picture("red"))
    where = ["--filter", "year >= 2020", "--mode", "visually_similar"]
    answer = mmrag("search", "red", "--image", tmp_path / "query.png", *where, "--index", kb, "--json")
    [hit] = json.loads(answer.out)["hits"]
    assert hit["sources"] == {"image_to_image": 1, "text": 1, "lexical": 1}


def test_nothing_found_is_no_failure(kb: Path) -> None:
    answer = mmrag("search", "red", "--filter", "year > 3000", "--index", kb, "--json")
    assert (answer.status, json.loads(answer.out)) == (0, {"hits": [], "degraded": []})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["red", "--mode", "picture"], "--mode 'picture': choose one of auto, text, image, visually_similar"),
        (["red", "--mode", "image"], "mode image needs a picture"),
        ([], "the query is empty"),
        (["red", "-k", "0"], "k is 0"),
        (["\udcff red"], "the query's text holds half a surrogate pair"),  # bytes that are no UTF-8
        (["red", "--image", "nowhere.png"], "--image nowhere.png cannot be read: No such file"),
        (["red", "--image", "."], "--image . cannot be read: Is a directory"),
        (["red", "--filter", "yeer == 2020"], "no field 'yeer'; did you mean year?"),
        (["red", "--filter", "year == 'new'"], "year holds numbers"),
        (["red", "--filter", "year =="], "filter"),
        (["red", "--filter", ""], "filter"),
        (["red", "--set", "search.alpha=1"], "search.alpha: no such setting"),
        (["red", "--config", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
    ],
)
def test_a_wrong_question_is_status_2_and_one_line(kb: Path, arguments: list[str], complaint: str) -> None:
    answer = mmrag("search", *arguments, "--index", kb, "--json")
    assert (answer.status, answer.out) == (2, "")
    assert complaint in answer.err
    assert answer.err.startswith("mmrag: ")
    assert answer.err.count("\n") in (1, 3)  # a filter's message points at the place below it


def test_a_picture_that_is_none_is_named(kb: Path, tmp_path: Path) -> None:
    (tmp_path / "fake.png").write_bytes(b"PK\3\4 a zip")
    answer = mmrag("search", "--image", tmp_path / "fake.png", "--index", kb)
    assert answer.status == 2
    assert "fake.png" in answer.err


def test_an_index_that_is_not_there_says_how_to_make_one(tmp_path: Path) -> None:
    answer = mmrag("search", "red", "--index", tmp_path / "nowhere")
    assert answer.status == 2
    assert "mmrag ingest SOURCE --index" in answer.err
    assert not (tmp_path / "nowhere").exists()


# Delete, status, ingest.


def test_delete_says_what_it_did_and_what_is_not_there(kb: Path) -> None:
    answer = mmrag("delete", "zzz", "--index", kb)
    assert answer.status == 2
    assert "deleted 0 documents\n" in answer.err
    assert "no such document: zzz" in answer.err


def test_delete_counts_documents_and_says_that_two_tenants_had_an_id(kb: Path) -> None:
    known = [ledger_row("rose"), ledger_row("rose", tenant="acme"), ledger_row("note")]
    Ledger(kb).changed(pa.Table.from_pylist(known, schema=SCHEMA))
    both = mmrag("delete", "rose", "rose", "--index", kb)
    assert both.status == 0
    assert "deleted 2 documents: more than one tenant had such an id; --tenant" in both.err
    assert mmrag("delete", "note", "--index", kb).err.endswith("deleted 1 documents\n")


def test_status_json_is_one_object(kb: Path) -> None:
    body = json.loads(mmrag("status", "--index", kb, "--json").out)
    assert body["stores"] == {"visual": 1, "text": 2, "lexical": 2}
    assert body["metadata_types"] == {"year": "number"}


def test_status_prints_a_table_the_fingerprints_and_the_last_runs(kb: Path) -> None:
    run = {"run": "20261126T231000", "documents": 1, "unchanged": 0, "images": 1, "chunks": 2}
    (kb / "last-runs.json").write_text(json.dumps([run | {"rejected": 3, "elapsed_s": 2.5}]))
    answer = mmrag("status", "--index", kb)
    assert answer.status == 0
    assert "lexical" in answer.out
    assert re.search(r"visual vectors: .*fingerprint [0-9a-f]{16}\n", answer.out)
    assert "run 20261126T231000: 1 documents, 1 images, 2 chunks, 3 rejected" in answer.out
    assert "recall" not in answer.out


def test_recall_of_the_stores_is_measured_when_it_is_asked_for(kb: Path) -> None:
    body = json.loads(mmrag("status", "--index", kb, "--recall", "--json").out)
    assert body["recall"] == {"visual": {"probed": 1, "recall": 1}, "text": {"probed": 2, "recall": 1}}
    assert "text recall@10: 1.000 of 2 searches" in mmrag("status", "--index", kb, "--recall").out


@pytest.fixture
def kb2(kb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A second directory that commands open over stores in memory. The first one has its ledger."""
    known = [ledger_row("rose", images=1, chunks=1), ledger_row("note", images=0, chunks=1)]
    Ledger(kb).changed(pa.Table.from_pylist(known, schema=SCHEMA))
    other, first = memory_index(tmp_path / "kb2", create=False), pipelines.core.index.Index

    def reopened(directory: Path, config: object, *, writable: bool = False) -> Index:
        is_other = directory == other.directory
        return other if is_other else first(directory, config, writable=writable)  # type: ignore[arg-type]

    monkeypatch.setattr(pipelines.core.index, "Index", reopened)
    return other.directory


def test_export_and_import_json_are_one_object_each(kb: Path, kb2: Path, tmp_path: Path) -> None:
    for command, index in (("export", kb), ("import", kb2)):
        answer = mmrag(command, tmp_path / "out", "--index", index, "--json")
        assert answer.status == 0, answer.err
        body = json.loads(answer.out)
        assert (body["images"], body["chunks"], body["index"]) == (1, 2, str(index))
        assert f"{command}ing visual (1)" in answer.err
    assert json.loads(mmrag("search", "red", "--index", kb2, "--json").out)["hits"][0]["id"] == "rose#img-0"


def test_an_export_of_another_index_is_replaced_when_that_is_asked(
    kb: Path, kb2: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert mmrag("export", out, "--index", kb).status == 0
    assert mmrag("import", out, "--index", kb2).status == 0
    refused = mmrag("export", out, "--index", kb2)
    assert (refused.status, refused.out) == (2, "")
    assert "holds an export of another index" in refused.err.splitlines()[-1]
    assert mmrag("export", out, "--index", kb2, "--replace").status == 0


def test_an_import_says_what_an_earlier_version_did_not_export(kb: Path, kb2: Path, tmp_path: Path) -> None:
    mmrag("export", tmp_path / "out", "--index", kb)
    of_the_second_format(tmp_path / "out")
    told = mmrag("import", tmp_path / "out", "--index", kb2)
    assert "it lacks pictures, near_duplicates, refused, last_runs: " in told.err.splitlines()[-1]


def test_export_and_import_say_what_they_moved(kb: Path, kb2: Path, tmp_path: Path) -> None:
    answer = mmrag("export", tmp_path / "out", "--index", kb)
    assert answer.out.startswith("exported 2 documents, 1 images, 2 chunks, 0 previews in ")
    assert mmrag("import", tmp_path / "out", "--index", kb2).out.startswith("imported 2 documents, 1 images")


@pytest.mark.parametrize(
    ("command", "name", "status", "complaint"),
    [
        ("import", "nowhere", 2, "no whole export"),
        ("import", "out", 2, "holds 2 documents; import into a new --index"),
        ("import", "damaged", 1, "visual/000000.parquet: does not exist"),
        ("export", "kb", 2, "is not empty and no earlier export"),
    ],
)
def test_an_export_of_no_use_is_one_line(
    kb: Path, kb2: Path, tmp_path: Path, command: str, name: str, status: int, complaint: str
) -> None:
    for out in ("out", "damaged"):
        assert mmrag("export", tmp_path / out, "--index", kb).status == 0
    [shard] = (tmp_path / "damaged").glob("*/visual/000000.parquet")
    shard.unlink()
    index = kb2 if name == "damaged" else kb
    answer = mmrag(command, tmp_path / name, "--index", index, "--json")
    assert (answer.status, answer.out) == (status, "")
    assert complaint in answer.err.splitlines()[-1]
    assert answer.err.splitlines()[-1].startswith("mmrag: ")


@pytest.mark.parametrize("source", ["nowhere", "file.docx"])
def test_a_source_of_no_use_is_status_2_and_makes_no_index(tmp_path: Path, source: str) -> None:
    (tmp_path / "file.docx").write_text("")
    answer = mmrag("ingest", tmp_path / source, "--index", tmp_path / "kb")
    assert answer.status == 2
    assert source in answer.err
    assert not (tmp_path / "kb").exists()


@pytest.mark.parametrize("options", [[], ["--skip-locked"], ["--skip-locked", "--json"]])
def test_an_index_that_is_being_written_fails_an_ingest_unless_that_is_to_be_skipped(
    tmp_path: Path, options: list[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "red.png").write_bytes(picture())
    with memory_index(tmp_path / "kb").write_lock():
        answer = mmrag("ingest", tmp_path / "pictures", "--index", tmp_path / "kb", *options)
    assert answer.status == (0 if options else 1)
    said = "is being written by another process"
    assert said in answer.err.splitlines()[-1]
    assert said in json.loads(answer.out)["skipped"] if "--json" in options else answer.out == ""


def test_a_store_that_is_locked_in_the_midst_of_an_ingest_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object, **__: object) -> None:
        raise StoreLocked("the lexical store is being written by another process")

    monkeypatch.setattr("pipelines.ingest.job.ingest", locked)
    assert mmrag("ingest", tmp_path, "--index", tmp_path / "kb", "--skip-locked").status == 1


def test_an_interruption_is_status_130(kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "effective_settings", interrupted)
    answer = mmrag("search", "red", "--index", kb)
    assert answer.status == 130
    assert "run the command again" in answer.err


# Evaluate.


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    file = tmp_path / "queries.jsonl"
    rows = [
        {"id": "q1", "text": "red rose", "relevant": {"rose": 2}},
        {"id": "q2", "text": "红", "relevant": ["rose#img-0"]},
        {"id": "q3", "text": "nothing", "relevant": []},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_evaluate_retrieval_json_is_one_object_and_nothing_else(kb: Path, judged: Path) -> None:
    answer = mmrag("evaluate", "retrieval", "--data", judged, "--index", kb, "-k", 1, "-k", 3, "--json")
    assert answer.status == 0, answer.err
    assert answer.out.count("\n") == 1
    body = json.loads(answer.out)
    assert body["overall"]["queries"] == 2
    assert body["left_out"] == 1
    assert list(body["overall"]["metrics"]) == [
        *["recall@1", "recall@3", "success@1", "success@3", "ndcg@1", "ndcg@3", "mrr@50", "mean_rank@50"],
        "clip_score",  # of the one that the encoder reads, which has no other to be consistent with
    ]
    assert body["overall"]["metrics"]["clip_score"]["queries"] == 1
    assert list(body["ablations"]) == [
        *["without text_to_image", "without text", "without lexical", "fused by ranks"]
    ]
    assert body["overall"]["metrics"]["recall@1"] == {"mean": 1, "low": 1, "high": 1, "queries": 2}
    assert list(body["by_language"]) == ["en", "zh"]
    assert list(body["by_branch"]) == ["text_to_image", "text", "lexical"]
    assert list(body["degraded"].values()) == [1]  # the encoder reads no Chinese
    assert [one["id"] for one in body["per_query"]] == ["q1", "q2"]


def test_relevant_ids_that_the_index_does_not_have_are_told(kb: Path, judged: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "q1", "text": "red rose", "relevant": {"rose": 2, "tulip": 1, "weed": 0}},
        {"id": "q2", "text": "red", "relevant": ["rose#img-0", "rose#img-1", "note#txt-0"]},
    ]
    judged.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["evaluate", "retrieval", "--data", judged, "--index", kb, "--json"]
    answer = mmrag(*command)  # no ledger tells what documents there are
    assert answer.status == 0, answer.err
    assert "mmrag: 1 of 3 relevant ids are not in the index: rose#img-1\n" in answer.err
    fields = {"tenant": "", "images": 1, "chunks": 1, "rejected": 0, "status": "complete"}
    known = [
        {"document_key": store_key("", name), "document_id": name, **fields} for name in ("rose", "note")
    ]
    Ledger.load(kb).changed(pa.Table.from_pylist(known, schema=SCHEMA))
    page = tmp_path / "r.html"
    found = mmrag(*command, "--report", page)
    said = "2 of 5 relevant ids are not in the index: tulip, rose#img-1"
    assert f"mmrag: {said}\n" in found.err
    assert json.loads(found.out)["absent"] == {"relevant": 5, "missing": 2, "first": ["tulip", "rose#img-1"]}
    assert f"<dd>{said}</dd>" in page.read_text("utf-8")
    assert json.loads(found.out)["overall"] == json.loads(answer.out)["overall"]
    other = mmrag(*command, "--set", "ingest.sources.tenant=other")
    assert json.loads(other.out)["absent"]["missing"] == 5


def test_an_absent_id_that_steers_a_terminal_is_told_without_that(kb: Path, judged: Path) -> None:
    row = json.loads(judged.read_text().splitlines()[0])
    judged.write_text(json.dumps(row | {"relevant": ["rose#img-0", "tulip\x1b[2J#img-0"]}))
    answer = mmrag("evaluate", "retrieval", "--data", judged, "--index", kb, "--json")
    assert "1 of 2 relevant ids are not in the index: tulip[2J#img-0\n" in answer.err


def test_ids_that_are_all_there_are_not_told(kb: Path, judged: Path) -> None:
    answer = mmrag("evaluate", "retrieval", "--data", judged, "--index", kb, "--json")
    assert "relevant ids" not in answer.err
    assert json.loads(answer.out)["absent"] == {"relevant": 1, "missing": 0, "first": []}


def test_a_store_that_is_down_leaves_relevant_ids_unknown(
    kb: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> Any:
        raise StoreUnavailable("no Milvus at all")

    monkeypatch.setattr(MemoryVectorStore, "fetch", down)
    answer = mmrag("evaluate", "retrieval", "--data", judged, "--index", kb, "--json")
    assert "relevant ids were not looked up: no Milvus at all" in answer.err
    assert json.loads(answer.out)["absent"] is None


def test_a_store_of_pictures_that_is_down_ends_no_measurement(
    kb: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: Any) -> Any:
        raise StoreUnavailable("no Milvus at all")

    monkeypatch.setattr("pipelines.evaluate.cross_modal.cross_modal", down)
    answer = mmrag("evaluate", "retrieval", "--data", judged, "--index", kb, "--json")
    assert answer.status == 0
    assert "clip_score" not in json.loads(answer.out)["overall"]["metrics"]
    assert "no measures of pairs of texts and pictures: no Milvus at all" in answer.err


def test_evaluate_retrieval_prints_tables_and_what_was_degraded(kb: Path, judged: Path) -> None:
    answer = mmrag("evaluate", "retrieval", "--data", judged, "--index", kb)
    assert answer.status == 0, answer.err
    for shown in ("all queries (2)", "zh (1)", "lexical alone (2)", "recall@20", "1.000", "left out"):
        assert shown in answer.out
    assert "clip_score: by colours, 1\n" in answer.out
    assert "_gap: by" not in answer.out  # of one pair alone there is none
    assert "degraded: text_to_image" in answer.err
    assert "(1 of 2 queries)" in answer.err.replace("\n", " ")


def test_a_fall_against_the_baseline_is_status_1(kb: Path, judged: Path, tmp_path: Path) -> None:
    row = json.loads(judged.read_text().splitlines()[0])
    judged.write_text("".join(json.dumps(row | {"id": f"q{n}"}) + "\n" for n in range(6)))
    command = ["evaluate", "retrieval", "--data", judged, "--index", kb]
    before = tmp_path / "before.json"
    before.write_text(mmrag(*command, "--json").out)
    same = mmrag(*command, "--baseline", before, "-k", 1, "--set", "search.candidates=30")
    assert same.status == 0, same.err  # other cut-offs and depths are not measures that are gone
    assert "6 queries of both" in same.out
    earlier = json.loads(before.read_text())
    for query in earlier["per_query"]:
        del query["digest"]  # as an earlier version wrote it: edited queries are compared
    before.write_text(json.dumps(earlier))
    judged.write_text(judged.read_text().replace('"rose"', '"note#img-7"'))
    fell = mmrag(*command, "--baseline", before, "--json")
    assert fell.status == 1
    assert "fell against" in fell.err
    assert "nothing relevant was found" in fell.err
    assert json.loads(fell.out)["comparison"]["metrics"]["recall@1"]["fell"]


def test_a_report_shows_what_should_have_come(kb: Path, judged: Path, tmp_path: Path) -> None:
    row = {"id": "q1", "text": "red rose", "relevant": ["note"], "filter": "year >= 2020"}
    judged.write_text(json.dumps(row))
    page = tmp_path / "r.html"
    found = mmrag("evaluate", "retrieval", "--data", judged, "--index", kb, "--report", page, "--json")
    assert found.status == 0, found.err
    assert json.loads(found.out)["system"]["encoder.kind"] == "lite"
    text = page.read_text("utf-8")
    assert "wanted: note#" in text
    assert "clip_score" not in text  # no picture is relevant
    judged.write_text(json.dumps(row | {"relevant": ["rose"]}))
    mmrag("evaluate", "retrieval", "--data", judged, "--index", kb, "--report", page, "--json")
    assert "<dt>clip_score</dt><dd>by colours, 1</dd>" in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--baseline", "nowhere.json"], "--baseline nowhere.json: No such file"),
        (["-k", "0"], "-k must be from 1 to 1000"),
        (["--set", "evaluate.resample=1"], "evaluate.resample: no such setting"),
    ],
)
def test_a_wrong_evaluation_is_status_2_and_one_line(
    kb: Path, judged: Path, arguments: list[str], complaint: str
) -> None:
    answer = mmrag("evaluate", "retrieval", "--data", judged, "--index", kb, "--json", *arguments)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("mmrag: ")
    assert complaint in answer.err
