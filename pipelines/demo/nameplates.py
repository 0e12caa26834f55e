"""The example nameplates: machines whose figures stand on the plate and in no text.

A test holds the texts to that, and every code and number to being new to the packaged tiny-llava. The company
and the machines are invented.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from pipelines.demo.plates import Box, Plate, Row, draw

_LABELS = {
    "weight": ("Weight", "重量"), "height": ("Height", "高度"), "diameter": ("Diameter", "直径"),
    "speed": ("Speed", "转速"), "noise": ("Noise", "噪声"), "power": ("Power", "功率"),
    "voltage": ("Voltage", "电压"), "capacity": ("Capacity", "容量"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Nameplate:
    """`values`: what the plate says, by a key of the labels. `form`: what is drawn on it."""

    code: str
    form: str
    kind: str
    year: int
    layout: str
    values: tuple[tuple[str, str], ...]
    text: str
    caption: str
    chinese: bool = False

    @property
    def document_id(self) -> str:
        return f"plate-{self.code.lower()}"

    @property
    def plate(self) -> Plate:
        rows = tuple(Row(key, _LABELS[key][self.chinese], value) for key, value in self.values)
        return Plate(f"{self.kind} {self.code}", self.form, rows, self.chinese)

    def draw(self) -> Image.Image:
        return self.drawn()[0]

    def drawn(self) -> tuple[Image.Image, dict[str, Box]]:
        """The picture and, in its pixels, the boxes of its values; always the same."""
        return draw(self.plate, self.layout, random.Random(self.code))


NAMEPLATES = (
    Nameplate(
        "LK-847", "pump", "Pump", 2024, "table",
        (("voltage", "120 V"), ("power", "265 W"), ("weight", "1855 g")),
        "The pump LK-847 keeps a closed cooling loop moving. It sits between the tank and the radiator and "
        "starts by itself. The life of the pump LK-847 is 5264 h. What it needs is on the plate.",
        "Nameplate of the pump LK-847",
    ),
    Nameplate(
        "SA-870", "motor", "Motor", 2023, "list",
        (("speed", "2871 rpm"), ("voltage", "190 V"), ("noise", "54 dB")),
        "The motor SA-870 drives conveyor belts. It may run all day, and its bearings need no grease. "
        "Its figures are on the plate at its side.",
        "Nameplate of the motor SA-870",
    ),
    Nameplate(
        "VQ-139", "fan", "Fan", 2025, "cells",
        (("diameter", "92 mm"), ("speed", "1594 rpm"), ("noise", "25 dB"), ("power", "33 W")),
        "The fan VQ-139 blows air through a cabinet of electronics. Four rubber pins hold it, so that the "
        "cabinet does not hum.",
        "Nameplate of the fan VQ-139",
    ),
    Nameplate(
        "HQ-362", "motor", "电机", 2024, "centred",
        (("speed", "1428 rpm"), ("power", "472 W"), ("weight", "3229 g")),
        "电机 HQ-362 可以全天运转，不用加水。具体数据请看图。",
        "电机 HQ-362的图",
        chinese=True,
    ),
    Nameplate(
        "TN-42", "pump", "水泵", 2025, "table",
        (("capacity", "85 L"), ("voltage", "168 V"), ("noise", "42 dB")),
        "水泵 TN-42 用来换水，安静可靠。水泵 TN-42的寿命是6460 h。接电之前请看图。",
        "水泵 TN-42的图",
        chinese=True,
    ),
    Nameplate(
        "EL-292", "radiator", "散热器", 2023, "top",
        (("height", "175 mm"), ("weight", "2490 g"), ("capacity", "12 L")),
        "散热器 EL-292 挂在机箱后面，配两个支架。尺寸请看图。",
        "散热器 EL-292的图",
        chinese=True,
    ),
)  # fmt: skip
