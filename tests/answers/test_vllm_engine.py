"""vLLM in this process: what each generation of its interface is given, how it ends, and the real one where it is."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.answers.local import local_answerer
from tasks.answers.messages import user_message
from tasks.answers.vllm_engine import POSITIONS_MAX
from tasks.errors import AnswererError
from tasks.settings import VlmSettings
from tests.answers import fitting
from tests.answers.conftest import PROMPTS
from tests.every_question import every_question, picture, question

MODEL_POSITIONS = 8192


@pytest.fixture(autouse=True)
def shipped_prompts(prompt_files: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real prompts, not the small ones of this folder's other tests."""
    for name in PROMPTS:
        monkeypatch.delenv(f"CUEBOOK_PROMPT_{name.upper()}")


# Stands in for the library, since it needs a GPU: the same names and signatures, unknown arguments refused.


@dataclass
class Held:
    """StructuredOutputsParams, formerly GuidedDecodingParams."""

    json: dict | str | None = None


@dataclass
class _Sampling:
    max_tokens: int = 16
    temperature: float = 1.0


@dataclass
class NewSampling(_Sampling):
    structured_outputs: Held | None = None


@dataclass
class OldSampling(_Sampling):
    guided_decoding: Held | None = None


@dataclass
class OldEngineArgs:
    model: str = ""
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    trust_remote_code: bool = False
    dtype: str = "auto"
    max_model_len: int | None = None
    limit_mm_per_prompt: dict = field(default_factory=dict)


@dataclass
class NewEngineArgs(OldEngineArgs):
    structured_outputs_config: dict | None = None


@dataclass
class _Written:
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str = "stop"


@dataclass
class _Output:
    prompt_token_ids: list[int]
    outputs: list[_Written]


class StandIn(types.ModuleType):
    """The module `vllm` of one generation."""

    def __init__(self, new: bool, structured: bool = True) -> None:
        super().__init__("vllm")
        self.EngineArgs = NewEngineArgs if new else OldEngineArgs
        self.SamplingParams = NewSampling if new else OldSampling
        self.sampling_params = types.ModuleType("vllm.sampling_params")
        if structured:
            setattr(self.sampling_params, "StructuredOutputsParams" if new else "GuidedDecodingParams", Held)
        self.chats: list[tuple[list, list, dict]] = []
        self.options: list[OldEngineArgs] = []
        self.fails: Exception | None = None
        self.refuses: Exception | None = None
        self.leftovers: list[_Output] = []
        self.shut_down = 0
        module = self

        class LLM:
            def __init__(self, **options: object) -> None:
                if module.fails is not None:
                    raise module.fails
                module.options.append(module.EngineArgs(**options))
                core = types.SimpleNamespace(shutdown=self._shutdown)
                self.llm_engine = types.SimpleNamespace(engine_core=core)

            def _shutdown(self) -> None:
                module.shut_down += 1

            def get_tokenizer(self) -> list[str]:
                return [""] * 150_000

            def chat(
                self,
                messages: list[list[dict]],
                sampling_params: list[_Sampling] | None = None,
                use_tqdm: bool = True,
                chat_template_kwargs: dict | None = None,
            ) -> list[_Output]:
                assert not use_tqdm and len(messages) == len(sampling_params)
                module.chats.append((messages, sampling_params, chat_template_kwargs))
                if module.refuses is not None and any(len(m[0]["content"]) > 4 for m in messages):
                    raise module.refuses
                return module.leftovers + [module.said(m, p) for m, p in zip(messages, sampling_params, strict=True)]

        self.LLM = LLM

    def said(self, messages: list[dict], params: _Sampling) -> _Output:
        """What fits the schema, and nothing that does when there is none."""
        held = getattr(params, "structured_outputs", None) or getattr(params, "guided_decoding", None)
        text = "no schema"
        if held is not None:
            assert type(params.max_tokens) is int and held.json["type"] == "object"
            text = json.dumps(fitting.instance(held.json, messages[0]["content"][-1]["text"]))
        return _Output([1] * 100, [_Written(text, (1, 2, 3))])


@pytest.fixture(params=[True, False], ids=["structured_outputs", "guided_decoding"])
def vllm(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Both generations of the library."""
    return installed(monkeypatch, StandIn(request.param))


def installed(monkeypatch: pytest.MonkeyPatch, module: StandIn) -> StandIn:
    """Put a stand-in where the library would be."""
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", module.sampling_params)
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(max_position_embeddings=MODEL_POSITIONS)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: config)
    return module


@pytest.fixture
def answerer(vllm: StandIn) -> Iterator:
    """An answerer over the stand-in."""
    made = local_answerer(VlmSettings(backend="vllm", model_id="org/vlm", temperature=0.5, max_new_tokens=300))
    yield made
    made.close()


def test_every_question_type_is_answered_in_one_batch(answerer, vllm: StandIn) -> None:
    asked = every_question()
    replies = answerer.answer(asked)
    assert [type(r.answer) for r in replies] == [q.answer for q in asked]
    assert {(r.usage.tokens_in, r.usage.tokens_out, r.server) for r in replies} == {(100, 3, "vllm")}
    ((messages, params, template),) = vllm.chats
    assert len(messages) == len(asked) and template == {"enable_thinking": False}
    assert {(p.max_tokens, p.temperature) for p in params} == {(300, 0.5)}


def test_pictures_are_part_of_the_chat(answerer, vllm: StandIn) -> None:
    shown = picture("red", "before")
    answerer.answer([question("vqa_count", shown)])
    ((conversation,), _, _) = vllm.chats[0]
    text = conversation[0]["content"][-1]["text"]
    assert conversation == [user_message(text, [shown])]
    assert conversation[0]["content"][1]["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_the_engine_is_made_from_the_settings(vllm: StandIn) -> None:
    more = {"gpus_per_server": 2, "gpu_memory_utilization": 0.7, "max_model_len": 4096, "max_images": 9}
    made = local_answerer(VlmSettings(backend="vllm", model_id="org/vlm", trust_remote_code=True, **more))
    made.preflight()
    (options,) = vllm.options
    expected = {
        "model": "org/vlm",
        "tensor_parallel_size": 2,
        "gpu_memory_utilization": 0.7,
        "trust_remote_code": True,
        "dtype": "auto",
        "max_model_len": 4096,
        "limit_mm_per_prompt": {"image": 9},
    }
    assert {k: v for k, v in dataclasses.asdict(options).items() if k in expected} == expected
    made.close()
    made.close()
    assert vllm.shut_down == 1


def test_the_context_is_no_longer_than_the_model_or_the_memory_allow(answerer, vllm: StandIn) -> None:
    answerer.preflight()
    assert vllm.options[0].max_model_len == min(MODEL_POSITIONS, POSITIONS_MAX)


def test_structured_off_and_thinking_hold_nothing(vllm: StandIn) -> None:
    for more in ({"structured": "off"}, {"thinking": True}):
        made = local_answerer(VlmSettings(backend="vllm", model_id="org/vlm", **more))
        (reply,) = made.answer([question("vqa_count", picture("red"))])
        made.close()
        assert reply.answer is None and reply.preview == "no schema" and reply.usage.requests == 2
    shown, correction = vllm.chats[-1][0][0][1:]
    assert shown == {"role": "assistant", "content": "no schema"} and "cannot be used" in correction["content"]
    assert vllm.chats[-1][2] == {"enable_thinking": True}


def test_a_version_without_structured_output_is_asked_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, StandIn(new=False, structured=False))
    made = local_answerer(VlmSettings(backend="vllm", model_id="org/vlm"))
    assert made.answer([question("vqa_count", picture("red"))])[0].preview == "no schema"
    made.close()


def test_a_prompt_that_is_too_long_shows_less(answerer, vllm: StandIn) -> None:
    vllm.refuses = ValueError("The decoder prompt (length 40000) is longer than the maximum model length of 32768.")
    many, few = (question("plan_video_task", *[picture("red")] * n) for n in (12, 1))
    replies = answerer.answer([few, many, few])
    assert all(r.answer is not None for r in replies) and replies[1].usage.requests > 2


def test_a_cut_reply_is_asked_again_longer(answerer, vllm: StandIn) -> None:
    whole = vllm.said

    def cut(messages: list[dict], params: _Sampling) -> _Output:
        if params.max_tokens == 300:
            return _Output([1] * 100, [_Written('{"label": "cu', (1,) * 300, "length")])
        return whole(messages, params)

    vllm.said = cut
    (reply,) = answerer.answer([question("vqa_count", picture("red"))])
    assert reply.answer is not None and reply.usage.tokens_out == 303


def test_outputs_left_over_from_a_failed_batch_are_not_taken_for_answers(answerer, vllm: StandIn) -> None:
    vllm.leftovers = [_Output([1], [_Written("of another question", (1,))])]
    replies = answerer.answer([question("vqa_count", picture("red")), question("vqa_bbox", picture("red"))])
    assert all(r.answer is not None and r.usage.requests == 1 for r in replies)


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("Failed to infer device type", "--vlm.backend=transformers"),
        ("No available memory for the cache blocks", "--vlm.gpu_memory_utilization"),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "--vlm.max_model_len"),
        ("something else", "vllm serve"),
    ],
)
def test_an_engine_that_does_not_start_says_what_to_do(answerer, vllm: StandIn, said: str, remedy: str) -> None:
    vllm.fails = RuntimeError(said)
    with pytest.raises(AnswererError) as caught:
        answerer.preflight()
    assert said in str(caught.value) and remedy in str(caught.value)


def test_the_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    made = local_answerer(VlmSettings(backend="vllm", model_id="org/vlm"))
    with pytest.raises(AnswererError, match=r"pip install 'cuebook\[vllm\]'"):
        made.preflight()
    made.close()


@pytest.mark.slow
@pytest.mark.gpu
def test_the_real_library(tiny_vlm: Path) -> None:
    """With a GPU, or with a build of the library for CPUs."""
    library = pytest.importorskip("vllm")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available() and "cpu" not in str(torch.__version__):
        pytest.skip("no GPU")
    assert hasattr(library, "LLM")
    vlm = VlmSettings(
        backend="vllm", model_id=str(tiny_vlm), max_model_len=8192, max_new_tokens=2048, gpu_memory_utilization=0.3
    )
    made = local_answerer(vlm)
    try:
        asked = every_question()
        replies = made.answer(asked)
    finally:
        made.close()
    for q, reply in zip(asked, replies, strict=True):  # random weights may go on until the tokens run out
        assert type(reply.answer) is q.answer or reply.reason.endswith("(cut off)"), (q.name, reply)
        assert reply.usage.tokens_in > 100 and reply.usage.tokens_out > 3
    assert sum(r.answer is not None for r in replies) > len(asked) / 2
