"""What an address may hold, and whether it is this machine's. Opens nothing.

Addresses stand in messages, results and ledgers, so none may hold a secret.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from pipelines.core.errors import UsageError

# Up to the last "@" before a "/"; of a secret, which may hold a "/" itself, up to the last "@" of all. What
# looks like a port is none where the scheme has no ports.
_PORTLESS = "|".join(f"(?<={scheme}://)" for scheme in ("s3", "gs", "gcs", "abfs", "abfss"))
_USER = re.compile(
    rf"(?:(?:{_PORTLESS})[^/?#\s:@\[]*:\S*"
    r"|(?<=://)(?:[^/?#\s]*|[^/?#\s:@\[]*:(?!\d+(?:[/?#]|$))\S*))(?=@)"
)
# Of Azure, the only store that takes a secret there: a client's, and the signature of a SAS token.
_OPTION = re.compile(r"(?<=[?&])(client_secret|sig)=[^&#\s]*", re.IGNORECASE)
_HIDDEN = "***"
_WITH_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):/{1,2}(.*)", re.DOTALL)


def masked(address: str) -> str:
    """The address with `***` for its user, whether or not that holds a password, and for secret options."""
    return _OPTION.sub(rf"\1={_HIDDEN}", _USER.sub(_HIDDEN, address))


def refuse_secret(address: str, error: type[Exception]) -> str:
    """The address. Raises `error` for one that holds a secret.

    A user without a password is none: `abfs://container@account/`, `gs://anonymous@bucket/`.
    """
    if any(":" in user for user in _USER.findall(address)) or _OPTION.search(address):
        raise error(
            f"{masked(address)}: holds a secret, and addresses are printed and kept; take it out, and set "
            "what the store reads from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, say"
        )
    return address


def index_directory(name: str | Path) -> Path:
    """The directory of an index, by its path. Raises UsageError for a file, and for an address, also for what
    Path makes of one: taken as a path, `s3://bucket/kb` would be `s3:/bucket/kb` in the working directory."""
    if found := _WITH_SCHEME.fullmatch(str(name)):
        address = masked(f"{found[1]}://{found[2]}")
        raise UsageError(
            f"index {address}: is an address, and an index is a directory: name one by its path, of this "
            "machine's disk or mounted; `mmrag export` writes a copy of an index to an address"
        )
    if Path(name).is_file():
        raise UsageError(f"index {name}: is a file; name a directory")
    return Path(name)


def is_loopback(host: str) -> bool:
    """Of a name or an IP address; IPv6 with or without brackets."""
    host = host.lower()
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_here(url: str) -> bool:
    """Whether its server is on this machine. Such a one is asked directly: a proxy that the environment names
    (`http_proxy`) does not reach it, and would read the key. httpx and gRPC exempt none by themselves."""
    host = (urlsplit(url).hostname or "").removesuffix(".")
    return is_loopback(host) or host in ("0.0.0.0", "::")  # which connect to this machine
