"""The life of the embedded server: shared, restarted after a kill, gone when idle, never an orphan."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from servers import python
from shelf import part
from small_index import answers, filled
from store_contract import DIM

from pipelines.core.errors import StoreError, StoreUnavailable
from pipelines.core.store_places import TEXT, VISUAL
from pipelines.core.stores import embedded
from pipelines.core.stores.config import MilvusConfig
from pipelines.core.stores.milvus import MilvusStore

pytestmark = pytest.mark.slow

# Attaches, says where, and stays until its input ends.
CLIENT = """
import sys
from pathlib import Path
from pipelines.core.stores import embedded
print(embedded.attach(Path(sys.argv[1]), idle_s=float(sys.argv[2])), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "index"
    embedded.stop(tmp_path / "index")


def client(directory: Path, idle_s: float = 60) -> subprocess.Popen[str]:
    return python("-c", CLIENT, str(directory), str(idle_s))


def uri_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def server_pid(directory: Path) -> int:
    return int(json.loads((directory / "server.json").read_text())["pid"])


def wait_until(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def write_one(uri: str, name: str) -> None:
    with MilvusStore.open(MilvusConfig(uri=uri), "c", DIM) as store:
        store.upsert([part(name)], np.ones((1, DIM), np.float32))


def names(uri: str) -> set[str]:
    with MilvusStore.open(MilvusConfig(uri=uri), "c", DIM) as store:
        return {found.part.document_id for found in store.search(np.ones(DIM, np.float32), 10)}


def test_processes_that_attach_at_once_share_one_server(directory: Path) -> None:
    clients = [client(directory) for _ in range(4)]
    uris = {uri_of(process) for process in clients} | {embedded.attach(directory)}
    assert len(uris) == 1
    write_one(uris.pop(), "a")
    assert names(embedded.attach(directory)) == {"a"}
    for process in clients:
        process.communicate()


def test_only_this_user_and_this_machine_can_reach_it(directory: Path) -> None:
    embedded.attach(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    listening = [c for c in psutil.Process(server_pid(directory)).net_connections() if c.status == "LISTEN"]
    assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}


def test_a_killed_server_is_replaced_and_keeps_what_it_acknowledged(directory: Path) -> None:
    first = embedded.attach(directory)
    write_one(first, "a")
    with MilvusStore.open(MilvusConfig(uri=first), "c", DIM) as store:
        os.kill(killed := server_pid(directory), signal.SIGKILL)
        wait_until(lambda: gone(killed))
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1"):
            store.search(np.ones(DIM, np.float32), 1)
        assert time.monotonic() - started < 10
    second = embedded.attach(directory)
    assert server_pid(directory) != killed
    write_one(second, "b")
    assert names(second) == {"a", "b"}


def test_the_environments_proxy_is_not_asked_for_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC would ask it for loopback, too."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # nobody is there
    write_one(embedded.attach(directory), "a")
    assert names(embedded.attach(directory)) == {"a"}


def test_an_open_index_goes_on_with_a_new_server_where_its_own_was_killed(tmp_path: Path) -> None:
    with filled(tmp_path) as index:
        before = answers(index)
        for collection in (VISUAL, TEXT):
            os.kill(killed := server_pid(tmp_path / "vectors" / collection), signal.SIGKILL)
            wait_until(lambda: gone(killed))
        assert answers(index) == before


def test_an_open_index_makes_no_server_for_a_collection_that_was_deleted(tmp_path: Path) -> None:
    with filled(tmp_path) as index:
        directory = tmp_path / "vectors" / TEXT
        pid = server_pid(directory)
        shutil.rmtree(directory)
        wait_until(lambda: gone(pid))
        with pytest.raises(StoreUnavailable):
            index.text().count()
        assert not directory.exists()


def test_a_server_that_hangs_is_replaced(directory: Path) -> None:
    embedded.attach(directory)
    os.kill(hung := server_pid(directory), signal.SIGSTOP)
    record = json.loads((directory / "server.json").read_text())
    (directory / "server.json").write_text(json.dumps(record | {"port": 9}))  # nothing answers there
    write_one(embedded.attach(directory), "a")
    assert gone(hung)


def test_interrupting_the_starter_leaves_the_server_until_it_is_idle(directory: Path) -> None:
    starter = python("-c", CLIENT, str(directory), "6", start_new_session=True)
    uri = uri_of(starter)
    pid = server_pid(directory)
    os.killpg(starter.pid, signal.SIGINT)  # what a terminal does on Ctrl-C
    starter.wait(timeout=10)
    assert not gone(pid)
    write_one(uri, "a")
    wait_until(lambda: gone(pid))
    assert not (directory / "server.json").exists()
    assert list((directory / "clients").iterdir()) == []
    assert names(embedded.attach(directory)) == {"a"}


def test_a_living_client_keeps_the_server(directory: Path) -> None:
    with client(directory, 0.4) as process:
        uri_of(process)
        pid = server_pid(directory)
        time.sleep(1.5)
        assert not gone(pid)
        process.kill()
    wait_until(lambda: gone(pid))


@pytest.mark.parametrize("left_behind", ["dead", "reused", "garbage", "empty"])
def test_a_stale_record_is_replaced(directory: Path, left_behind: str) -> None:
    with python("-c", "") as dead:
        dead.wait()
    directory.mkdir(mode=0o755)
    record = {
        "dead": json.dumps({"pid": dead.pid, "started": time.time(), "port": 9}),
        # This very process, had it been started an hour before: it must not be killed.
        "reused": json.dumps(
            {"pid": os.getpid(), "started": psutil.Process().create_time() - 3600, "port": 9}
        ),
        "garbage": "[1, 2",
        "empty": "{}",
    }[left_behind]
    (directory / "server.json").write_text(record)
    write_one(embedded.attach(directory), "a")


def test_a_deleted_index_ends_its_server(directory: Path) -> None:
    embedded.attach(directory)
    pid = server_pid(directory)
    shutil.rmtree(directory)
    wait_until(lambda: gone(pid))
    assert not directory.exists()


def test_stop_ends_the_server_and_can_be_repeated(directory: Path) -> None:
    embedded.stop(directory)
    embedded.attach(directory)
    pid = server_pid(directory)
    embedded.stop(directory)
    embedded.stop(directory)
    assert gone(pid)


def test_a_server_that_cannot_start_shows_its_log(directory: Path) -> None:
    directory.mkdir()
    (directory / "data").write_text("in the way")
    with pytest.raises(StoreUnavailable, match=r"(?s)server\.log ends with:.*Error"):
        embedded.attach(directory)


def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="directory of yours"):
        embedded.attach(tmp_path / "file")


def test_attaching_to_a_running_server_starts_nothing(directory: Path) -> None:
    embedded.attach(directory)
    before = psutil.Process().children(recursive=True)
    embedded.attach(directory)
    assert psutil.Process().children(recursive=True) == before
