"""The parts and the filters that every store is asked about. Knows no store."""

from __future__ import annotations

import random
from typing import Any

from pipelines.core.filters import And, Comparison, Filter, In, Not, Or
from pipelines.core.types import Metadata, Part

AWKWARD = (
    'say "hi"',
    "it's",
    "back\\slash",
    "line\nbreak",
    "甲乙丙",
    "",
    'x" or key != "',
    "*:*",
    "a]b[c)",
    "ｗｉｄｅ",
)


def part(name: str, text: str = "common", *, tenant: str = "", **metadata: str | int | float | bool) -> Part:
    return Part(f"{name}#txt-0", "chunk", name, f"shelf/{name}", text, metadata=metadata, tenant=tenant)


def _shelf() -> list[Part]:
    rows: list[Metadata] = [
        {"year": 2019, "price": 1.0, "flag": True, "size": 1},
        {"year": 2020, "price": 1.5, "flag": False, "size": 1.0},
        {"year": 2021, "price": -2.5, "size": 2.5},
        {"year": -5, "price": 1e300, "flag": True, "size": -1},
        {"year": 2**53 + 1, "flag": False},
        {"year": 2**53},
        {"year": 0, "price": 0.0, "unit price": 3, "a.b": 1, "年份": "二〇二〇"},
        {"unit price": 4, "a.b": 2},
        {},
    ]
    rows += [{"name": name, "year": 1990 + i} for i, name in enumerate(AWKWARD)]
    return [
        Part(
            f"doc{i}#txt-0",
            "chunk",
            f"doc{i}",
            f"shelf/{i}",
            f"common word{i}",
            metadata=row,
            tenant=f"t{i % 2}",
        )
        for i, row in enumerate(rows)
    ]


SHELF = _shelf()

EXPRESSIONS = [
    "year == 2020",
    "year != 2020",
    "year < 2020",
    "year <= 2020",
    "year > 2020",
    "year >= 2020",
    "year > 2019.5",
    "year == 2020.0",
    "year == 9007199254740993",
    "year > 9007199254740992",
    "not year > 2020",
    "not (year != 2020)",
    "not not year == 0",
    "year in [2019, 2021, 5]",
    "year not in [2019, 2021]",
    "not year in [2019, 2021]",
    "not year not in [2019, 2021]",
    "year in [" + ",".join(map(str, range(1990, 2490))) + "]",
    " or ".join(f"year == {n}" for n in range(1980, 2200)),
    "price == 1",
    "price >= -2.5 and price < 1.5",
    "price > 1e299",
    "size == 1",
    "size in [1.0, 2.5]",
    "size < 1",
    "flag == true",
    "flag != true",
    "not flag == true",
    "flag in [false]",
    "absent == 1",
    "absent != 1",
    "not absent == 1",
    "absent not in [1]",
    "not (absent == 1 or year > 0)",
    "`unit price` > 3",
    "a.b == 1",
    '年份 == "二〇二〇"',
    'name >= "甲"',
    'name < "b"',
    'name > "" and name <= "line\\nbreak"',
    'name != "it\'s"',
    'kind == "chunk"',
    'kind != "chunk"',
    'kind in ["image", "chunk"] and not kind == "image"',
    'document_id in ["doc1", "doc2"]',
    'document_id not in ["doc1", "doc2"]',
    'id > "doc3"',
    'source == "shelf/4"',
    'tenant == "t1" and (year >= 2020 or flag == true)',
    *(
        f"name == {json}"
        for json in ('"x\\" or key != \\""', '"*:*"', '"a]b[c)"', '"ｗｉｄｅ"', '"back\\\\slash"')
    ),
]


def random_filters(count: int, seed: int = 0) -> list[Filter]:
    """Filters over the shelf's fields, each value of its field's type."""
    rng = random.Random(seed)
    pool: dict[str, list[Any]] = {
        "year": [2019, 2020, 2020.0, 2021, -5, 0, 2**53, 2**53 + 1, 1995],
        "price": [1, 1.0, 1.5, -2.5, 1e300, 0],
        "size": [1, 1.0, 2.5, -1, 7],
        "flag": [True, False],
        "name": [*AWKWARD, "it"],
        "absent": [1, 2],
        "tenant": ["t0", "t1", "t2"],
    }

    def one(depth: int) -> Filter:
        choice = rng.random()
        if depth and choice < 0.5:
            operands = tuple(one(depth - 1) for _ in range(rng.randint(2, 3)))
            return rng.choice((And, Or))(operands)
        if depth and choice < 0.7:
            return Not(one(depth - 1))
        field = rng.choice(list(pool))
        if choice > 0.9:
            return In(field, tuple(rng.choices(pool[field], k=2)), rng.random() < 0.5)
        operators = ("==", "!=") if field == "flag" else ("==", "!=", "<", "<=", ">", ">=")
        return Comparison(field, rng.choice(operators), rng.choice(pool[field]))

    return [one(3) for _ in range(count)]
