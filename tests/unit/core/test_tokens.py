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
        ("1,000 or 1,00; 1,2", ["1000", "or", "1", "00", "1", "2"]),
        ("1/2, ½ 3:4 2^3 2+3", ["1/2", "1/2", "3:4", "2^3", "2+3"]),
        ("10-20 10–20 10～20 10...20", ["10-20", "10-20", "10~20", "10...20"]),
        ("<5 > 5 >= 5 ≥5 (<-5)", ["<5", ">5", ">=5", ">=5", "<-5"]),
        ("5 m/s, x^2 and C++", ["5", "m/s", "x^2", "and", "c"]),
        ("+5 V: 5%", ["5", "v", "5"]),  # as SQuAD's script
        ("−5 °C, (-5) x-5", ["-5", "°c", "-5", "x5"]),
        ("２３０Ｖ", ["230v"]),
        ("…!?", ["...!?"]),
        ("110、220两种。50Hz", ["110", "220", "两", "种", "50hz"]),
        ("220。50Hz 220V、380V", ["220", "50hz", "220v", "380v"]),
        ("a -> 120, b => 5", ["a", "120", "b", "5"]),
        (" + ", ["+"]),
        (" ", []),
    ],
)
def test_tokens(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected
