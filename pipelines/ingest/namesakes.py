"""Two places that make one id: `scans/1.png` of 2023/scans and of 2024/scans. Knows no ledger.

In one run the first of them stands; of two runs, that which the index has, as long as it is still there. An
id that a row or a side-car gives is its writer's to use again.
"""

from __future__ import annotations

from pipelines.ingest.sources import Item, SourceConfig, files, rows

_ARCHIVES = (".tar", ".parquet")


class Namesakes:
    """Looks for what another source holds; whether a source is there at all is looked up once."""

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._is_there: dict[str, bool] = {}

    def of(self, item: Item, scope: str) -> str:
        """The place in the source `scope`, of which the index has the item's id, that makes this id too;
        "" where none does, or it is gone."""
        name, _, below = item.document_id.partition("/")
        if not scope or scope == item.scope or name != files.base_name(item.root):
            return ""
        if not below or _is_given(item, below):
            return ""
        for root in (scope, files.parent(scope)):
            place = f"{root}/{below}"
            is_other = files.base_name(root) == name and not files.is_same(root, item.root)
            if is_other and self._stands(place, scope):
                return place
        return ""

    def _stands(self, place: str, scope: str) -> bool:
        if scope not in self._is_there:
            self._is_there[scope] = self._found(scope)
        is_inside = place.startswith((f"{scope}/", f"{scope}:")) and scope.lower().endswith(_ARCHIVES)
        return self._is_there[scope] and (is_inside or self._found(place))

    def _found(self, address: str) -> bool:
        allowed = self._config.allowed_addresses  # each ends in a slash
        if files.is_remote(address) and not any(map(f"{address}/".startswith, allowed)):
            return False
        return files.is_there(address)


def _is_given(item: Item, below: str) -> bool:
    """Whether somebody wrote the id down, in a side-car or a row, and neither the file nor the picture made
    it."""
    row, file = rows.unpack(item.payload), files.base_name(item.address)
    if item.form != "row":
        return bool(row.id)
    made = [files.strip_file_scheme(path) for path in row.images[:1]]
    is_made = below in [path.removeprefix(f"{item.root}/").removeprefix("./") for path in made]
    return not is_made and not below.startswith((f"{file}/", f"{file}:"))
