"""Any image-text-to-text model of the transformers library, in this process."""

from __future__ import annotations

import gc
import io
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.answers.client import Completion
from tasks.answers.engine import Prompt, TooBig, is_constrained, template_kwargs, told
from tasks.answers.question import Picture
from tasks.answers.transformers_load import is_out_of_memory, load
from tasks.settings import VlmSettings

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from tasks.answers.grammar import Grammars

log = logging.getLogger(__name__)


class TransformersEngine:
    """One model on one device, or spread over several. Loads nothing before `load`."""

    pads = True

    def __init__(self, settings: VlmSettings) -> None:
        self.name = settings.device or "transformers"
        self.batch_max = settings.batch_size
        self._settings = settings
        self._model: Any = None
        self._processor: Any = None
        self._grammars: Grammars | None = None
        self._stops: frozenset[int] = frozenset()
        self._positions: int | None = None

    def load(self) -> None:
        """Bring the model onto its device. Raises AnswererError."""
        loaded = load(self._settings)
        self._model, self._processor, self.name = loaded.model, loaded.processor, loaded.device
        self._stops = _stops(self._model, self._processor.tokenizer)
        self._positions = _positions(self._model, self._settings)
        self._grammars = self._constraint() if is_constrained(self._settings) else None

    def generate(self, prompts: Sequence[Prompt], stop: threading.Event) -> list[Completion]:
        """One completion per prompt, those with pictures in one batch, those without in another."""
        done: dict[int, Completion] = {}
        for seeing in (True, False):
            rows = [i for i, prompt in enumerate(prompts) if bool(prompt.pictures) is seeing]
            if rows:
                done.update(zip(rows, self._batch([prompts[i] for i in rows], stop), strict=True))
        return [done[i] for i in range(len(prompts))]

    def close(self) -> None:
        """Free the model. Idempotent."""
        self._model = self._processor = self._grammars = None
        _free()

    def _constraint(self) -> Grammars | None:
        try:
            from tasks.answers.grammar import Grammars

            head = self._model.get_output_embeddings()
            vocabulary = head.weight.shape[0] if head is not None else self._model.config.get_text_config().vocab_size
            return Grammars(self._processor.tokenizer, vocabulary, sorted(self._stops))
        except ImportError:
            log.warning("answers are not held to their schema while they are written: pip install xgrammar")
        except Exception as error:  # noqa: BLE001 whatever it is: answers are checked afterwards all the same
            log.warning("answers are not held to their schema while they are written: %s", told(error))
        return None

    def _batch(self, prompts: Sequence[Prompt], stop: threading.Event) -> list[Completion]:
        try:
            return self._written(prompts, stop)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = told(error)
        _free()  # out of the except block, where the traceback still held the tensors
        raise TooBig(f"out of memory on {self.name} with {len(prompts)} prompts: {reason}", memory=True)

    def _written(self, prompts: Sequence[Prompt], stop: threading.Event) -> list[Completion]:
        import torch

        inputs = self._inputs(prompts)
        length = inputs["input_ids"].shape[1]
        tokens_in = inputs["attention_mask"].sum(dim=1).tolist()
        limits = [prompt.tokens_max for prompt in prompts]
        for count, limit in zip(tokens_in, limits, strict=True):
            if self._positions is not None and count + limit > self._positions:
                raise TooBig(f"{count} tokens and a reply of {limit} exceed the context length of {self._positions}")
        with torch.inference_mode():
            out = self._model.generate(
                **inputs,
                **self._sampling(),
                max_new_tokens=max(limits),
                pad_token_id=self._processor.tokenizer.pad_token_id,
                logits_processor=[] if self._grammars is None else [self._grammars.mask([p.answer for p in prompts])],
                stopping_criteria=[_ends(length, limits, stop)],
            )
        new = out[:, length:].tolist()  # decoder-only models repeat the prompt
        return [self._completion(*row) for row in zip(new, tokens_in, limits, strict=True)]

    def _inputs(self, prompts: Sequence[Prompt]) -> Any:
        """What the model is given: token ids with places for the pictures, and the pixels of every picture."""
        processor = self._processor
        told_template = template_kwargs(self._settings, str(processor.chat_template))
        texts = [
            processor.apply_chat_template(_messages(p), add_generation_prompt=True, tokenize=False, **told_template)
            for p in prompts
        ]
        bos = processor.tokenizer.bos_token
        inputs = processor(
            text=texts,
            images=[[_decoded(picture) for picture in p.pictures] for p in prompts] if prompts[0].pictures else None,
            padding=True,
            return_tensors="pt",
            # a template that begins with the first token of a text must not get a second one
            **({"add_special_tokens": False} if bos and texts[0].startswith(bos) else {}),
        )
        return inputs.to(self._model.device, dtype=self._model.dtype)  # converts pixels only, never token ids

    def _sampling(self) -> dict[str, Any]:
        if self._settings.temperature > 0:
            return {"do_sample": True, "temperature": self._settings.temperature}
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}

    def _completion(self, new: list[int], tokens_in: int, limit: int) -> Completion:
        new = new[:limit]
        end = next((i for i, token in enumerate(new) if token in self._stops), None)
        text = self._processor.tokenizer.decode(new[:end], skip_special_tokens=True)
        return Completion(
            text=text.encode("utf-8", "replace").decode("utf-8"),
            cut=end is None,
            tokens_in=tokens_in,
            tokens_out=len(new) if end is None else end + 1,
        )


def _messages(prompt: Prompt) -> list[dict[str, Any]]:
    """The conversation with a place for each picture behind its caption, and the text last."""
    content: list[dict[str, Any]] = []
    for picture in prompt.pictures:
        if picture.caption:
            content.append({"type": "text", "text": picture.caption})
        content.append({"type": "image"})
    content.append({"type": "text", "text": prompt.text})
    # templates of models that see often take content in parts only
    turns = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in prompt.correction]
    return [{"role": "user", "content": content}, *turns]


def _decoded(picture: Picture) -> Image.Image:
    from PIL import Image

    return Image.open(io.BytesIO(picture.jpeg)).convert("RGB")


def _stops(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a reply."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    found = ends if isinstance(ends, list) else [ends]
    return frozenset(i for i in (*found, tokenizer.eos_token_id) if i is not None)


def _positions(model: Any, settings: VlmSettings) -> int | None:
    """The longest prompt and reply together; None when nobody says."""
    known = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min((n for n in (known, settings.max_model_len) if n is not None), default=None)


def _ends(length: int, limits: Sequence[int], stop: threading.Event) -> Any:
    """Ends each row at its own limit, and all of them when nobody waits any more."""
    import torch
    from transformers import StoppingCriteria

    class Ends(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
            made = input_ids.shape[1] - length
            over = [stop.is_set() or made >= limit for limit in limits]
            return torch.tensor(over, dtype=torch.bool, device=input_ids.device)

    return Ends()


def _free() -> None:
    """Give memory back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
