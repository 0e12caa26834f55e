"""`mmrag config check` and `show`: what is there, what is not, and that secrets stay secret."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from chat_server import Scripted
from huggingface_hub import constants
from shell import mmrag
from small_index import ledger_row

import pipelines.serve.vllm
from pipelines import checks
from pipelines.checks import Check, run_checks
from pipelines.core import embedder, encoder, ocr
from pipelines.core.embedder import EmbedderConfig
from pipelines.core.encoder import EncoderConfig
from pipelines.core.identity import identity, make_identity
from pipelines.core.manifest import UNFINISHED, WRITTEN, Manifest
from pipelines.core.memory import Gpu
from pipelines.core.stores import elastic, milvus
from pipelines.core.stores.elastic import ElasticStore
from pipelines.core.stores.milvus import MilvusStore
from pipelines.ingest.ledger import SCHEMA, Ledger
from pipelines.ingest.ledger import UNFINISHED as UNFINISHED_ROW
from pipelines.settings import load_settings

PARTS = ["vectors", "words", "encoder", "embedder", "index", "generator", "server", "memory", "ray", "disk"]

ONE_KEY = "serve.api_keys=[{key: long-enough, tenant: null, name: ann}]"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("MMRAG_", "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(checks, "LIMIT_S", 120.0)  # of a busy machine
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    """An index of the packaged models, empty."""
    directory = tmp_path / "kb"
    directory.mkdir()
    space = encoder.configured_space(EncoderConfig(), None, 0)
    Manifest(space.as_dict(), embedder.configured_space(EmbedderConfig(), 0).as_dict()).save(directory)
    return directory


@pytest.fixture
def port() -> Iterator[int]:
    """Something answers there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def found(index: Path, *assignments: str) -> dict[str, Check]:
    return {one.part: one for one in run_checks(load_settings(None, assignments), index, limit_s=120)}


# Check.


def test_the_offline_default_is_well_and_status_0(kb: Path) -> None:
    answer = mmrag("config", "check", "--index", kb)
    assert answer.status == 0, answer.out + answer.err
    lines = answer.out.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", part] for part in ["settings", *PARTS]]


def test_servers_of_models_are_asked_where_some_are_set(kb: Path, closed_port: int) -> None:
    def settings(url: str) -> list[str]:
        named = {"ingest.captions": "captioner", "evaluate.judge": "judge"}
        return [word for at, model in named.items() for word in (f"{at}.url={url}", f"{at}.model={model}")]

    with Scripted.running() as server:
        well = found(kb, *settings(server.url))
        server.owner = "mmrag"
        looped = found(kb, *settings(server.url))
    gone = found(kb, *settings(f"http://127.0.0.1:{closed_port}/v1"))
    assert [*well] == [*PARTS[:-3], "captions", "judge", *PARTS[-3:]]
    assert well["captions"].ok
    assert well["judge"].ok
    assert "is mmrag serve" in looped["captions"].detail
    assert "the captioner" in gone["captions"].detail
    assert "the judge" in gone["judge"].detail
    assert not any(found["captions"].ok for found in (looped, gone))
    assert not gone["judge"].ok


def test_embedded_stores_that_are_there_are_told_from_those_to_be_made(
    kb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kb / "vectors").mkdir()
    monkeypatch.chdir(kb.parent)
    checks = found(Path(kb.name))
    assert checks["vectors"].detail == f"embedded in {kb.name}/vectors"
    assert checks["words"].detail == f"embedded in {kb.name}/lexical, which ingest will make"


def holding(kb: Path, **fields: Any) -> Path:
    """A document is in its ledger."""
    Ledger.load(kb).changed(pa.Table.from_pylist([ledger_row("a", **fields)], schema=SCHEMA))
    return kb


def test_embedded_stores_that_a_filled_index_lacks_are_problems(kb: Path) -> None:
    seen = found(holding(kb))
    assert not seen["vectors"].ok
    lacking = f"no {kb}/vectors/visual_knowledge and {kb}/vectors/text_knowledge, but the index holds"
    assert lacking in seen["vectors"].detail
    assert not seen["words"].ok
    assert f"no {kb}/lexical, but the index holds 1 documents: are they in a server" in seen["words"].detail
    assert "--rebuild" in seen["words"].detail
    for name in ("vectors/visual_knowledge", "vectors/text_knowledge", "lexical"):
        (kb / name).mkdir(parents=True)
    seen = found(kb)
    assert seen["vectors"].ok
    assert seen["words"].ok


def test_a_run_of_which_nothing_was_written_lacks_no_store(kb: Path) -> None:
    assert found(holding(kb, **UNFINISHED_ROW))["words"].ok


def test_stores_of_a_later_generation_are_looked_for(kb: Path) -> None:
    replace(Manifest.load(kb), generation=1).save(kb)
    holding(kb / "generations" / "1")
    (kb / "lexical").mkdir()  # of the generation before
    assert "lexical_g1" in found(kb)["words"].detail
    (kb / "lexical_g1").mkdir()
    assert found(kb)["words"] == Check("words", True, f"embedded in {kb}/lexical_g1")


@pytest.mark.parametrize("filled", [False, True])
def test_collections_that_a_server_lacks_are_a_problem_of_a_filled_index(
    kb: Path, monkeypatch: pytest.MonkeyPatch, filled: bool
) -> None:
    monkeypatch.setattr(MilvusStore, "exists", lambda config, name, owner: name == "text_knowledge")
    monkeypatch.setattr(ElasticStore, "exists", lambda config, name, owner: False)
    milvus = "stores.milvus={uri: 'http://m:1', prefix: team_}"
    elastic = "stores.elastic={url: 'http://e:1', prefix: t-}"
    seen = found(holding(kb) if filled else kb, milvus, elastic)
    assert (seen["vectors"].ok, seen["words"].ok) == (not filled, not filled)
    vectors, words = seen["vectors"].detail, seen["words"].detail
    if filled:
        assert "no team_visual_knowledge there, but" in vectors
        assert "holds 1 documents: do stores.milvus.uri and its prefix name the index's own?" in vectors
        assert "no t-text_knowledge there, but" in words
    else:
        assert vectors == "http://m:1 answers; team_visual_knowledge will be made by the first ingest"
        assert words == "http://e:1 answers; t-text_knowledge will be made by the first ingest"


class OwnedServer:
    """A Milvus and an Elasticsearch that have every collection and index, as those of one owner."""

    owner = "/srv/kb (1)"

    def __init__(self) -> None:
        self.indices = self

    def has_collection(self, name: str, timeout: float) -> bool:
        return True

    def describe_collection(self, name: str, timeout: float) -> dict[str, str]:
        return {"description": f"mmrag: {self.owner}"}

    def exists(self, index: str) -> bool:
        return True

    def get_mapping(self, index: str) -> dict[str, Any]:
        return {index: {"mappings": {"_meta": {"mmrag": self.owner}}}}

    def close(self) -> None: ...

    def __enter__(self) -> OwnedServer:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_collections_of_another_index_are_a_problem(kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = OwnedServer()
    monkeypatch.setattr(milvus, "_connect", lambda config: server)
    monkeypatch.setattr(elastic, "_connect", lambda config: server)
    make_identity(kb)
    stores = ["stores.milvus.uri=http://m:1", "stores.elastic.url=http://e:1"]
    for index in (kb, kb.parent / "made-anew"):
        seen = found(index, *stores)
        for part, setting in (("vectors", "stores.milvus.prefix"), ("words", "stores.elastic.prefix")):
            assert not seen[part].ok
            assert "belongs to the index /srv/kb (1), not to" in seen[part].detail
            assert f"set another {setting}" in seen[part].detail
    server.owner = identity(kb)
    seen = found(kb, *stores)
    assert seen["vectors"] == Check("vectors", True, "http://m:1 answers")
    assert seen["words"] == Check("words", True, "http://e:1 answers")


# Extras.


@pytest.mark.parametrize("setting", ["ingest.ocr.kind=rapidocr", "search.ocr.kind=rapidocr"])
def test_a_reader_of_pictures_that_is_not_installed_is_a_problem(
    kb: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    assert found(kb, setting)["ocr"].ok
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    problem = found(kb, setting)["ocr"]
    assert not problem.ok
    assert "'.[ocr]'" in problem.detail
    assert "ocr" not in found(kb)


def test_what_sends_spans_and_is_not_installed_is_a_problem(
    kb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled, to_a_collector = "serve.traces.sampling_ratio=0.1", "serve.traces.exporter=otlp"
    assert found(kb, sampled, to_a_collector)["traces"] == Check(
        "traces", True, "0.1 of the requests, to otlp"
    )
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    problem = found(kb, sampled, to_a_collector)["traces"]
    assert not problem.ok
    assert "'.[traces]'" in problem.detail
    assert found(kb, sampled)["traces"] == Check("traces", True, "0.1 of the requests, to file")
    assert "traces" not in found(kb, to_a_collector)  # nothing is sent


# Memory.


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """The GPU of this machine."""
    card = Gpu("H100", 80 * 2**30, 80 * 2**30)
    monkeypatch.setattr(checks, "gpus", lambda: [card])
    return card


def vllm_is(monkeypatch: pytest.MonkeyPatch, built: str) -> None:
    """What package metadata tells of the vLLM that is installed."""
    monkeypatch.setattr(pipelines.serve.vllm, "version", lambda name: built)


def test_a_vllm_for_cpus_is_not_on_the_gpu(kb: Path, card: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_is(monkeypatch, "0.29.0+cpu")
    assert "no GPU is used here" in found(kb, "generator.engine=vllm")["memory"].detail
    vllm_is(monkeypatch, "0.29.0")
    assert found(kb, "generator.engine=vllm")["memory"].detail.startswith("fits on H100")
    monkeypatch.setattr(checks, "gpus", lambda: [Gpu("H100", 80 * 2**30, 50 * 2**30)])
    assert "vLLM will not start" in found(kb, "generator.engine=vllm")["memory"].detail
    on_cpu = found(kb, "generator.engine=vllm", "serve.vllm.device=cpu")["memory"]
    assert "no GPU is used here" in on_cpu.detail


def test_a_vllm_for_gpus_needs_one(kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "gpus", list)
    vllm_is(monkeypatch, "0.29.0")
    for model in ([], HUB_MODELS[-1:]):  # one that is not fetched yet, too
        problem = found(kb, "generator.engine=vllm", *model)["memory"]
        assert not problem.ok
        assert "requirements/vllm-cpu.txt" in problem.detail


def test_models_that_share_the_card_are_told(kb: Path, card: Gpu) -> None:
    told = "; also on a GPU by their settings, and not counted: "
    generator = "generator.engine=transformers"
    assert found(kb, generator)["memory"].detail.endswith(f"{told}the encoder")
    assert told not in found(kb, generator, "encoder.device=cpu")["memory"].detail
    model = kb.parent / "embedder"
    model.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**27], "data_offsets": [0, 2**29]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    both = found(kb, generator, f"embedder={{kind: hub, model: {model}}}")["memory"].detail
    assert both.endswith(f"{told}the encoder, the embedder (weights 0.50 GiB)")


def test_parts_of_a_server_that_reserve_no_gpu_do_not_share_it(
    kb: Path, card: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    vllm_is(monkeypatch, "0.29.0")
    assert "not counted" not in found(kb, "generator.engine=vllm")["memory"].detail
    shares = found(kb, "generator.engine=vllm", "serve.encoder.num_gpus=0.1")["memory"].detail
    assert shares.endswith("not counted: the encoder")


def test_a_problem_is_status_1_and_says_what_to_do(kb: Path) -> None:
    (kb / WRITTEN).write_text("{")
    answer = mmrag("config", "check", "--index", kb, "--json")
    assert (answer.status, answer.err) == (1, "")
    body = json.loads(answer.out)
    assert body["ok"] is False
    [problem] = [one for one in body["checks"] if not one["ok"]]
    assert problem["part"] == "index"
    assert "restore it, or ingest into a new --index" in problem["detail"]


def test_an_index_that_is_not_there_yet_is_no_problem(tmp_path: Path) -> None:
    answer = mmrag("config", "check", "--index", tmp_path / "nowhere", "--json")
    assert (answer.status, answer.err) == (0, "")
    told = {one["part"]: one["detail"] for one in json.loads(answer.out)["checks"]}
    assert told["index"] == f"none at {tmp_path / 'nowhere'} yet: the first ingest makes it"
    assert not (tmp_path / "nowhere").exists()


def test_an_import_that_has_not_ended_is_one(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).write_text("{}")
    assert "an import into" in found(tmp_path)["index"].detail


HUB_MODELS = [
    "encoder={kind: clip, model: someone/surely-not-cached}",
    "embedder={kind: hub, model: someone/surely-not-cached}",
    "search.aligner={kind: blip2, model: someone/surely-not-cached}",
    "generator.model=someone/surely-not-cached",
]


def test_models_of_a_hub_are_fetched_by_the_first_use(kb: Path) -> None:
    seen = found(kb.parent / "none-yet", *HUB_MODELS)
    assert all(one.ok for one in seen.values()), seen
    for part in ("encoder", "embedder", "aligner", "generator"):
        assert (
            "someone/surely-not-cached is not on this machine; the first use fetches it" in seen[part].detail
        )
    assert "see generator" in seen["memory"].detail
    there = found(kb, HUB_MODELS[0])["index"]
    assert there == Check(
        "index",
        True,
        f"{kb} is of the configured encoder and embedder; the encoder is compared when it is here",
    )


def test_models_of_a_hub_that_may_not_be_asked_are_problems(
    kb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    seen = found(kb, *HUB_MODELS)
    for part in ("encoder", "embedder", "aligner", "generator"):
        assert "hf download someone/surely-not-cached" in seen[part].detail
    assert {part for part, one in seen.items() if not one.ok} == {
        *("encoder", "embedder", "aligner", "index", "generator", "memory")
    }


def test_wrong_settings_are_status_2(kb: Path) -> None:
    answer = mmrag("config", "check", "--index", kb, "--set", "encoder.kindd=clip", "--json")
    assert (answer.status, answer.out) == (2, "")
    assert "encoder.kindd: no such setting" in answer.err


def test_every_part_that_is_missing_is_told_at_once(
    kb: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    started = time.monotonic()
    problems = found(
        kb,
        f"stores.milvus.uri=http://127.0.0.1:{closed_port}",
        f"stores.elastic.url=http://127.0.0.1:{closed_port}",
        "encoder={kind: clip, model: someone/surely-not-cached}",
        "embedder={kind: hub, model: /no/such/model}",
        "search.aligner.model=/no/such/aligner",
        "generator.model=/no/such/llava",
        f"ingest.ray_address=127.0.0.1:{closed_port}",
    )
    assert time.monotonic() - started < 120
    assert {part for part, one in problems.items() if one.ok} == {"server", "disk"}
    for part, told in {
        "vectors": "is Milvus running there?",
        "words": "is Elasticsearch running there?",
        "encoder": "hf download someone/surely-not-cached",
        "embedder": "/no/such/model",
        "aligner": "/no/such/aligner holds no aligner",
        "index": "encoder.model",
        "generator": "generator.model '/no/such/llava' is no directory",
        "ray": "is the cluster up",
    }.items():
        assert told in problems[part].detail
        assert "\n" not in problems[part].detail
    assert problems["memory"] == Check("memory", False, "see generator")


def test_who_may_ask_the_server_is_told(kb: Path) -> None:
    open_to_all = found(kb, "serve.host=0.0.0.0")["server"]
    assert open_to_all.ok  # a container's own address; who reaches it is decided outside
    assert open_to_all.detail.startswith("open: whoever reaches 0.0.0.0:8000 may ask, and sees every tenant")
    assert found(kb)["server"].detail.startswith("127.0.0.1:8000, without API keys: whoever is on this")
    assert found(kb, "serve.host='::'", ONE_KEY)["server"].detail == "[::]:8000, for the owners of 1 API keys"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--host", "0.0.0.0"], True),
        (["--host", "0.0.0.0", "--set", ONE_KEY], False),
        ([], False),
    ],
)
def test_serve_says_that_it_stands_open(tmp_path: Path, given: list[str], told: bool) -> None:
    answer = mmrag("serve", "--index", tmp_path / "nowhere", *given)
    assert answer.status == 2
    assert ("open: whoever reaches 0.0.0.0:8000 may ask, and sees every tenant" in answer.err) == told


def test_an_index_of_another_model_is_told(kb: Path) -> None:
    problem = found(kb, "encoder.scales=[64]")["index"]
    assert not problem.ok
    assert "visual space differs" in problem.detail
    assert "scales" in problem.detail


def test_an_index_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "kb").write_text("")
    seen = found(tmp_path / "kb")
    assert not seen["vectors"].ok
    assert "is no directory" in seen["words"].detail


def test_a_ray_address_that_answers_is_well(kb: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    assert found(kb)["ray"] == Check("ray", True, f"127.0.0.1:{port} answers")


def test_auto_is_the_cluster_of_this_machine(
    kb: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert "belongs to no Ray cluster" in found(kb, "ingest.ray_address=auto")["ray"].detail
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{port}")
    assert found(kb, "ingest.ray_address=auto")["ray"].ok


def test_a_part_that_does_not_answer_is_not_waited_for(kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_disk", lambda index: time.sleep(5))
    [*_, disk] = run_checks(load_settings(), kb, limit_s=0.2)
    assert disk == Check("disk", False, "no answer within 0.2 s")


def test_whatever_goes_wrong_is_a_line(kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_embedded", lambda *folders: [][0])
    assert found(kb)["vectors"] == Check("vectors", False, "IndexError: list index out of range")


def test_no_check_starts_ray_or_loads_torch(kb: Path) -> None:
    from test_architecture import loaded_by

    program = (
        "from pathlib import Path; from pipelines.checks import run_checks; "
        "from pipelines.settings import load_settings; "
        f"list(run_checks(load_settings(), Path({str(kb)!r}), 120))"
    )
    assert not loaded_by(program) & {"ray", "torch", "transformers"}


# Show.


def test_show_prints_settings_that_load_again_and_where_they_come_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("encoder: {scales: [64, 96]}\ngenerator: {adapters: {panel: /a/b}}")
    monkeypatch.setenv("MMRAG_SEARCH__ALPHA_TEXT", "0.2")
    given = ["--config", config, "--set", "ingest.writers=2"]
    answer = mmrag("config", "show", *given)
    assert answer.status == 0, answer.err
    for line in (
        f"  scales: [64, 96]  # {config}",
        "  alpha_text: 0.2  # environment",
        "  writers: 2  # --set",
        f"    panel: /a/b  # {config}",
        "  kind: lite",
    ):
        assert line in answer.out.splitlines()
    shown = tmp_path / "shown.yaml"
    shown.write_text(answer.out)
    assert load_settings(shown).model_dump() == load_settings(config, ["ingest.writers=2"]).model_dump()
    body = json.loads(mmrag("config", "show", *given, "--json").out)
    assert body["settings"] == yaml.safe_load(answer.out)
    assert body["origins"]["ingest.writers"] == "--set"


SECRETS = {
    "MMRAG_STORES__MILVUS__URI": "http://milvus:19530",
    "MMRAG_STORES__MILVUS__TOKEN": "hunter-milvus",
    "MMRAG_STORES__ELASTIC__URL": "http://elastic:9200",
    "MMRAG_STORES__ELASTIC__USERNAME": "ann",
    "MMRAG_STORES__ELASTIC__PASSWORD": "hunter-elastic",
    "MMRAG_SERVE__API_KEYS": '[{"key": "hunter-key", "tenant": null, "name": "ann"}]',
    "MMRAG_SERVE__VLLM__ENV": '{"HF_TOKEN": "hunter-hub"}',
}


def test_no_secret_is_shown_or_in_a_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    answers = [mmrag("config", "show").out, mmrag("config", "show", "--json").out]
    for text in answers:
        assert "hunter" not in text
        assert text.count("***") == 4
    settings = load_settings()
    assert "hunter" not in repr(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("stores.milvus.uri=http://ann:hunter2@milvus:19530", "names a user in the address"),
        ("stores.elastic.url=https://ann:hunter2@elastic:9200", "names a user in the address"),
        ("ingest.sources.allowed_addresses=['s3://ann:hunter2@corpus/']", "holds a secret"),
        ("serve.vllm.engine_kwargs={hf_token: hunter2}", "set it as env.HF_TOKEN"),
    ],
)
def test_a_secret_in_a_place_that_is_printed_is_refused(assignment: str, complaint: str) -> None:
    answer = mmrag("config", "show", "--set", assignment)
    assert answer.status == 2
    assert complaint in answer.err
    assert "hunter2" not in answer.err + answer.out
