"""Photographs that come with scikit-image, and what each shows.

Only files that the wheel holds (nothing is downloaded) and whose authors gave them away; the
licences are as stated in `skimage/data/_fetchers.py` of scikit-image 0.26. Files without such a
statement there (`moon`, `page`, `phantom`, `color`, the Middlebury motorcycle, the LFW faces) are
left out. Knows nothing of the other parts of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pipelines.core.errors import MissingDependency, install_line


@dataclass(frozen=True, slots=True)
class Photograph:
    """`en` and `zh` are what the corpus says about it; a picture without either has no text at all."""

    file: str
    licence: str
    topic: str
    en: str = ""
    zh: str = ""

    @property
    def document_id(self) -> str:
        return f"photo-{self.file.split('.')[0].replace('_', '-')}"

    @property
    def lang(self) -> str:
        return "+".join(lang for lang, text in (("en", self.en), ("zh", self.zh)) if text) or "none"


PHOTOGRAPHS = (
    Photograph(
        "astronaut.png",
        "public domain (NASA)",
        "people",
        "Portrait of the astronaut Eileen Collins in an orange space suit, before a flag and a model of "
        "the space shuttle.",
        "宇航员艾琳·柯林斯的肖像，身穿橙色宇航服，身后是国旗和航天飞机模型。",
    ),
    Photograph("brick.png", "CC0", "texture", "A wall of bricks seen at an angle.", "倾斜拍摄的砖墙。"),
    Photograph(
        "camera.png",
        "CC0 (Lav Varshney)",
        "people",
        "A man in a dark coat looks through a film camera on a tripod, on a lawn in front of a city.",
    ),
    Photograph(
        "cell.png", "CC0 (Paul Müller)", "microscopy", zh="漂浮在生理盐水中的单个细胞，全息显微图像。"
    ),
    Photograph("chelsea.png", "CC0 (Stéfan van der Walt)", "animal"),
    Photograph(
        "clock_motion.png",
        "public domain (Stéfan van der Walt)",
        "object",
        "A wall clock, blurred because the camera moved.",
    ),
    Photograph("coffee.png", "CC0 (Rachel Michetti)", "food"),
    Photograph(
        "coins.png",
        "no known restrictions (Brooklyn Museum)",
        "object",
        "Greek coins from Pompeii, laid out in rows.",
        "庞贝出土的希腊硬币，排成几行。",
    ),
    Photograph("grass.png", "CC0", "texture", zh="近处拍摄的草地。"),
    Photograph("gravel.png", "CC0", "texture"),
    Photograph(
        "horse.png",
        "CC0 (Andreas Preuss)",
        "animal",
        "The black silhouette of a horse.",
        "一匹马的黑色剪影。",
    ),
    Photograph(
        "hubble_deep_field.jpg",
        "public domain (NASA)",
        "space",
        "The Hubble telescope's farthest view of the universe: thousands of galaxies on black sky.",
        "哈勃望远镜拍到的最遥远的宇宙：黑色天空中的数千个星系。",
    ),
    Photograph(
        "ihc.png",
        "no known restrictions (CMMI)",
        "microscopy",
        "Microscope picture of glands of the colon, stained brown and blue.",
    ),
    Photograph("logo.png", "BSD-3-Clause (scikit-image)", "drawing"),
    Photograph(
        "microaneurysms.png", "CC0 (Andreas Maier)", "medical", "Detail of a retina with small lesions."
    ),
    Photograph(
        "retina.jpg", "CC0 (Mikael Häggström)", "medical", zh="正常左眼的眼底照片，可以看到视盘和血管。"
    ),
    Photograph(
        "rocket.jpg",
        "public domain (SpaceX)",
        "space",
        "A Falcon 9 rocket stands on the launch pad at dusk.",
        "黄昏时分，猎鹰九号火箭立在发射台上。",
    ),
    Photograph("text.png", "public domain", "texture"),
)


def folder() -> Path:
    """Where scikit-image keeps its pictures; it is not imported for that."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise MissingDependency(f"the example photographs need scikit-image: {install_line('demo')}")
    return Path(spec.origin).parent / "data"
