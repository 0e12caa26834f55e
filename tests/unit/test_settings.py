"""Settings: which source wins, and what a mistake says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.cli_serve import _chosen
from pipelines.core.errors import UsageError
from pipelines.settings import load_settings, shown


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("MMRAG_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "mmrag.yaml"


def test_nothing_given_is_the_offline_default() -> None:
    settings = load_settings()
    assert settings.encoder.kind == "lite"
    assert settings.embedder.kind == "use"
    assert settings.stores.milvus is None
    assert settings.index.encoder == settings.encoder


def test_a_file_beats_the_defaults_the_environment_the_file_and_set_both(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("search: {alpha_text: 0.1, alpha_image: 0.1, alpha_similar: 0.1}")
    monkeypatch.setenv("MMRAG_SEARCH__ALPHA_IMAGE", "0.2")
    monkeypatch.setenv("MMRAG_SEARCH__ALPHA_SIMILAR", "0.2")
    search = load_settings(config, ["search.alpha_similar=0.3"]).search
    assert (search.alpha_text, search.alpha_image, search.alpha_similar) == (0.1, 0.2, 0.3)
    assert search.rank_constant == 60


def test_set_reads_its_value_as_yaml() -> None:
    settings = load_settings(None, ["encoder.scales=[224, 336]", "encoder.model=/models/vit=b"])
    assert settings.encoder.scales == (224, 336)
    assert settings.encoder.model == "/models/vit=b"


def test_off_is_a_word_though_yaml_reads_it_as_false(config: Path) -> None:
    config.write_text("answer: {follow_up: off}")
    settings = load_settings(config, ["ingest.near_duplicates=off"])
    assert (settings.answer.follow_up, settings.ingest.near_duplicates) == ("off", "off")
    with pytest.raises(UsageError, match="'report' or 'off'"):
        load_settings(None, ["ingest.near_duplicates=on"])


def test_a_later_set_wins() -> None:
    assert load_settings(None, ["encoder.batch_size=1", "encoder.batch_size=2"]).encoder.batch_size == 2


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().encoder.kind = "clip"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("assignment", "complaint"),
    [
        ("encoder.kindd=clip", r"encoder\.kindd: no such setting"),
        ("encodr.kind=clip", r"encodr: no such setting"),
        ("encoder.kind=vit", r"encoder\.kind: .*'lite' or 'clip'"),
        ("search.alpha_text=2", r"search\.alpha_text: .*less than or equal to 1"),
        ("search.branch_timeout_s=.inf", r"search\.branch_timeout_s: must be a finite number"),
        ("train.llava.clip_norm=.inf", r"train\.llava\.clip_norm: must be a finite number"),
        ("encoder.batch_size=many", r"encoder\.batch_size: .*integer"),
        ("encoder", "write it as name.of.setting=value"),
        ("encoder..kind=x", "write it as name.of.setting=value"),
        ("encoder.scales=[1", "not valid YAML"),
    ],
)
def test_a_mistake_in_set_is_named(assignment: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        load_settings(None, [assignment])


@pytest.mark.parametrize("host", ["::", "::1", "0.0.0.0", "yes", "127.0.0.1"])
def test_an_address_to_listen_at_is_taken_as_it_is(host: str) -> None:
    served = load_settings(None, _chosen(host, 0)).serve
    assert (served.host, served.port) == (host, 0)


def test_setting_below_a_value_is_refused() -> None:
    with pytest.raises(UsageError, match="encoder is set to a value already"):
        load_settings(None, ["encoder=x", "encoder.kind=clip"])


def test_a_mistake_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRAG_ENCODER__KINDD", "clip")
    with pytest.raises(UsageError, match=r"encoder\.kindd: no such setting"):
        load_settings()


def test_a_group_of_settings_in_the_environment_says_how_to_write_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRAG_ENCODER", "clip")
    with pytest.raises(UsageError, match="MMRAG_ENCODER__KIND"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MMRAG_SERVE_API_KEYS", "MMRAG_SERVE__API_KEYS"),
        ("MMRAG_SERV__API_KEYS", "MMRAG_SERVE__API_KEYS"),
        ("MMRAG__SERVE__API_KEYS", "MMRAG_SERVE__API_KEYS"),
        ("mmrag_serve_api_keys", "MMRAG_SERVE__API_KEYS"),
        ("MMRAG_STORES_MILVUS_TOKEN", "MMRAG_STORES__MILVUS__TOKEN"),
        ("MMRAG_TRAIN_LLAVA_BASE_MODEL", "MMRAG_TRAIN__LLAVA__BASE_MODEL"),
        ("MMRAG_SERVE_PORT", "MMRAG_SERVE__PORT"),
        ("MMRAG_APIKEY", "MMRAG_API_KEY"),
    ],
)
def test_a_variable_that_sets_nothing_is_refused(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "hunter2")
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert str(caught.value) == f"environment: {name} is no setting: is {meant} meant?"


def test_a_variable_that_is_near_none_says_how_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRAG_XYZZY", "1")
    with pytest.raises(UsageError, match=r"MMRAG_XYZZY is no setting: .*MMRAG_ENCODER__KIND"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MMRAG_SERVE_SVC_PORT", "tcp://10.0.0.1:8000"),
        ("MMRAG_SERVE_SVC_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("MMRAG_SERVE_SVC_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("MMRAG_SERVE_SVC_PORT_8000_TCP_PROTO", "tcp"),
        ("MMRAG_SERVE_SVC_SERVICE_HOST", "10.0.0.1"),
        ("MMRAG_SERVE_SVC_SERVICE_PORT_SERVE", "8000"),
        ("MMRAG_SERVICE_HOST", "10.0.0.1"),
        ("MMRAG_PORT", "tcp://10.0.0.1:8000"),
        ("MMRAG_API_KEY", "long-enough"),
    ],
)
def test_what_kubernetes_tells_of_its_services_is_let_through(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the key that `mmrag ask` sends."""
    monkeypatch.setenv(name, value)
    assert load_settings().encoder.kind == "lite"


def test_json_that_is_none_is_told_by_the_variables_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRAG_SERVE__PORT", "8001")
    monkeypatch.setenv("MMRAG_SERVE__API_KEYS", "[{'key': 'hunter2'}]")
    with pytest.raises(UsageError) as caught:
        load_settings()
    assert str(caught.value) == "settings: MMRAG_SERVE__API_KEYS is not valid JSON"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("encoder: {kindd: clip}", r"encoder\.kindd: no such setting"),
        ("- a\n- b", "wanted settings such as"),
        ("encoder: {kind: [", r"mmrag\.yaml: "),
    ],
)
def test_a_mistake_in_the_file_is_named(config: Path, text: str, complaint: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError, match=complaint):
        load_settings(config)


def test_an_empty_file_sets_nothing(config: Path) -> None:
    config.write_text("# nothing yet\n")
    assert load_settings(config).encoder.kind == "lite"


def test_a_file_that_is_not_there_is_named(config: Path) -> None:
    with pytest.raises(UsageError, match=r"mmrag\.yaml: there is no such file"):
        load_settings(config)


def test_a_file_that_is_no_text_is_named(config: Path) -> None:
    config.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"mmrag\.yaml"):
        load_settings(config)


def test_secrets_come_from_the_environment_and_are_not_printed(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("stores: {milvus: {uri: 'http://milvus:19530'}}")
    monkeypatch.setenv("MMRAG_STORES__MILVUS__TOKEN", "hunter2")
    settings = load_settings(config)
    assert settings.stores.milvus is not None
    assert settings.stores.milvus.token is not None
    assert settings.stores.milvus.token.get_secret_value() == "hunter2"
    assert "hunter2" not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()


def test_headers_of_a_judge_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRAG_EVALUATE__JUDGE__EXTRA_HEADERS", '{"api-key": "hunter2"}')
    settings = load_settings(None, ["evaluate.judge.url=http://j", "evaluate.judge.model=m"])
    assert settings.evaluate.judge is not None
    assert settings.evaluate.judge.extra_headers["api-key"].get_secret_value() == "hunter2"
    assert shown(settings)["evaluate"]["judge"]["extra_headers"] == {"api-key": "***"}
    assert "hunter2" not in repr(settings)


def test_a_secret_is_not_printed_when_a_setting_beside_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMRAG_STORES__MILVUS__TOKEN", "hunter2")
    with pytest.raises(UsageError) as caught:
        load_settings(None, ["stores.milvus.urii=http://x"])
    assert "stores.milvus.urii" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('stores:\n  milvus: {token: "root:hunter2', "line 2, column 32: found unexpected end of stream"),
        ("password: *hunter2", "line 1, column 11: found undefined alias"),
        ("password: !hunter2 x", "line 1, column 11: could not determine a constructor for the tag"),
        ("password: a: hunter2", "line 1, column 12: mapping values are not allowed here"),
        ("password: \x01hunter2", "character 11: special characters are not allowed"),
        ("password: @hunter2", "line 1, column 11: found character … that cannot start any token"),
        ('password: !!int ""', "holds a value that is none of its type, as a date in a 13th month"),
        ("password: !!bool y", "holds a value that is none of its type, as a date in a 13th month"),
        (
            "password: !!timestamp hunter2",
            "holds a value that is none of its type, as a date in a 13th month",
        ),
        ("password: 2001-99-99", "holds a value that is none of its type, as a date in a 13th month"),
    ],
)
def test_a_file_that_is_no_yaml_is_told_without_what_it_says(config: Path, text: str, told: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings(config)
    assert str(caught.value) == f"--config {config}: {told}"
    with pytest.raises(UsageError, match="the value is not valid YAML") as caught:
        load_settings(None, [f"serve={text}"])
    assert "hunter2" not in str(caught.value)
