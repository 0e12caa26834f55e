"""The embedded vector server: one milvus-lite process on loopback for one directory of data.

The first process to `attach` starts it, detached, so that Ctrl-C of the starter does not end it;
later ones find it in `server.json`. Each client leaves a lease (pid and start time) under
`clients/`; when no living process has held one for `idle_s`, the server stops itself. Every
decision is taken under one file lock, so a client never attaches to a server that is leaving.
Knows no collections. Listens on 127.0.0.1 only, but without a password: whoever can log in to this
machine can read it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pipelines.core.errors import StoreError, StoreUnavailable
from pipelines.core.files import replace_file
from pipelines.core.processes import Process

IDLE_S: Final = 60.0
LOG_BYTES: Final = 1 << 20
_POLL_S: Final = 0.02
_CODE_ROOT: Final = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class _Server:
    """What `server.json` says."""

    process: Process
    port: int

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
                return True
        except OSError:
            return False


def attach(directory: Path, *, idle_s: float = IDLE_S, start_timeout_s: float = 30.0) -> str:
    """The URI of the vector server of `directory`, which is started if it does not run.

    It keeps running at least as long as this process. Call again where `serves` denies it: a server
    that was killed is started anew, on another port. Raises StoreUnavailable, with the end of the
    server's log, if it does not come up; StoreError if `directory` cannot be written.
    """
    directory = directory.resolve()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)  # vectors and texts are as private as what they were made from
        (directory / "clients").mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise StoreError(
            f"{directory}: cannot be used for an embedded index ({exc.strerror}); "
            "it must be a directory of yours that you can write to"
        ) from exc
    with _locked(directory, start_timeout_s):
        me = Process.current()
        replace_file(directory / "clients" / f"{me.pid}.json", json.dumps(asdict(me)))
        server = _read_server(directory)
        if server is not None and server.process.alive:
            if server.answers:
                return server.uri
            server.process.end(grace_s=5.0)
        return _start(directory, idle_s, start_timeout_s).uri


def serves(directory: Path, uri: str) -> bool:
    """Whether the vector server of `directory` is alive and still at this URI. Looks at its process only."""
    server = _read_server(directory.resolve())
    return server is not None and server.uri == uri and server.process.alive


def stop(directory: Path, *, timeout_s: float = 10.0) -> None:
    """Stop the server of `directory`, if one runs, also under living clients. Flush them first."""
    directory = directory.resolve()
    if not directory.is_dir():
        return
    with _locked(directory, timeout_s):
        server = _read_server(directory)
        if server is not None:
            server.process.end(grace_s=timeout_s)
        (directory / "server.json").unlink(missing_ok=True)


def _start(directory: Path, idle_s: float, timeout_s: float) -> _Server:
    command = [sys.executable, "-P", "-m", "pipelines.core.stores.embedded"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_CODE_ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
        # Threads that wait for one another lose a hundred times what they save where other work has a core.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    (directory / "server.json").unlink(missing_ok=True)
    log_path = directory / "server.log"
    log_path.write_bytes(b"")
    with log_path.open("ab") as log:  # appending, so that the server can cut it while it writes
        child = subprocess.Popen(
            [*command, "--directory", str(directory), "--idle-s", str(idle_s)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the terminal's Ctrl-C is not for it
            cwd="/",
            env=environment,
        )
    # Wait for it in the background, or it stays a zombie of this process after it stops.
    threading.Thread(target=child.wait, daemon=True).start()
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        server = _read_server(directory)
        if server is not None and server.process.pid == child.pid and server.answers:
            return server
        if child.poll() is not None:
            raise StoreUnavailable(_failure(directory, f"ended with status {child.returncode}"))
        time.sleep(_POLL_S)
    child.kill()
    raise StoreUnavailable(_failure(directory, f"did not answer within {timeout_s:g} s"))


def _failure(directory: Path, what: str) -> str:
    log = directory / "server.log"
    tail = log.read_text(errors="replace")[-2000:].strip() or "(empty)"
    return f"{directory}: the vector server {what}; is the disk full? {log} ends with:\n{tail}"


def _read_server(directory: Path) -> _Server | None:
    try:
        found = json.loads((directory / "server.json").read_text())
        return _Server(Process(int(found["pid"]), float(found["started"])), int(found["port"]))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None  # absent, or not written by us: the same as no server


@contextmanager
def _locked(directory: Path, timeout_s: float) -> Iterator[None]:
    lock = FileLock(directory / "server.lock", timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout as exc:
        raise StoreUnavailable(
            f"{directory}: another process has been starting or stopping the vector server for "
            f"{timeout_s:g} s; try again"
        ) from exc
    try:
        yield
    finally:
        lock.release()


def _has_clients(directory: Path) -> bool:
    """Whether a living process holds a lease. Removes the leases of dead ones."""
    living = False
    for path in (directory / "clients").glob("*.json"):
        try:
            found = json.loads(path.read_text())
            alive = Process(int(found["pid"]), float(found["started"])).alive
        except (ValueError, KeyError, TypeError):
            alive = False
        except FileNotFoundError:
            continue
        if not alive:
            path.unlink(missing_ok=True)
        living |= alive
    return living


def _wait_until_idle(
    directory: Path, server: _Server, idle_s: float, ended: threading.Event
) -> FileLock | None:
    """Return when the server has to go: with the lock held if it was idle, so that nobody attaches.

    None means that somebody asked it to, or that `directory` is gone or has another server.
    """
    poll_s = min(1.0, idle_s / 4)
    last_used = time.monotonic()
    log = directory / "server.log"
    while not ended.wait(poll_s):
        if _read_server(directory) != server:
            return None
        try:
            if log.stat().st_size > LOG_BYTES:
                os.truncate(log, 0)
        except FileNotFoundError:
            return None
        if _has_clients(directory):
            last_used = time.monotonic()
        elif time.monotonic() - last_used >= idle_s:
            lock = FileLock(directory / "server.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue  # somebody is attaching
            if not _has_clients(directory):
                return lock
            lock.release()
    return None


def _serve(directory: Path, idle_s: float) -> None:
    """The server process: milvus-lite in its own threads, the leases in this one."""
    # Imported here: a process that only attaches does not pay for the engine.
    from milvus_lite.adapter.grpc.server import (  # type: ignore[import-untyped]
        start_server_in_thread,
    )

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    signal.signal(signal.SIGINT, lambda *_: ended.set())
    # Port 0: the kernel picks a free one at the moment of binding, so there is no race for it.
    grpc_server, database, port = start_server_in_thread(str(directory / "data"), "127.0.0.1", 0)
    server = _Server(Process.current(), port)
    replace_file(directory / "server.json", json.dumps(asdict(server.process) | {"port": port}))
    lock = _wait_until_idle(directory, server, idle_s, ended)
    grpc_server.stop(grace=5).wait()
    if not (directory / "data").is_dir():
        return  # deleted under us: closing would write it anew
    database.close()
    if _read_server(directory) == server:
        (directory / "server.json").unlink(missing_ok=True)
    if lock is not None:
        lock.release()


def main() -> None:
    parser = argparse.ArgumentParser(description="The vector server of one directory of data.")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--idle-s", type=float, default=IDLE_S)
    arguments = parser.parse_args()
    _serve(arguments.directory, arguments.idle_s)


if __name__ == "__main__":
    main()
