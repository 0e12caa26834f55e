"""What counts as a token, in English and Chinese."""

from __future__ import annotations

import pytest

from pipelines.core.tokens import tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Pump's voltage: 230 V!", ["the", "pumps", "voltage", "230", "v"]),
        ("AC-120", ["ac120"]),  # as SQuAD's script
        ("孔距是90mm。", ["孔", "距", "是", "90mm"]),
        ("3.5 and 35.", ["3.5", "and", "35"]),
        ("1,000 or 1,00", ["1000", "or", "100"]),
        ("−5 °C, (-5) x-5", ["-5", "°c", "-5", "x5"]),
        ("２３０Ｖ", ["230v"]),
        ("…!?", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected
