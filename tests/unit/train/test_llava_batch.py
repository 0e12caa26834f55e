"""Samples as a model reads them: which tokens carry loss, where the pictures are, what is refused."""

from __future__ import annotations

import io
import json
import pickle

import numpy as np
import pytest
import torch
from fakes import picture
from PIL import Image
from tiny_llava import IMAGE_TOKENS, SIDE, TEMPLATE, tiny_llava, tiny_processor
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from pipelines.core.errors import BadImage, BadPart, UsageError
from pipelines.core.grounding import FrameConfig
from pipelines.core.prompts import Turn, evidence_prompt, messages
from pipelines.train.conversations import Sample
from pipelines.train.llava_batch import Example, Prepare, collate, in_frame_units, picture_shape

FRAME = FrameConfig()
# As LLaVA-1.5's on the hub: pictures first, no first token, no end tokens, the prompt without its space.
NO_END = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role.upper() + ': ' }}{% endif %}"
    "{% for p in m.content if p.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for p in m.content if p.type == 'text' %}{{ p.text + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# As of the Qwen family: a line break behind the end token belongs to nobody.
CHATML = (
    "{% for m in messages %}{{ '<s>' + m.role + '\n' }}{% for p in m.content %}"
    "{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}{{ '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def processor(template: str = TEMPLATE, *, adds_bos: bool = False):
    made = tiny_processor()
    made.chat_template = template
    if adds_bos:
        made.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return made


def sample(*texts: str, pictures: int = 0, system: str = "", size: tuple[int, int] = (8, 8)) -> Sample:
    turns = [Turn("system", system)] if system else []
    turns += [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return Sample("s", (file.getvalue(),) * pictures, tuple(turns), 1)


def learnt(example: Example, made) -> str:
    return made.tokenizer.decode(example.input_ids[example.labels != -100])


def read_back(example: Example, made) -> str:
    return made.tokenizer.decode(example.input_ids)


CONVERSATION = ("<image>\nWhat is it?", "A red square.", "And <image>?", "还是红色。")


# --- labels


@pytest.mark.parametrize(
    ("template", "adds_bos", "expected"),
    [
        (TEMPLATE, False, "A red square.</s>还是红色。</s>"),
        (NO_END, True, " A red square.</s> 还是红色。</s>"),  # the space is behind its prompt
        (CHATML, False, "A red square.</s>还是红色。</s>"),
    ],
    ids=["vicuna", "llava-1.5", "chatml"],
)
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_loss_is_on_the_answers_and_their_end_tokens_only(template, adds_bos, expected, system):
    made = processor(template, adds_bos=adds_bos)
    example = Prepare(made, FRAME, 512)(sample(*CONVERSATION, pictures=2, system=system))
    assert learnt(example, made) == expected
    counted = example.labels != -100
    assert np.array_equal(example.labels[counted], example.input_ids[counted])
    assert example.input_ids.dtype == example.labels.dtype == np.int64


def test_every_answer_token_is_predicted_from_what_serving_would_have_sent():
    for template, adds_bos in ((TEMPLATE, False), (NO_END, True), (CHATML, False)):
        made = processor(template, adds_bos=adds_bos)
        example = Prepare(made, FRAME, 512)(sample(*CONVERSATION[:2], pictures=1))
        prompt = made.apply_chat_template(
            messages([Turn("user", CONVERSATION[0])]), add_generation_prompt=True, tokenize=False
        )
        square = Image.new("RGB", (SIDE, SIDE))
        encoded = made(text=prompt, images=square, add_special_tokens=adds_bos, return_tensors="np")
        served = encoded["input_ids"][0]
        assert np.array_equal(example.input_ids[: len(served)], served)
        assert (example.labels[: len(served)] == -100).all()
        assert (example.labels[len(served) :] != -100).all()


def test_the_whole_conversation_is_what_the_processor_makes_of_it():
    made = processor(CHATML)
    example = Prepare(made, FRAME, 512)(sample(*CONVERSATION, pictures=2))
    text = made.apply_chat_template(messages(sample(*CONVERSATION).turns), tokenize=False).rstrip("\n")
    squares = [Image.new("RGB", (SIDE, SIDE))] * 2
    whole = made(text=text, images=squares, add_special_tokens=False, return_tensors="np")["input_ids"][0]
    assert np.array_equal(example.input_ids, whole)


def test_a_first_token_is_written_once():
    for template, adds_bos in ((TEMPLATE, True), (TEMPLATE, False), (NO_END, True)):
        example = Prepare(processor(template, adds_bos=adds_bos), FRAME, 512)(sample("q", "a"))
        assert example.input_ids.tolist().count(1) == 1


def with_tokenizer(tokenizer: Tokenizer, template: str, **special: str):
    made = tiny_processor()
    made.tokenizer = type(made.tokenizer)(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        **special,
    )
    made.chat_template = template
    return made


WORDS = ["USER: ASSISTANT: Two words More words. A red square 红色 红色"] * 9


def merged_processor(template: str):
    """A byte-level tokenizer that has learnt words with the space before them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<image>"]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return with_tokenizer(tokenizer, template)


def llama_processor(template: str):
    """A tokenizer as Llama 2's: a space before every text, letters that it does not know as bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    special = ["<unk>", "<s>", "</s>", "<image>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator([WORDS[0].replace("红色", "")] * 9, trainer)
    tokenizer = Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | {"pre_tokenizer": None}))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return with_tokenizer(tokenizer, template, unk_token="<unk>")


def test_llama_tokens_are_labelled_to_the_letter():
    made = llama_processor(NO_END)
    example = Prepare(made, FRAME, 512)(sample(*CONVERSATION, pictures=2))
    assert learnt(example, made) == "A red square.</s> 还是红色。</s>"  # the first space goes in decoding
    first = np.flatnonzero(example.labels != -100)[0]
    assert made.tokenizer.convert_ids_to_tokens(example.input_ids[first - 1 : first + 1].tolist()) == [
        "▁ASSISTANT:",
        "▁A",
    ]


def test_tokens_of_many_characters_are_labelled_to_the_letter():
    made = merged_processor(NO_END)
    example = Prepare(made, FRAME, 512)(sample("<image>\nq", "A red square 红色", "红", "色", pictures=1))
    assert learnt(example, made) == " A red square 红色</s> 色</s>"


def test_a_prompt_that_ends_inside_a_token_is_refused():
    # Training would see "ASSISTANT", ":", " Two"; serving would send "ASSISTANT", ":", " ".
    with pytest.raises(UsageError, match="ends inside a token"):
        Prepare(merged_processor(TEMPLATE), FRAME, 512)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("", "has no chat template"),
        (TEMPLATE.replace("<image>\n", ""), "0 image tokens for"),
        (TEMPLATE.replace("{{ part.text }}", "{{ part.text | upper }}"), "not in what it renders"),
        ("{{ messages | length }}" + TEMPLATE, "does not continue"),
        (TEMPLATE.replace("prompt %}ASSISTANT: ", "prompt %}BOT: "), "does not continue"),
        ("{{ raise_exception('no') }}", "refuses it: no"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused_at_once(template, reason):
    with pytest.raises(UsageError, match=reason):
        Prepare(processor(template), FRAME, 512)


def test_control_tokens_in_the_text_cost_the_sample():
    prepare = Prepare(processor(), FRAME, 512)
    with pytest.raises(BadPart, match=r"'</s>'.*control token"):
        prepare(sample("q", "an end</s> and more"))


def test_a_conversation_that_the_template_refuses_costs_the_sample():
    only_two = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    prepare = Prepare(processor(only_two + CHATML), FRAME, 512)
    prepare(sample("q", "a"))
    with pytest.raises(BadPart, match="no system"):
        prepare(sample("q", "a", system="Be brief."))


# --- length


def test_only_whole_turns_at_the_end_are_dropped_with_their_pictures():
    made = processor()
    whole = Prepare(made, FRAME, 512)(sample(*CONVERSATION, pictures=2))
    first = Prepare(made, FRAME, 512)(sample(*CONVERSATION[:2], pictures=1))
    assert Prepare(made, FRAME, len(whole.input_ids))(sample(*CONVERSATION, pictures=2)).dropped_turns == 0
    for limit in (len(whole.input_ids) - 1, len(first.input_ids)):
        short = Prepare(made, FRAME, limit)(sample(*CONVERSATION, pictures=2))
        assert short.dropped_turns == 2
        assert np.array_equal(short.input_ids, first.input_ids)
        assert np.array_equal(short.labels, first.labels)
        assert len(short.pixels) == 1
    with pytest.raises(BadPart, match=f"{len(first.input_ids)} tokens > {len(first.input_ids) - 1}"):
        Prepare(made, FRAME, len(first.input_ids) - 1)(sample(*CONVERSATION, pictures=2))


def test_a_long_conversation_is_cut_where_it_would_have_been_rendered_shorter():
    for template, adds_bos in ((TEMPLATE, False), (NO_END, True), (CHATML, False)):
        made = processor(template, adds_bos=adds_bos)
        texts = ("question", "answer") * 20
        cut = Prepare(made, FRAME, 300)(sample(*texts))
        kept = 40 - cut.dropped_turns
        assert 2 <= kept < 40
        assert np.array_equal(cut.input_ids, Prepare(made, FRAME, 300)(sample(*texts[:kept])).input_ids)
        longer = Prepare(made, FRAME, 10_000)(sample(*texts[: kept + 2]))
        assert len(longer.input_ids) > 300  # one pair more would not have fitted


# --- pictures and boxes


def test_pixels_are_the_fitted_pictures():
    example = Prepare(processor(), FRAME, 512)(sample("<image>", "a", pictures=1, size=(8, 4)))
    assert example.pixels.shape == (1, SIDE, SIDE, 3)
    assert example.pixels.dtype == np.uint8
    assert example.pixels[0, 0, 0].tolist() == [122, 116, 104]
    assert example.pixels[0, SIDE // 2, SIDE // 2].tolist() == [255, 0, 0]
    squashed = Prepare(processor(), FrameConfig(fit="squash"), 512)(
        sample("<image>", "a", pictures=1, size=(8, 4))
    )
    assert (squashed.pixels == (255, 0, 0)).all()


def test_boxes_are_converted_in_questions_and_answers():
    made = processor()
    texts = ("<image>\nIs [[0,0,100,50]] it?", "No, [[50,0,100,25]].")
    example = Prepare(made, FRAME, 512)(sample(*texts, pictures=1, size=(100, 50)))
    # pad: 25 of 100 above: y 0 -> 250 of 999, 25 -> 500, 50 -> 749
    assert "[[0,250,999,749]]" in read_back(example, made)
    assert learnt(example, made) == "No, [[500,250,999,500]].</s>"


def test_a_box_is_of_the_last_picture_before_it_else_the_first():
    wide, tall = FRAME.of(100, 50), FRAME.of(50, 100)
    turns = [
        Turn("system", "[[0,0,10,10]]"),
        Turn("user", "<image> [[0,0,20,20]] <image> [[0,0,30,30]]"),
        Turn("assistant", "[[0,0,40,40]]"),
    ]
    texts = [turn.text for turn in in_frame_units(turns, [wide, tall])]
    assert texts == [
        "[[0,250,100,350]]",
        "<image> [[0,250,200,450]] <image> [[250,0,549,300]]",
        "[[250,0,649,400]]",
    ]
    assert in_frame_units(turns, []) == tuple(turns)


def test_a_box_behind_a_citation_is_of_that_evidences_picture():
    wide, tall = FRAME.of(100, 50), FRAME.of(50, 100)
    prompt = evidence_prompt("Where?", ["text", "wide", "tall"], pictures={2, 3})
    answers = ("M6 [2] [[0,0,20,20]]", "M6 [3] [[0,0,20,20]]", "M6 [1] [[0,0,20,20]]", "[[0,0,20,20]]")
    for answer, box in zip(answers, ["0,250,200,450", *["250,0,450,200"] * 3], strict=True):
        _, said = in_frame_units([prompt, Turn("assistant", answer)], [wide, tall])
        assert said.text == answer.replace("0,0,20,20", box)


def test_a_box_is_checked_against_its_own_picture():
    wide, tall = FRAME.of(100, 50), FRAME.of(50, 100)
    turns = [Turn("user", "<image>"), Turn("assistant", "[[0,0,90,40]]"), Turn("user", "<image>")]
    in_frame_units([*turns, Turn("assistant", "[[0,0,40,90]]")], [wide, tall])
    with pytest.raises(BadPart, match=r"turn 4: .* 50 x 100 pixels"):
        in_frame_units([*turns, Turn("assistant", "[[0,0,90,40]]")], [wide, tall])


def test_a_box_outside_its_picture_costs_the_sample():
    with pytest.raises(BadPart, match=r"turn 2: box \[\[0,0,90,20\]\] is outside its picture of 8 x 8"):
        Prepare(processor(), FRAME, 512)(sample("<image>", "[[0,0,90,20]]", pictures=1))


def test_a_broken_picture_costs_the_sample_and_is_named(tmp_path):
    prepare = Prepare(processor(), FRAME, 512)
    turns = (Turn("user", "<image>"), Turn("assistant", "a"))
    (tmp_path / "cut.png").write_bytes(picture()[:-20])
    with pytest.raises(BadImage, match=r"^cut\.png: truncated PNG"):
        prepare(Sample("s", (tmp_path / "cut.png",), turns, 1))
    with pytest.raises(BadImage, match=r"^picture 1: not a picture"):
        prepare(Sample("s", (b"%PDF-1.4",), turns, 1))
    with pytest.raises(BadPart, match="cannot be read"):
        prepare(Sample("s", (tmp_path / "gone.png",), turns, 1))


# --- the model's shape


def test_the_shape_is_read_from_the_processor():
    shape = picture_shape(tiny_processor())
    assert (shape.side, shape.tokens_per_image) == (SIDE, IMAGE_TOKENS)
    assert (shape.image_token_id, shape.pad_id) == (3, 0)
    assert shape.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


def test_the_shape_of_llava_1_5():
    made = tiny_processor()
    made.image_processor.crop_size = {"height": 336, "width": 336}
    made.patch_size = 14
    shape = picture_shape(made)
    assert (shape.side, shape.tokens_per_image) == (336, 576)


def test_a_picture_without_centre_crop_takes_the_size():
    made = tiny_processor()
    made.image_processor.do_center_crop = False
    made.image_processor.size = {"height": 48, "width": 48}
    assert picture_shape(made).side == 48


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda made: setattr(made, "patch_size", None), "no patch_size"),
        (lambda made: setattr(made.image_processor, "do_center_crop", False), "not square"),
        (
            lambda made: setattr(made.image_processor, "crop_size", {"height": 32, "width": 48}),
            "not square",
        ),
    ],
)
def test_a_processor_of_another_kind_is_refused(change, reason):
    made = tiny_processor()
    change(made)
    with pytest.raises(UsageError, match=reason):
        picture_shape(made)


def test_prepare_travels_to_a_worker():
    prepare = Prepare(processor(), FRAME, 512)
    there = pickle.loads(pickle.dumps(prepare))
    assert np.array_equal(there(sample("q", "a")).labels, prepare(sample("q", "a")).labels)


# --- batches


def batch_of(*samples: Sample) -> dict[str, torch.Tensor]:
    prepare = Prepare(processor(), FRAME, 512)
    shape = prepare.shape
    examples = [prepare(one) for one in samples]
    return collate(
        examples, shape.pad_id, shape.image_token_id, shape.tokens_per_image, shape.mean, shape.std
    )


def test_a_batch_is_padded_on_the_right_without_loss():
    batch = batch_of(sample("<image>", "a", pictures=1), sample("a longer question, without a picture", "b"))
    mask = batch["attention_mask"].bool()
    assert batch["input_ids"].shape == batch["labels"].shape == mask.shape
    assert (batch["labels"][~mask] == -100).all()
    assert (batch["input_ids"][~mask] == 0).all()
    assert not (mask[:, 1:] & ~mask[:, :-1]).any()
    assert {str(batch[name].dtype) for name in ("input_ids", "labels")} == {"torch.int64"}


def test_pixels_are_normalised_as_the_processor_does():
    rng = np.random.default_rng(0)
    square = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(square).save(file, "PNG")
    one = Sample("s", (file.getvalue(),), (Turn("user", "<image>"), Turn("assistant", "a")), 1)
    expected = tiny_processor().image_processor(Image.fromarray(square), return_tensors="pt")["pixel_values"]
    found = batch_of(one)["pixel_values"]
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)


def test_normalisation_follows_the_processors_own_steps():
    made = tiny_processor()
    made.image_processor.do_normalize = False
    made.image_processor.rescale_factor = 1 / 127.5
    shape = picture_shape(made)
    example = Prepare(made, FRAME, 512)(sample("<image>", "a", pictures=1))
    batch = collate([example], 0, 3, IMAGE_TOKENS, shape.mean, shape.std)
    assert batch["pixel_values"][0, 0].unique().tolist() == pytest.approx([2.0])


def test_a_batch_without_pictures_has_no_pixels():
    assert "pixel_values" not in batch_of(sample("q", "a"), sample("r", "b"))


def test_a_truncated_picture_does_not_pass():
    example = Prepare(processor(), FRAME, 512)(sample("<image>", "a", pictures=1))
    cut = Example(example.input_ids[8:], example.labels[8:], example.pixels, "cut")
    with pytest.raises(AssertionError, match=r"cut: .* image tokens for 16"):
        collate([example, cut], 0, 3, IMAGE_TOKENS)


def test_the_model_takes_the_batch():
    batch = batch_of(sample(*CONVERSATION, pictures=2), sample("q", "a"), sample("<image>", "b", pictures=1))
    model = tiny_llava()
    loss = model(**batch).loss
    assert torch.isfinite(loss)
    loss.backward()


def test_the_same_file_gives_the_same_example(tmp_path):
    file = tmp_path / "red.png"
    file.write_bytes(picture())
    one = Sample("s", (file,), (Turn("user", "<image>"), Turn("assistant", "a")), 1)
    prepare = Prepare(processor(), FRAME, 512)
    assert np.array_equal(prepare(one).pixels, prepare(one).pixels)
