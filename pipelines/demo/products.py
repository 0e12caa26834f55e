"""The example products: what their drawings show, and the prose that keeps silent about it.

`patterns` (what fits, and the hole spacing in millimetres) appears in the drawing and nowhere else:
a test holds the texts to that. The company and the products are invented; the hole spacings are
those of the real sockets, fans and monitors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Form = Literal["tower", "low", "radiator", "fan", "bracket"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line of the compatibility table: what the part fits, and its holes' spacing across and down."""

    fits: str
    across_mm: float
    down_mm: float

    @property
    def spacing(self) -> str:
        return f"{self.across_mm:g} × {self.down_mm:g}"


@dataclass(frozen=True, slots=True)
class Product:
    id: str
    form: Form
    lang: Literal["en", "zh", "en+zh"]
    year: int
    title: str
    size_mm: tuple[float, float, float]
    fans: int
    patterns: tuple[Pattern, ...]
    facts: tuple[tuple[str, str], ...]
    text: str
    caption: str

    @property
    def drawn_in_chinese(self) -> bool:
        return self.lang == "zh"

    @property
    def document_id(self) -> str:
        return f"spec-{self.id.lower()}"


LGA1700 = Pattern("LGA 1700", 78, 78)
LGA1851 = Pattern("LGA 1851", 78, 78)
LGA1200 = Pattern("LGA 1200", 75, 75)
LGA2066 = Pattern("LGA 2066", 80, 80)
AM4 = Pattern("AM4", 90, 54)
AM5 = Pattern("AM5", 90, 54)

PRODUCTS = (
    Product(
        "AC-120", "tower", "en", 2024, "Single-tower CPU cooler", (124, 157, 71), 1,
        (LGA1700, LGA1200, AM5),
        (("Noise", "≤ 24 dB(A)"), ("Speed", "400–1,500 rpm"), ("Weight", "740 g")),
        "The AC-120 is a single-tower air cooler for people who never want to hear their workstation. "
        "Five heat pipes carry the warmth of the processor to an aluminium fin stack, and one slow fan "
        "blows it away. It is the quiet choice for a home office: low noise, no pump, nothing to leak. "
        "For hole spacing and supported sockets see the drawing.",
        "Engineering drawing of the AC-120 single-tower CPU cooler",
    ),
    Product(
        "AC-140", "tower", "zh", 2025, "双塔风冷散热器", (150, 165, 136), 2,
        (LGA1700, LGA2066, AM5),
        (("噪声", "≤ 28 dB(A)"), ("转速", "300–1,200 rpm"), ("重量", "1,240 g")),
        "AC-140 是一款双塔风冷散热器，为长时间渲染和编译的工作站而设计。七根热管配合两组鳍片和两把风扇，"
        "满载时依然从容。随附导热硅脂和长柄螺丝刀，六年质保。孔距和支持的插座请看工程图。",
        "AC-140 双塔风冷散热器工程图",
    ),
    Product(
        "AC-47L", "low", "en+zh", 2023, "Low-profile CPU cooler", (95, 47, 95), 1,
        (LGA1200, AM4),
        (("Noise", "≤ 26 dB(A)"), ("Speed", "600–2,400 rpm"), ("Weight", "385 g")),
        "The AC-47L is a low-profile cooler that blows downwards. It fits cases so flat that a tower "
        "cooler would never close: living-room computers and small servers on a shelf.\n\n"
        "AC-47L 是一款下压式低矮散热器，适合放不下塔式散热器的超薄机箱，例如客厅电脑和书架上的小型服务器。",
        "Engineering drawing of the AC-47L low-profile cooler / AC-47L 下压式低矮散热器工程图",
    ),
    Product(
        "AC-60S", "low", "zh", 2024, "服务器被动散热片", (90, 60, 90), 0,
        (LGA2066, LGA1700),
        (("噪声", "0 dB(A)"), ("风道", "前后"), ("重量", "520 g")),
        "AC-60S 是一款没有风扇的被动散热片，用于机架式服务器。它依靠机箱自身的风道散热，没有运动部件，"
        "因此无需维护。铜底座与密集的铝鳍片焊接在一起。",
        "AC-60S 服务器被动散热片工程图",
    ),
    Product(
        "LC-240", "radiator", "en", 2024, "Liquid cooling radiator", (277, 120, 27), 2,
        (Pattern("120 mm fan", 105, 105), LGA1700, AM5),
        (("Noise", "≤ 30 dB(A)"), ("Pump", "2,600 rpm"), ("Weight", "1,310 g")),
        "The LC-240 is a closed liquid cooler with a long radiator and two fans. It comes filled and "
        "sealed; hang the radiator under the roof of the case and forget about it. Made for gaming "
        "computers whose processor runs hot for hours.",
        "Engineering drawing of the LC-240 liquid cooling radiator",
    ),
    Product(
        "LC-360", "radiator", "zh", 2025, "一体式水冷排，三风扇", (397, 120, 30), 3,
        (Pattern("120 mm 风扇", 105, 105), LGA1851, AM5),
        (("噪声", "≤ 32 dB(A)"), ("水泵", "2,800 rpm"), ("重量", "1,690 g")),
        "LC-360 是一款三风扇一体式水冷，面向超频玩家。加长冷排带走大功率处理器的热量，水泵安静可靠。"
        "出厂已注满冷却液，免维护，可安装在机箱顶部或前部。",
        "LC-360 一体式水冷排工程图",
    ),
    Product(
        "CF-120", "fan", "en", 2022, "Case fan", (120, 120, 25), 1,
        (Pattern("120 mm mount", 105, 105),),
        (("Noise", "≤ 19 dB(A)"), ("Air flow", "85 m³/h"), ("Connector", "4-pin")),
        "The CF-120 moves air through the case without a hum. Rubber corners keep its vibration away "
        "from the steel, and the speed follows the temperature of the mainboard. Sold singly or in "
        "packs of three.",
        "Engineering drawing of the CF-120 case fan",
    ),
    Product(
        "CF-140", "fan", "zh", 2023, "静音机箱风扇", (140, 140, 25), 1,
        (Pattern("140 mm 风扇位", 124.5, 124.5),),
        (("噪声", "≤ 18 dB(A)"), ("风量", "110 m³/h"), ("接口", "4-pin")),
        "CF-140 是一款静音机箱风扇，采用磁悬浮轴承，寿命长达十年。扇叶边缘的锯齿结构降低了风噪，"
        "适合放在卧室里的电脑。",
        "CF-140 静音机箱风扇工程图",
    ),
    Product(
        "CF-80", "fan", "en+zh", 2021, "Replacement fan", (80, 80, 25), 1,
        (Pattern("80 mm mount", 71.5, 71.5),),
        (("Noise", "≤ 22 dB(A)"), ("Air flow", "45 m³/h"), ("Connector", "3-pin")),
        "The CF-80 is a small replacement fan for network switches and storage boxes whose own fan has "
        "begun to rattle.\n\nCF-80 是一款小型替换风扇，用于交换机和网络存储设备，"
        "可替换发出异响的旧风扇。",
        "Engineering drawing of the CF-80 replacement fan / CF-80 替换风扇工程图",
    ),
    Product(
        "BR-21", "bracket", "en", 2024, "Backplate, steel", (110, 110, 2), 0,
        (LGA1700, LGA1200),
        (("Material", "Steel, 2 mm"), ("Coating", "Black zinc"), ("Thread", "M4")),
        "The BR-21 is a stiff steel backplate. It sits behind the mainboard and keeps it from bending "
        "under a heavy cooler. Replace the plastic part in the box with it when a computer has to "
        "travel.",
        "Engineering drawing of the BR-21 steel backplate",
    ),
    Product(
        "BR-33", "bracket", "zh", 2025, "铝合金扣具", (116, 84, 3), 0,
        (AM5, AM4),
        (("材料", "铝合金, 3 mm"), ("表面", "阳极氧化"), ("螺纹", "M4")),
        "BR-33 是一款铝合金扣具，用来把旧散热器装到新平台上。数控加工，安装时只需要一把螺丝刀，"
        "不必拆下主板。",
        "BR-33 铝合金扣具工程图",
    ),
    Product(
        "VP-10", "bracket", "en+zh", 2022, "Monitor wall plate", (122, 122, 2.5), 0,
        (Pattern("VESA MIS-D", 100, 100), Pattern("VESA MIS-D", 75, 75)),
        (("Load", "≤ 14 kg"), ("Material", "Steel"), ("Thread", "M4")),
        "The VP-10 hangs a monitor flat against the wall; a keyhole slot lets one person do it alone."
        "\n\nVP-10 显示器壁挂板把显示器平贴在墙上，带有锁孔槽，一个人即可安装。",
        "Engineering drawing of the VP-10 monitor wall plate / VP-10 显示器壁挂板工程图",
    ),
)  # fmt: skip
