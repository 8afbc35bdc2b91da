"""A real vision-language model in this process: every question type, real pixels, real tokens, real limits."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.answers import grammar, talk
from tasks.answers.local import LocalAnswerer
from tasks.answers.question import Question, Reply
from tasks.errors import AnswererError
from tasks.settings import VlmSettings
from tests.answers.conftest import PROMPTS
from tests.every_question import ANSWERS, every_question, picture, question

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("xgrammar")

from tasks.answers.transformers_engine import TransformersEngine  # noqa: E402

TOKENS_PER_PICTURE = 4
WAIT_S = 60.0

Load = Callable[..., "Seen"]


class Seen(LocalAnswerer):
    """The answerer under test, with what its model was given."""

    def __init__(self, folder: Path, **settings: object) -> None:
        vlm = VlmSettings(backend="transformers", model_id=str(folder), **{"temperature": 0.0, **settings})
        self.notes: list[tuple[Question, Reply]] = []
        self.engine = TransformersEngine(vlm)
        super().__init__(self.engine, vlm, lambda q, r: self.notes.append((q, r)))
        self.passes: list[torch.Tensor] = []  # token ids of each first pass over a batch of prompts
        self.pixels: list[torch.Tensor] = []  # what the vision tower was shown: (pictures, channels, height, width)
        self.began = threading.Event()

    def look(self) -> Seen:
        """Load, and watch what reaches the model."""
        self.preflight()
        model = self.engine._model
        model.register_forward_pre_hook(self._keep, with_kwargs=True)
        model.model.vision_model.register_forward_pre_hook(self._keep_pixels, with_kwargs=True)
        return self

    def _keep(self, _module: object, _args: tuple, kwargs: dict) -> None:
        self.began.set()
        if kwargs["input_ids"].shape[1] > 1:
            self.passes.append(kwargs["input_ids"])

    def _keep_pixels(self, _module: object, _args: tuple, kwargs: dict) -> None:
        self.pixels.append(kwargs["pixel_values"])

    def texts(self, number: int) -> list[str]:
        """The prompts of a pass, as the model reads them."""
        return [self.engine._processor.tokenizer.decode(row) for row in self.passes[number]]


@pytest.fixture(autouse=True)
def shipped_prompts(prompt_files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real prompts, not the small ones of this folder's other tests."""
    for name in PROMPTS:
        monkeypatch.delenv(f"CUEBOOK_PROMPT_{name.upper()}")


@pytest.fixture(scope="module")
def shared(tiny_vlm: Path) -> Iterator[Seen]:
    """One loaded model for the tests that change nothing about it."""
    seen = Seen(tiny_vlm).look()
    yield seen
    seen.close()


@pytest.fixture
def load(tiny_vlm: Path) -> Iterator[Load]:
    """Loads models with other settings, freed after the test."""
    made: list[Seen] = []

    def make(**settings: object) -> Seen:
        made.append(Seen(tiny_vlm, **settings))
        return made[-1].look()

    yield make
    for seen in made:
        seen.close()


def test_every_question_type_is_answered(shared: Seen) -> None:
    asked = every_question()
    shared.notes.clear()
    replies = shared.answer(asked)
    assert {q.name for q in asked} == set(ANSWERS)
    for q, reply in zip(asked, replies, strict=True):
        assert type(reply.answer) is q.answer, (q.name, reply)
        assert reply.usage.tokens_in > 100 and reply.usage.tokens_out > 3 and reply.usage.latency_s > 0
        assert reply.server == "cpu"
    assert {id(r) for _, r in shared.notes} == {id(r) for r in replies}


def test_the_same_questions_get_the_same_answers(shared: Seen) -> None:
    first, second = shared.answer(every_question()), shared.answer(every_question())
    assert [r.answer for r in first] == [r.answer for r in second]
    assert [r.usage.tokens_out for r in first] == [r.usage.tokens_out for r in second]


def test_pictures_reach_the_model(shared: Seen) -> None:
    shared.passes.clear()
    shared.pixels.clear()
    shared.answer([question("vqa_count", picture("red")), question("vqa_count", picture("blue"))])
    red, blue = shared.pixels[0]
    assert red.shape == (3, 64, 64)
    assert red[0].mean() > 0.9 and red[2].mean() < -0.9 and blue[0].mean() < -0.9 and blue[2].mean() > 0.9
    places = shared.passes[0] == shared.engine._model.config.image_token_id
    assert places.sum(dim=1).tolist() == [TOKENS_PER_PICTURE] * 2


def test_pictures_change_what_the_model_thinks(shared: Seen) -> None:
    thoughts: dict[str, torch.Tensor] = {}
    for colour in ("red", "blue", "red again"):

        def first(_m: object, _i: object, out: torch.Tensor, colour: str = colour) -> None:
            thoughts.setdefault(colour, out[0, -1].clone())

        watch = shared.engine._model.lm_head.register_forward_hook(first)
        try:
            shared.answer([question("vqa_count", picture(colour.split()[0]))])
        finally:
            watch.remove()
    assert torch.equal(thoughts["red"], thoughts["red again"])
    assert not torch.allclose(thoughts["red"], thoughts["blue"])


def test_captions_stand_before_their_pictures_and_the_prompt_last(shared: Seen) -> None:
    shared.passes.clear()
    (reply,) = shared.answer([question("plan_video_task", picture("red", "previous"), picture("blue", "this one"))])
    (text,) = shared.texts(0)
    assert text.count("<image>") == 2 * TOKENS_PER_PICTURE
    before, between, after = text.find("previous"), text.find("this one"), text.find("move the cup")
    images = [i for i in range(len(text)) if text.startswith("<image>", i)]
    assert before < images[0] < images[TOKENS_PER_PICTURE - 1] < between < images[TOKENS_PER_PICTURE]
    assert images[-1] < (after if after >= 0 else text.rfind("{"))
    assert reply.usage.tokens_in == shared.passes[0].shape[1]


def test_one_batch_holds_different_answers(load: Load) -> None:
    seen = load(batch_size=5)
    kinds = [q for q in every_question() if q.name.startswith("vqa")]
    replies = seen.answer(kinds)
    assert [type(r.answer) for r in replies] == [q.answer for q in kinds]
    assert [p.shape[0] for p in seen.passes] == [5]


def test_thinking_is_off_unless_wanted(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "THOUGHT_TOKENS", 0)  # random weights would use them all
    off, on = load(), load(thinking=True)
    wins = load(thinking=True, chat_template_kwargs={"enable_thinking": False})
    for seen in (off, on, wins):
        seen.answer([question("vqa_count", picture("red"), max_tokens=16)])
    assert [s.texts(0)[0].endswith("Assistant: Let me think.") for s in (off, on, wins)] == [False, True, False]


def test_without_constraint_a_miss_is_shown_to_the_model_once(load: Load) -> None:
    seen = load(structured="off", max_new_tokens=16)
    (reply,) = seen.answer([question("vqa_count", picture("red"))])
    assert reply.answer is None and reply.reason and reply.preview
    texts = [seen.texts(i)[0] for i in range(len(seen.passes))]
    assert len(texts) == reply.usage.requests >= 2
    assert ["cannot be used" in t for t in texts] == [False] * (len(texts) - 1) + [True]
    assert texts[-1].count("<end_of_utterance>") == 3


def test_each_row_keeps_to_its_own_limit(load: Load) -> None:
    seen = load(structured="off", batch_size=2)
    prompts = [q for q in every_question() if q.name in ("vqa_count", "vqa_bbox")]
    short, long = (Question(q.name, q.answer, q.inputs, q.pictures, "vqa") for q in prompts)
    done = seen.engine.generate([_prompt(seen, short, 20), _prompt(seen, long, 40)], threading.Event())
    assert [c.tokens_out <= limit for c, limit in zip(done, (20, 40), strict=True)] == [True, True]
    assert all(c.cut == (c.tokens_out == limit) for c, limit in zip(done, (20, 40), strict=True))


def test_a_limit_inside_a_constrained_batch_ends_that_row_only(load: Load) -> None:
    seen = load()
    both = [q for q in every_question() if q.name in ("vqa_count", "vqa_bbox")]
    cut, whole = seen.engine.generate([_prompt(seen, both[0], 3), _prompt(seen, both[1], 512)], threading.Event())
    assert cut.cut and cut.tokens_out == 3
    assert not whole.cut and both[1].answer.model_validate(json.loads(whole.text))


def test_a_cut_reply_is_made_whole(load: Load) -> None:
    seen = load()
    (needed,) = seen.answer([question("vqa_attribute", picture("red"))])
    limit = needed.usage.tokens_out * 3 // 4
    (reply,) = seen.answer([question("vqa_attribute", picture("red"), max_tokens=limit)])
    assert reply.answer == needed.answer
    assert (reply.usage.requests, reply.usage.tokens_out) == (2, limit + needed.usage.tokens_out)


def test_a_context_that_overflows_shows_less(load: Load) -> None:
    seen = load(max_model_len=1400, max_new_tokens=512)
    many = question("plan_video_task", *(picture("red", f"a long caption of picture {i}") for i in range(60)))
    few = question("plan_video_task", picture("red"))
    replies = seen.answer([many, few])
    assert all(r.answer is not None for r in replies)
    assert all(p.shape[1] + 512 <= 1400 for p in seen.passes)
    assert replies[0].usage.requests > 1


def test_a_prompt_that_never_fits_is_skipped(load: Load) -> None:
    (reply,) = load(max_model_len=512).answer([question("plan_memory")])
    assert reply.answer is None and "exceed the context length of 512" in reply.reason


def test_out_of_memory_makes_batches_smaller(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = load(batch_size=4)
    whole = seen.engine._model.generate

    def tight(**inputs: object) -> object:
        if inputs["input_ids"].shape[0] > 2:
            raise torch.OutOfMemoryError("tried to allocate 20 GiB")
        return whole(**inputs)

    monkeypatch.setattr(seen.engine._model, "generate", tight)
    replies = seen.answer([question("vqa_count", picture("red")) for _ in range(4)])
    assert all(r.answer is not None for r in replies) and seen.slots()[0].limit == 2


def test_closing_ends_a_reply_half_way(load: Load) -> None:
    seen = load(structured="off", max_new_tokens=15000)
    seen.engine._stops = frozenset()
    seen.engine._model.generation_config.eos_token_id = None  # nothing but the limit or the close ends it
    asking = ThreadPoolExecutor(1).submit(seen.answer, [question("plan_memory")])
    assert seen.began.wait(WAIT_S)
    seen.close()
    with pytest.raises(AnswererError, match="the run was stopped"):
        asking.result(WAIT_S)
    assert not seen._worker.is_alive() and seen.engine._model is None


def test_sampling_differs_from_the_most_likely(load: Load) -> None:
    seen = load(temperature=2.0)
    words = {seen.answer([question("vqa_count", picture("red"))])[0].answer.model_dump_json() for _ in range(3)}
    assert len(words) > 1


# ---------------------------------------------------------------- grammars


def test_decoders_get_bounds_for_everything() -> None:
    for answer in ANSWERS.values():
        schema = grammar.decoder_schema(answer, vocabulary=1000)
        for node in _nodes(schema):
            kind = node.get("type")
            if kind in ("number", "integer"):
                assert "minimum" in node and "maximum" in node
            if kind == "string":
                assert "maxLength" in node or "enum" in node or "const" in node, (answer, node)
            if kind == "array":
                assert "maxItems" in node
            if kind == "object":
                assert node["required"] == list(node["properties"]) and node["additionalProperties"] is False


def test_lengths_are_left_to_the_check_of_the_reply_where_counting_them_takes_seconds() -> None:
    for answer in ANSWERS.values():
        assert "maxLength" not in str(grammar.decoder_schema(answer, vocabulary=150_000))


def test_grammars_are_compiled_once(shared: Seen) -> None:
    shared.answer([question("vqa_count", picture("red"))])
    compiled = dict(shared.engine._grammars._compiled)
    shared.answer([question("vqa_count", picture("blue"))])
    assert shared.engine._grammars._compiled == compiled
    assert len({id(g) for g in compiled.values()}) == len(compiled)


def test_without_xgrammar_answers_are_only_checked(tiny_vlm: Path, monkeypatch, caplog) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xgrammar", None)
    seen = Seen(tiny_vlm, max_new_tokens=16)
    with caplog.at_level(logging.WARNING):
        seen.look()
    (reply,) = seen.answer([question("vqa_count", picture("red"))])
    seen.close()
    assert reply.answer is None and "pip install xgrammar" in caplog.text


# ---------------------------------------------------------------- what cannot be loaded


def refused(folder: Path | str, **settings: object) -> str:
    """Why a model is not loaded."""
    seen = Seen(Path(folder) if isinstance(folder, Path) else folder, **settings)  # type: ignore[arg-type]
    with pytest.raises(AnswererError) as caught:
        seen.preflight()
    seen.close()
    return str(caught.value)


def test_a_model_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused("nobody/no-such-model")
    assert "nobody/no-such-model" in said and "hf download nobody/no-such-model" in said


def test_a_gpu_that_is_not_there(tiny_vlm: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert "--vlm.device=cpu" in refused(tiny_vlm, device="cuda:0")


def test_a_model_without_chat_template(tiny_vlm: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(tiny_vlm, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    assert "chat template" in refused(bare)


def test_a_model_that_sees_nothing(tiny_vlm: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, LlamaConfig

    AutoTokenizer.from_pretrained(tiny_vlm).save_pretrained(tmp_path)
    LlamaConfig(hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path)
    assert "vision-language model" in refused(tmp_path)


def test_libraries_that_are_not_installed(tiny_vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert "pip install 'cuebook[transformers]'" in refused(tiny_vlm)


def test_too_little_memory_to_load(tiny_vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForImageTextToText

    def no_room(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", no_room)
    assert "device_map=auto" in refused(tiny_vlm)


# ---------------------------------------------------------------- other devices


def test_device_map_auto(load: Load) -> None:
    seen = load(device_map="auto")
    assert seen.answer([question("vqa_count", picture("red"))])[0].answer is not None


@pytest.mark.gpu
def test_on_a_gpu(tiny_vlm: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    seen = Seen(tiny_vlm).look()
    replies = seen.answer(every_question())
    assert all(r.answer is not None and r.server.startswith("cuda") for r in replies)
    assert seen.engine._model.dtype == torch.bfloat16
    seen.close()


def _prompt(seen: Seen, asked: Question, tokens_max: int):
    from tasks.answers.engine import Prompt
    from tasks.answers.messages import prompt_text

    return Prompt(prompt_text(asked), asked.pictures, asked.answer, tokens_max)


def _nodes(node: object) -> Iterator[dict]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)
