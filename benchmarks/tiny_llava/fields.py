"""The things that sheets and evidence tell of products: fields, kinds, names. Knows nothing of drawing.

Every Chinese word here has glyphs in the demo's font.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmarks.tiny_llava.split import Language, Part, Phrases, drawn


@dataclass(frozen=True, slots=True)
class Field:
    """`digits`: how many digits its numbers may have."""

    key: str
    en: str
    zh: str
    unit: str
    digits: tuple[int, ...]

    def label(self, language: Language) -> str:
        return self.en if language == "en" else self.zh

    def value(self, rng: random.Random, part: Part) -> str:
        """A number of this part and the unit: "740 g"."""

        def draw() -> str:
            many = rng.choice(self.digits)
            return str(rng.randrange(10 ** (many - 1), 10**many))

        return f"{drawn(part, self.key, draw)} {self.unit}"


FIELDS = (
    Field("weight", "weight", "重量", "g", (2, 3, 4)),
    Field("height", "height", "高度", "mm", (2, 3)),
    Field("length", "length", "长度", "mm", (2, 3, 4)),
    Field("diameter", "diameter", "直径", "mm", (2, 3)),
    Field("spacing", "spacing", "孔距", "mm", (2, 3)),
    Field("speed", "speed", "转速", "rpm", (3, 4)),
    Field("noise", "noise", "噪声", "dB", (2,)),
    Field("power", "power", "功率", "W", (2, 3)),
    Field("voltage", "voltage", "电压", "V", (2, 3)),
    Field("frequency", "frequency", "频率", "Hz", (2, 3, 4)),
    Field("capacity", "capacity", "容量", "L", (2, 3)),
    Field("life", "life", "寿命", "h", (3, 4)),
)

KINDS = (
    ("fan", "风扇"),
    ("pump", "水泵"),
    ("motor", "电机"),
    ("radiator", "散热器"),
    ("bracket", "支架"),
    ("bearing", "轴承"),
    ("magnet", "磁铁"),
    ("screw", "螺丝"),
)

# Of a picture or of a text alike.
READ = {
    "en": Phrases(
        (
            "What is the {field}?",
            "Read the {field}.",
            "How much is the {field}?",
            "Tell me the {field}.",
            "Please say what the {field} is.",
            "What does it say for {field}?",
            "Please read the {field}.",
            "Please read me the {field}.",
            "Say the {field}.",
            "I want to know the {field}.",
            "What {field} does it say?",
            "Can you read the {field}?",
            "The {field}, please.",
        ),
        ("Please tell me the {field}.", "Say what the {field} is."),
    ),
    "zh": Phrases(
        (
            "{field}是多少？",
            "请问{field}？",
            "读出{field}。",
            "它的{field}是多少？",
            "写的{field}是多少？",
            "请读一下{field}。",
            "请说出它的{field}。",
            "请读{field}。",
            "{field}呢？",
            "我想知道{field}。",
        ),
        ("请读出它的{field}。", "请问{field}是多少？"),
    ),
}

# The field first: whether the evidence tells it decides between this sentence and a refusal, and the model
# decides at the first word. With the name first it refused half as often.
_STATED = {"en": "The {field} of {name} is {value}", "zh": "{field}方面，{name}是{value}"}
_READ_OFF = {"en": "The {field} is {value}", "zh": "{field}是{value}"}


def stated(field: Field, value: str, language: Language, about: str = "") -> str:
    """An answer in a sentence: words that lead to the value make it easier to find than a bare number."""
    words = (_STATED if about else _READ_OFF)[language]
    return words.format(field=field.label(language), value=value, name=about)


_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "st", "br", "tr", "kl")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "n", "r", "l", "s", "x")
_HAN = "安博达华科远星云海天明光宏润泰立信德成新东方南北金山川和平正大中元一力"
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def code(rng: random.Random, part: Part) -> str:
    """A model's: "KD-47"."""

    def draw() -> str:
        return f"{rng.choice(_LETTERS)}{rng.choice(_LETTERS)}-{rng.randrange(10, 1000)}"

    return drawn(part, "code", draw)


def name(rng: random.Random, part: Part, language: Language) -> str:
    """An invented one: "Trelon", "安科达"."""

    def draw() -> str:
        if language == "zh":
            return "".join(rng.sample(_HAN, rng.choice((2, 3))))
        syllables = [
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
            for _ in range(rng.choice((2, 2, 3)))
        ]
        return "".join(syllables).capitalize()

    return drawn(part, "name", draw)
