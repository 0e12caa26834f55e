"""Which commit of a hub's model a branch stands for. Loads no model.

A branch moves, and machines fetch it on different days: an index that only knew "main" would mix the vectors
of two models. So the settings are pinned to a commit before anything loads, and it is part of the space.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_BRANCH: Final = "main"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def pinned(
    model: str, revision: str | None, written: Mapping[str, Any] | None, *, fetch: bool = True
) -> str | None:
    """The revision to load a model by: of a hub's model the commit that `revision` is at now.

    A space that was `written` before commits were recorded goes by its branch, which stays its name. Where
    the hub, or without `fetch` this machine, has no such model, `revision` as it is: who loads it tells.
    """
    if not model or Path(model).is_dir() or _COMMIT.fullmatch(revision or ""):
        return revision
    if written and written.get("revision") == (revision or _BRANCH):
        return revision
    return _commit_of(model, revision, fetch) or revision


def _commit_of(model: str, revision: str | None, fetch: bool) -> str | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        file = hf_hub_download(model, "config.json", revision=revision, local_files_only=not fetch)
    except (OSError, EntryNotFoundError, HFValidationError):
        return None
    return Path(file).parent.name  # models--org--name/snapshots/<commit>/config.json
