"""Rules of answering by a model in this process, with a scripted model: batches, retries, limits, failures, the end."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.answers.client import Completion
from tasks.answers.engine import NO_CUDNN_VARIABLE, Prompt, TooBig, disable_cudnn_if_asked, template_kwargs
from tasks.answers.failures import FIRST_FAILURES_MAX
from tasks.answers.local import ENGINE_FAILURES_MAX, LocalAnswerer, local_answerer
from tasks.answers.question import Clip, Question, Reply
from tasks.answers.request import THOUGHT_TOKENS
from tasks.errors import AnswererError
from tasks.settings import VlmSettings
from tests.answers.conftest import count, memory, picture
from tests.answers.scripted_engine import WAIT_S, ScriptedEngine

GOOD = {"Memory": {"memory": "the cup is up"}, "CountQA": {}, "Count": {"label": "cup", "count": 2}}

Open = Callable[..., LocalAnswerer]


def good(prompt: Prompt) -> str:
    """A reply that fits."""
    return json.dumps(GOOD[prompt.answer.__name__])


@pytest.fixture
def opened() -> Iterator[Open]:
    """Makes answerers around engines, closed after the test; `notes` holds what was noted."""
    made: list[LocalAnswerer] = []

    def make(engine: ScriptedEngine, notes: list | None = None, **settings: object) -> LocalAnswerer:
        vlm = VlmSettings(backend="transformers", model_id="scripted", **settings)
        note = (lambda q, r: notes.append((q, r))) if notes is not None else (lambda q, r: None)
        made.append(LocalAnswerer(engine, vlm, note))
        return made[-1]

    yield make
    for answerer in made:
        answerer.close()


class Asking:
    """Callers in threads of their own."""

    def __init__(self, answerer: LocalAnswerer) -> None:
        self._answerer = answerer
        self._pool = ThreadPoolExecutor(8)

    def ask(self, *questions: Question):
        """A future of the replies."""
        return self._pool.submit(self._answerer.answer, list(questions))

    def ask_behind(self, engine: ScriptedEngine, *questions: Question):
        """Ask one question and wait until the model works on it, held; then others pile up."""
        engine.go.clear()
        first = self.ask(*questions)
        assert engine.busy.wait(WAIT_S)
        return first


def wait_for_queue(answerer: LocalAnswerer, length: int) -> None:
    """Until so many questions wait."""
    with answerer._cond:
        assert answerer._cond.wait_for(lambda: len(answerer._queue) >= length, WAIT_S)


def test_every_question_is_answered_in_order_by_one_thread(opened: Open) -> None:
    engine, notes = ScriptedEngine(lambda p: json.dumps({"memory": p.text})), []
    replies = opened(engine, notes).answer([memory(i) for i in range(10)])
    assert [r.answer.memory[:2].strip() for r in replies] == [str(i) for i in range(10)]
    assert len(engine.threads) == 1 and engine.threads != {threading.get_ident()}
    assert max(map(len, engine.batches)) <= engine.batch_max
    assert [(r.usage.requests, r.usage.tokens_in, r.usage.tokens_out, r.server) for r in replies] == [
        (1, 10, 5, "desk")
    ] * 10
    assert sorted(q.inputs["note"] for q, _ in notes) == list(range(10))
    assert {id(r) for _, r in notes} == {id(r) for r in replies}


def test_questions_of_many_callers_share_batches(opened: Open) -> None:
    engine = ScriptedEngine(good)
    answerer = opened(engine)
    asking = Asking(answerer)
    first = asking.ask_behind(engine, memory("first"))
    others = [asking.ask(memory(i)) for i in range(4)]
    wait_for_queue(answerer, 4)
    engine.go.set()
    assert all(f.result(WAIT_S)[0].answer is not None for f in [first, *others])
    assert [len(b) for b in engine.batches] == [1, 4]


@pytest.mark.parametrize("pads", [True, False])
def test_the_critical_path_goes_first(opened: Open, pads: bool) -> None:
    engine = ScriptedEngine(good, pads=pads)
    answerer = opened(engine)
    asking = Asking(answerer)
    waiting = [asking.ask_behind(engine, memory("first"))]
    waiting.append(asking.ask(count(1), count(2)))
    wait_for_queue(answerer, 2)
    waiting.append(asking.ask(memory("plan"), memory("speak", phase="interjections")))
    wait_for_queue(answerer, 4)
    engine.go.set()
    for future in waiting:
        future.result(WAIT_S)
    texts = [[p.text.split()[0] for p in b] for b in engine.batches]
    apart, together = [["first"], ["plan"], ["speak"], ["1", "2"]], [["first"], ["plan", "speak", "1", "2"]]
    assert texts == (apart if pads else together)  # unlike prompts only pad each other where padding costs


def test_a_reply_that_does_not_fit_is_corrected_once(opened: Open) -> None:
    engine, notes = ScriptedEngine(lambda p: good(p) if p.correction else '{"memory": 7}'), []
    (reply,) = opened(engine, notes).answer([memory()])
    assert reply.answer.memory == "the cup is up" and reply.usage.requests == 2 and reply.usage.tokens_out == 10
    shown, asked = engine.asked[1].correction
    assert shown == {"role": "assistant", "content": '{"memory": 7}'}
    assert "memory" in asked["content"] and "string" in asked["content"]
    assert [r for _, r in notes] == [reply]


def test_a_second_miss_is_skipped_with_its_words(opened: Open) -> None:
    engine, notes = ScriptedEngine(lambda p: "I would   rather\nnot. " * 50), []
    (reply,) = opened(engine, notes).answer([memory()])
    assert reply.answer is None and "no JSON object" in reply.reason
    assert reply.preview.startswith("I would rather not.") and len(reply.preview) == 200
    assert len(engine.asked) == 2 and [r for _, r in notes] == [reply]


def test_a_cut_reply_is_asked_again_with_twice_the_tokens(opened: Open) -> None:
    engine = ScriptedEngine(lambda p: good(p) if p.tokens_max == 200 else Completion('{"mem', True, 10, p.tokens_max))
    (reply,) = opened(engine).answer([memory(max_tokens=100)])
    assert reply.answer is not None and reply.usage.tokens_out == 105
    assert [(p.tokens_max, len(p.correction)) for p in engine.asked] == [(100, 0), (200, 0)]


def test_a_reply_that_stays_cut_is_corrected_then_skipped(opened: Open) -> None:
    engine = ScriptedEngine(lambda p: Completion('{"memory": "a', True, 10, p.tokens_max))
    (reply,) = opened(engine, max_new_tokens=64).answer([memory()])
    assert [(p.tokens_max, len(p.correction)) for p in engine.asked] == [(64, 0), (128, 0), (128, 2)]
    assert reply.reason.endswith("(cut off)") and reply.preview == '{"memory": "a'


def test_a_doubled_limit_that_does_not_fit_goes_back_to_the_cut_reply(opened: Open) -> None:
    def script(p: Prompt) -> object:
        if p.tokens_max > 64:
            return TooBig("too long")
        return good(p) if p.correction else Completion('{"memory": "a', True, 10, 64)

    engine = ScriptedEngine(script)
    (reply,) = opened(engine, max_new_tokens=64).answer([memory("x", picture(1), picture(2), picture(3))])
    assert reply.answer is not None and reply.usage.requests == 3
    assert [p.tokens_max for p in engine.asked] == [64, 128, 64]
    assert len(engine.asked[-1].pictures) == 3 and "briefly" in engine.asked[-1].correction[1]["content"]


def test_only_the_prompt_that_overflows_gets_fewer_pictures(opened: Open) -> None:
    engine = ScriptedEngine(lambda p: TooBig("context") if len(p.pictures) > 3 else good(p))
    many = memory("many", *(picture(i) for i in range(6)))
    few = [memory(f"few{i}", picture(9)) for i in range(3)]
    replies = opened(engine).answer([few[0], many, *few[1:]])
    assert all(r.answer is not None for r in replies)
    last = {p.text.split()[0]: p.pictures for p in engine.asked}
    assert 1 <= len(last["many"]) <= 3 and all(len(last[f"few{i}"]) == 1 for i in range(3))


def test_what_can_not_be_made_smaller_is_skipped(opened: Open) -> None:
    (reply,) = opened(ScriptedEngine(lambda p: TooBig("9000 tokens exceed 8192"))).answer([memory()])
    assert reply.answer is None and reply.reason == "9000 tokens exceed 8192"


def test_out_of_memory_halves_the_batch_for_good(opened: Open) -> None:
    class Small(ScriptedEngine):
        def generate(self, prompts, stop):
            if len(prompts) > 2:
                raise TooBig("out of memory", memory=True)
            return super().generate(prompts, stop)

    engine = Small(good, batch_max=8)
    answerer = opened(engine)
    assert all(r.answer is not None for r in answerer.answer([memory(i) for i in range(8)]))
    assert answerer.slots()[0].limit == 2
    engine.batches.clear()
    answerer.answer([memory(i) for i in range(8)])
    assert [len(b) for b in engine.batches] == [2, 2, 2, 2]


def test_one_prompt_that_breaks_the_model_does_not_take_the_others_along(opened: Open) -> None:
    engine = ScriptedEngine(lambda p: ValueError("bad pixels") if "poison" in p.text else good(p))
    replies = opened(engine).answer([memory(1), memory("poison"), memory(2)])
    assert [r.answer is not None for r in replies] == [True, False, True]
    assert "bad pixels" in replies[1].reason and replies[1].usage.requests == 2


def test_a_model_that_cannot_batch_is_asked_one_by_one(opened: Open) -> None:
    class Single(ScriptedEngine):
        def generate(self, prompts, stop):
            if len(prompts) > 1:
                raise ValueError("cannot stack")
            return super().generate(prompts, stop)

    answerer = opened(Single(good))
    for _ in range(2):
        assert all(r.answer is not None for r in answerer.answer([memory(i) for i in range(4)]))
    assert answerer.slots()[0].limit == 1


def test_a_broken_model_is_told_to_every_caller(opened: Open) -> None:
    engine = ScriptedEngine(lambda p: RuntimeError("device-side assert"), batch_max=1)
    answerer = opened(engine)
    asking = Asking(answerer)
    waiting = [asking.ask_behind(engine, *(memory(i) for i in range(ENGINE_FAILURES_MAX + 1)))]
    waiting += [asking.ask(memory(i), count(i)) for i in range(3)]
    wait_for_queue(answerer, ENGINE_FAILURES_MAX + 6)
    engine.go.set()
    for future in waiting:
        with pytest.raises(AnswererError, match="device-side assert"):
            future.result(WAIT_S)
    assert len(engine.batches) == ENGINE_FAILURES_MAX
    assert answerer.slots()[0].state == "down"
    with pytest.raises(AnswererError, match="device-side assert"):
        answerer.answer([memory()])


def test_a_model_that_never_answers_ends_the_run(opened: Open) -> None:
    answerer = opened(ScriptedEngine(lambda p: "no"))
    with pytest.raises(AnswererError, match=f"{FIRST_FAILURES_MAX} questions and no answer"):
        answerer.answer([memory(i) for i in range(FIRST_FAILURES_MAX + 8)])


def test_a_model_that_does_not_load_is_told_before_any_question(opened: Open) -> None:
    engine = ScriptedEngine(good)
    engine.fails_to_load = AnswererError("model scripted", "no such folder", "pass another")
    answerer = opened(engine)
    for _ in range(2):
        with pytest.raises(AnswererError, match="no such folder"):
            answerer.preflight()
    with pytest.raises(AnswererError, match="no such folder"):
        answerer.answer([memory()])
    assert engine.loads == 1 and not engine.batches
    answerer.close()
    assert engine.closes == 1


def test_a_bug_reaches_the_caller(opened: Open) -> None:
    engine = ScriptedEngine(good)
    engine.fails_to_load = KeyError("weights")
    with pytest.raises(AnswererError, match="weights"):
        opened(engine).preflight()


def test_slots_tell_how_it_goes(opened: Open) -> None:
    engine = ScriptedEngine(good)
    answerer = opened(engine)
    assert [(s.state, s.busy, s.limit) for s in answerer.slots()] == [("starting", 0, 4)]
    answerer.preflight()
    assert answerer.slots()[0].state == "up" and engine.loads == 1
    waiting = Asking(answerer).ask_behind(engine, memory(1), memory(2))
    assert (answerer.slots()[0].name, answerer.slots()[0].busy) == ("desk", 2)
    engine.go.set()
    waiting.result(WAIT_S)
    answerer.close()
    assert (answerer.slots()[0].state, answerer.slots()[0].busy) == ("down", 0)


def test_close_tells_who_waits_and_frees_the_model(opened: Open) -> None:
    engine, notes = ScriptedEngine(good), []
    answerer = opened(engine, notes)
    asking = Asking(answerer)
    waiting = [asking.ask_behind(engine, memory(1)), asking.ask(*(memory(i) for i in range(9)))]
    wait_for_queue(answerer, 9)
    answerer.close()  # the engine is held: only its stop event lets it end
    for future in waiting:
        with pytest.raises(AnswererError, match="the run was stopped"):
            future.result(WAIT_S)
    assert engine.closes == 1 and len(engine.threads) == 1
    assert len(engine.batches) == 1 and notes == []
    answerer.close()
    with pytest.raises(AnswererError, match="the run was stopped"):
        answerer.answer([memory()])
    assert engine.closes == 1


def test_what_an_unfinished_question_cost_is_noted(opened: Open) -> None:
    notes: list[tuple[Question, Reply]] = []

    def script(prompt: Prompt) -> str:
        if prompt.correction:
            engine.go.clear()
        return "no"

    engine = ScriptedEngine(script)
    answerer = opened(engine, notes)
    inner = engine.generate

    def held_at_the_second(prompts, stop):
        if engine.batches:
            engine.go.clear()
            second.set()
        return inner(prompts, stop)

    second = threading.Event()
    engine.generate = held_at_the_second
    waiting = Asking(answerer).ask(memory())
    assert second.wait(WAIT_S)
    answerer.close()
    with pytest.raises(AnswererError):
        waiting.result(WAIT_S)
    ((_, reply),) = notes
    assert reply.answer is None and reply.reason.startswith("not finished") and reply.usage.tokens_in == 10


def test_a_prompt_file_that_cannot_be_filled_harms_nobody_else(opened: Open, tmp_path: Path, monkeypatch) -> None:
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("{nothing}")
    answerer = opened(ScriptedEngine(good))
    with monkeypatch.context() as patch:
        patch.setenv("CUEBOOK_PROMPT_VQA_COUNT", str(wrong))
        with pytest.raises(AnswererError, match="prompt file vqa_count"):
            answerer.answer([count()])
    assert answerer.answer([memory()])[0].answer is not None


def test_a_clip_is_shown_as_pictures_with_their_times(opened: Open, generated_dataset: Path) -> None:
    path = sorted((generated_dataset / "videos").rglob("*.mp4"))[0]
    clip = Clip(path, "digest", 4.0, 80, 60, fps=0.5, caption="front")
    engine = ScriptedEngine(good)
    opened(engine).answer([memory("watch", picture(1), clips=(clip,))])
    shown = engine.asked[0].pictures
    assert [p.caption for p in shown][:4] == ["", "front at 0.00 s", "front at 2.00 s", "front at 4.00 s"]
    assert all((p.width, p.height) == (80, 60) and p.jpeg.startswith(b"\xff\xd8") for p in shown[1:])
    assert shown[1].jpeg != shown[2].jpeg


def test_a_model_that_thinks_gets_room_for_it(opened: Open) -> None:
    for settings, extra in [({}, 0), ({"thinking": True}, THOUGHT_TOKENS), ({"chat_template_kwargs": {}}, 0)]:
        engine = ScriptedEngine(lambda p: f"<think>I see {{}}.</think> {good(p)}")
        (reply,) = opened(engine, max_new_tokens=64, **settings).answer([memory()])
        assert reply.answer is not None and engine.asked[0].tokens_max == 64 + extra


def test_what_chat_templates_are_told() -> None:
    def told(template: str | None = None, **settings: object) -> object:
        return template_kwargs(VlmSettings(**settings), template)

    assert told() == {"enable_thinking": False} == told("{% if enable_thinking %}")
    assert told("knows nothing of it") == {} == told(chat_template_kwargs={})
    assert told(thinking=True, chat_template_kwargs={"a": 1}) == {"enable_thinking": True, "a": 1}
    assert told(thinking=True, chat_template_kwargs={"enable_thinking": False}) == {"enable_thinking": False}


def test_cudnn_is_turned_off_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.backends.cudnn, "enabled", True)
    disable_cudnn_if_asked()
    assert torch.backends.cudnn.enabled
    monkeypatch.setenv(NO_CUDNN_VARIABLE, "1")
    disable_cudnn_if_asked()
    assert not torch.backends.cudnn.enabled


def test_the_backend_chooses_the_engine() -> None:
    pads = {b: local_answerer(VlmSettings(backend=b))._engine.pads for b in ("transformers", "vllm")}
    assert pads == {"transformers": True, "vllm": False}
