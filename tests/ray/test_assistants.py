"""The assistants of examples/ over their own drawn corpora: real ingest, real stores, packaged models."""

from __future__ import annotations

import ast
import io
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

import pipelines
from examples import page
from examples.maths import assistant as maths
from examples.maths import data as problems
from examples.medical import assistant as medical
from examples.medical import data as phantoms
from examples.medical.measure import jpeg, unrelated
from examples.product import assistant as product
from examples.product import data as products
from pipelines import KnowledgeBase, Line, SearchResult, UsageError
from pipelines.core.grounding import iou
from pipelines.core.ray_runtime import ray_runtime

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES = Path(page.__file__).parent
_LOCAL = "http://127.0.0.1"


ONE_ENCODER = ["ingest.encoders=1", "ingest.encoder_threads=1"]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """One Ray for all three, which each ingest else starts."""
    with ray_runtime(cpus=6):
        yield


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KnowledgeBase]:
    with product.opened(tmp_path_factory.mktemp("product"), ONE_ENCODER) as kb:
        yield kb


@pytest.fixture(scope="module")
def exercises(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KnowledgeBase]:
    with maths.opened(tmp_path_factory.mktemp("maths"), ONE_ENCODER) as kb:
        yield kb


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KnowledgeBase]:
    with medical.opened(tmp_path_factory.mktemp("medical"), ONE_ENCODER) as kb:
        yield kb


# Product.


def test_a_product_is_answered_from_its_sheet_and_its_text_with_both_cited(machines: KnowledgeBase) -> None:
    """tiny-llava is wrong now and then: most of them, and never another product's."""
    right = {"sheet": 0, "text": 0}
    for made in products.products():
        reply = product.answer(machines, made.question(made.values[0]), made.id)
        ids = {source.id for block in reply.blocks for source in block.sources}
        assert ids == {f"sheet-{made.id}#img-0", f"text-{made.id}#txt-0"}
        for kind, block in zip(right, reply.blocks, strict=True):
            [source] = block.sources
            assert source.id.startswith(kind)
            assert (source.picture != "") == (kind == "sheet")
            right[kind] += source.cited and made.values[0][2] in block.text
    assert min(right.values()) >= 5, right


def test_values_are_marked_where_they_stand_on_the_sheet(machines: KnowledgeBase) -> None:
    placed = 0
    made = [one for one in products.products() if not one.chinese]
    for one in made:
        field = one.values[1]
        said = machines.ask(one.question(field), where={"product_id": one.id, "form": "sheet"})
        placed += any(box.image == 1 and iou(box.xyxy, one.draw()[1][field[0]]) >= 0.5 for box in said.boxes)
        marked = machines.marked(said)
        assert set(marked) == {box.image for box in said.boxes}
        assert all(image.size == one.draw()[0].size for image in marked.values())
    assert placed >= len(made) - 1


@pytest.mark.parametrize("product_id", ['X" or product_id != "', "' or form == 'text", "", "X\\", "TR-530 "])
def test_a_hostile_product_id_is_no_wider_filter(machines: KnowledgeBase, product_id: str) -> None:
    with pytest.raises(UsageError, match="there is no product"):
        product.answer(machines, "What is the power?", product_id)


# Maths.


def test_a_problem_photographed_again_is_found_first(exercises: KnowledgeBase) -> None:
    rng = random.Random(100)
    stored = problems.problems()
    found = []
    for problem in stored:
        reply = maths.answer(exercises, jpeg(problems.photographed(problem.draw(), rng)))
        [source] = reply.blocks[1].sources
        assert source.cited
        found.append(source.id == problem.id and reply.blocks[1].steps == problem.steps)
    assert sum(found) >= len(stored) - 1, found


def test_steps_are_carried_over_to_the_numbers_of_another_equation(exercises: KnowledgeBase) -> None:
    asked = problems.Problem("linear", (6, 15, 45), False)
    reply = maths.answer(exercises, jpeg(problems.photographed(asked.draw(), random.Random(7))))
    read, found, anew, _ = reply.blocks
    assert "6x" in read.text.replace(" ", "")
    assert found.sources[0].id.startswith("linear-")
    assert "may differ" in found.text
    assert anew.steps == ("Subtract 15 from both sides: 6x = 30", "Divide both sides by 6: x = 5")


def test_no_steps_are_carried_over_where_there_is_no_equation(exercises: KnowledgeBase) -> None:
    asked = problems.Problem("rectangle", (14, 8), True)
    reply = maths.answer(exercises, jpeg(problems.photographed(asked.draw(), random.Random(8))))
    assert len(reply.blocks) == 3
    assert reply.blocks[1].sources[0].id.startswith("rectangle-")
    assert "可能与您的题目不同" in reply.blocks[1].text


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Solve for x: 3x + 5 = 20", (3, 5, 20)),
        ("解方程：−x–7＝3", (-1, -7, 3)),
        ("X+1=2", (1, 1, 2)),
        ("0x+1=2", None),
        ("3x=7", None),
        ("12 cm", None),
        ("9" * 500 + "x+1=" + "9" * 500, None),
    ],
)
def test_equations_are_read_from_text(text: str, numbers: tuple[int, int, int] | None) -> None:
    assert maths.linear(text) == numbers


# Medical.


def test_a_held_out_phantom_is_described_and_marked(cases: KnowledgeBase) -> None:
    right = {"caption": 0, "box": 0}
    held_out = [one for one in phantoms.phantoms(seed=5) if one.mark][:6]
    for phantom in held_out:
        picture = jpeg(phantom.draw())
        reply = medical.answer(cases, picture)
        assert reply.notice == medical.NOTICE
        described = reply.blocks[0]
        assert "most similar case [1]" in described.text
        assert described.sources[0].cited
        right["caption"] += phantom.view in described.sources[0].text
        seen = cases.ask(f"Where is the black {phantom.mark}?", picture, mode="image", k=1)
        right["box"] += any(box.image == "query" and iou(box.xyxy, phantom.box) >= 0.5 for box in seen.boxes)
    assert right["caption"] >= 5, right
    assert right["box"] >= 4, right


def test_it_says_nothing_of_an_unrelated_picture(cases: KnowledgeBase) -> None:
    for picture in list(unrelated(5))[::4]:
        reply = medical.answer(cases, jpeg(picture), chinese=True)
        assert reply.notice == medical.NOTICE
        [block] = reply.blocks
        assert "没有足够相似的病例" in block.text
        assert not block.sources
        assert not block.picture


def test_the_threshold_is_the_askers(cases: KnowledgeBase) -> None:
    phantom = jpeg(phantoms.phantoms(seed=5)[6].draw())
    assert "No case" in medical.answer(cases, phantom, least=1.01).blocks[0].text
    assert medical.answer(cases, jpeg(next(unrelated(5))), least=0.0).blocks[0].sources


def test_it_answers_in_chinese(cases: KnowledgeBase) -> None:
    reply = medical.answer(cases, jpeg(phantoms.phantoms(seed=5)[0].draw()), chinese=True)
    assert "最相似的病例 [1]" in reply.blocks[0].text
    assert "体模绘图" in reply.blocks[0].sources[0].text
    assert "这不是诊断" in reply.notice


# The page.


def client(kb: KnowledgeBase) -> TestClient:
    return TestClient(medical.api(kb), base_url=_LOCAL)


def test_the_products_page_asks_its_own_example_and_names_the_products(machines: KnowledgeBase) -> None:
    http = TestClient(product.api(machines), base_url=_LOCAL)
    html = http.get("/").text
    assert "@" not in html
    product_id, question = re.findall(r'placeholder="([^"]*)"', html)
    [made] = [one for one in products.products() if one.id == product_id]
    assert question in [made.question(value) for value in made.values]
    reply = http.post("/ask", params={"product_id": product_id, "question": question}).json()
    assert [block["title"] for block in reply["blocks"]] == [titles[0] for titles in product.TITLES.values()]
    wrong = http.post("/ask", params={"product_id": "x" * 900, "question": question})
    assert wrong.status_code == 400
    assert len(wrong.json()["error"]) < 300
    assert all(one.id in wrong.json()["error"] for one in products.products())


def test_the_maths_page_answers_a_photograph(exercises: KnowledgeBase) -> None:
    http = TestClient(maths.api(exercises), base_url=_LOCAL)
    assert "@" not in http.get("/").text
    problem = problems.problems()[0]
    photograph = jpeg(problems.photographed(problem.draw(), random.Random(100)))
    reply = http.post("/ask", content=photograph).json()
    assert reply["blocks"][1]["steps"] == list(problem.steps)
    assert reply["blocks"][1]["sources"][0]["picture"].startswith("data:image/jpeg;base64,")
    nothing = http.post("/ask")
    assert (nothing.status_code, nothing.json()["error"].partition(":")[0]) == (400, "there is no picture")


def test_without_a_problem_to_compare_with_it_says_so(tmp_path: Path) -> None:
    class Emptied(KnowledgeBase):
        """Whose problems were all deleted."""

        def read(self, image: object) -> tuple[Line, ...]:
            return ()

        def search(self, *words: object, **fields: object) -> SearchResult:
            return SearchResult(())

    http = TestClient(maths.api(Emptied(tmp_path)), base_url=_LOCAL)
    answer = http.post("/ask", content=jpeg(Image.new("RGB", (40, 40))))
    assert answer.status_code == 400
    assert "the index is empty" in answer.json()["error"]


def test_the_page_answers_over_http(cases: KnowledgeBase) -> None:
    http = client(cases)
    assert "This is not a diagnosis" in http.get("/").text
    assert "default-src 'none'" in http.get("/").headers["content-security-policy"]
    for name in ("page.css", "page.js"):
        assert http.get(f"/{name}").status_code == 200
    assert http.get("/page.py").status_code == 404
    reply = http.post("/ask", content=jpeg(phantoms.phantoms(seed=5)[0].draw())).json()
    assert reply["notice"] == medical.NOTICE
    uri = reply["blocks"][0]["sources"][0]["picture"]
    assert uri.startswith("data:image/jpeg;base64,")


def test_what_is_no_picture_is_one_sentence(cases: KnowledgeBase) -> None:
    http = client(cases)
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    for body, status, message in [
        (b"", 400, "there is no picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400, "the picture cannot be used: .*SVG"),
        (jpeg(Image.new("RGB", (400, 400)))[:200], 400, "the picture cannot be used"),
        (bomb.getvalue(), 400, "above the limit"),
        (b"\xff" * (page.MAX_PICTURE_BYTES + 1), 413, "larger than 10 MB"),
    ]:
        answer = http.post("/ask", content=body)
        assert answer.status_code == status
        assert re.search(message, answer.json()["error"])
        assert "\n" not in answer.json()["error"]


def test_the_page_answers_to_this_machines_names_alone(cases: KnowledgeBase) -> None:
    assert client(cases).get("/", headers={"host": "elsewhere.example"}).status_code == 400


def names_of_pipelines(tree: ast.AST) -> set[str]:
    """What a module takes of the package: the public names, and others with their module's name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pipelines":
            above = "" if node.module == "pipelines" else f"{node.module}."
            found |= {above + alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "pipelines"}
    return found


@pytest.mark.parametrize("name", ["product", "maths", "medical"])
def test_each_is_small_and_explains_itself(name: str) -> None:
    source = (EXAMPLES / name / "assistant.py").read_text("utf-8")
    assert len(source.splitlines()) <= 150
    for file in (EXAMPLES / name).glob("*.py"):
        assert names_of_pipelines(ast.parse(file.read_text("utf-8"))) <= set(pipelines.__all__), file
    html = (EXAMPLES / name / "page.html").read_text("utf-8")
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", html)
    command = [sys.executable, "-m", f"examples.{name}.assistant", "--help"]
    helped = subprocess.run(command, cwd=EXAMPLES.parent, capture_output=True, text=True, check=True).stdout
    assert f"python -m examples.{name}.assistant WORK" in helped
