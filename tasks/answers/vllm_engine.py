"""A model in this process by vLLM: the most questions a second on one machine with GPUs."""

from __future__ import annotations

import dataclasses
import gc
import logging
import threading
from collections.abc import Sequence
from typing import Any

from tasks.answers import messages
from tasks.answers.client import CallError, Completion
from tasks.answers.engine import INSTALL, Prompt, TooBig, disable_cudnn_if_asked, is_constrained, template_kwargs, told
from tasks.answers.failures import Verdict, judge
from tasks.answers.grammar import decoder_schema
from tasks.errors import AnswererError
from tasks.settings import VlmSettings

log = logging.getLogger(__name__)

POSITIONS_MAX = 32768  # the longest context of many models would take the memory that the vision tower needs
COMPACT_JSON = {"backend": "xgrammar", "disable_any_whitespace": True}
IMAGES_MAX = 64  # of one prompt, unless --vlm.max_images says otherwise


class VllmEngine:
    """One model on `gpus_per_server` GPUs. Loads nothing before `load`."""

    pads = False

    def __init__(self, settings: VlmSettings) -> None:
        self.name = "vllm"
        self.batch_max = settings.client_concurrency
        self._settings = settings
        self._vllm: Any = None
        self._llm: Any = None
        self._vocabulary = 0

    def load(self) -> None:
        """Start the engine. Raises AnswererError."""
        try:
            import vllm
        except ImportError as error:
            raise AnswererError(
                "the vllm library for --vlm.backend=vllm", told(error), INSTALL.format(extra="vllm")
            ) from error
        self._vllm = vllm
        disable_cudnn_if_asked()
        try:
            self._llm = vllm.LLM(**self._options())
            self._vocabulary = len(self._llm.get_tokenizer())
        except Exception as error:
            raise self._explained(error) from error

    def generate(self, prompts: Sequence[Prompt], stop: threading.Event) -> list[Completion]:
        """One completion per prompt. Cannot be stopped half-way."""
        said = [[messages.user_message(p.text, p.pictures), *p.correction] for p in prompts]
        try:
            outputs = self._llm.chat(
                said,
                sampling_params=[self._sampling(p) for p in prompts],
                use_tqdm=False,
                chat_template_kwargs=dict(template_kwargs(self._settings)),
            )
        except ValueError as error:
            if judge(CallError(400, str(error))) is Verdict.SHRINK:
                raise TooBig(told(error)) from error
            raise
        # some versions still hold the earlier prompts of a batch that one prompt made fail: the newest are ours
        return [_completion(output) for output in outputs[-len(prompts) :]]

    def close(self) -> None:
        """End the engine's processes and free the GPUs. Idempotent."""
        llm, self._llm = self._llm, None
        core = getattr(getattr(llm, "llm_engine", None), "engine_core", None)
        if hasattr(core, "shutdown"):
            core.shutdown()
        del llm, core
        gc.collect()

    def _options(self) -> dict[str, Any]:
        s = self._settings
        known = {field.name for field in dataclasses.fields(self._vllm.EngineArgs)}
        compact = is_constrained(s) and "structured_outputs_config" in known
        return {
            "model": s.model_id,
            "tensor_parallel_size": max(1, s.gpus_per_server),
            "gpu_memory_utilization": s.gpu_memory_utilization,
            "trust_remote_code": s.trust_remote_code,
            "dtype": s.dtype,
            "max_model_len": s.max_model_len or _positions(s),
            "limit_mm_per_prompt": {"image": s.max_images or IMAGES_MAX},
            # where blanks between JSON tokens are free, small models write blanks until the tokens run out
            **({"structured_outputs_config": dict(COMPACT_JSON)} if compact else {}),
        }

    def _sampling(self, prompt: Prompt) -> Any:
        held = self._held(prompt) if is_constrained(self._settings) else {}
        return self._vllm.SamplingParams(max_tokens=prompt.tokens_max, temperature=self._settings.temperature, **held)

    def _held(self, prompt: Prompt) -> dict[str, Any]:
        """The schema in the words of this version of the library."""
        from vllm import sampling_params

        schema = decoder_schema(prompt.answer, self._vocabulary)
        for field, name in (
            ("structured_outputs", "StructuredOutputsParams"),
            ("guided_decoding", "GuidedDecodingParams"),
        ):
            params = getattr(sampling_params, name, None)
            if params is not None:
                return {field: params(json=schema)}
        return {}

    def _explained(self, error: Exception) -> AnswererError:
        got = told(error)
        words = got.lower()
        if any(w in words for w in ("device type", "no cuda", "nvidia driver", "no gpu")):
            remedy = "vllm needs a GPU: check nvidia-smi, or take --vlm.backend=transformers --vlm.device=cpu"
        elif any(w in words for w in ("memory", "kv cache", "cudnn", "engine core initialization")):
            remedy = "lower --vlm.gpu_memory_utilization (0.7) and --vlm.max_model_len (8192), or take more GPUs"
        else:
            remedy = "see the log above; `vllm serve` with the same model says more"
        return AnswererError(f"model {self._settings.model_id} in vllm", got, remedy)


def _positions(settings: VlmSettings) -> int:
    """The model's own context length where that is shorter."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(settings.model_id, trust_remote_code=settings.trust_remote_code)
    return min(getattr(config.get_text_config(), "max_position_embeddings", POSITIONS_MAX), POSITIONS_MAX)


def _completion(output: Any) -> Completion:
    best = output.outputs[0]
    return Completion(
        text=best.text,
        cut=best.finish_reason == "length",
        tokens_in=len(output.prompt_token_ids or ()),
        tokens_out=len(best.token_ids),
    )
