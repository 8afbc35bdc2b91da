"""Answers held to their JSON schema while they are written, by xgrammar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tasks.answers import structured

if TYPE_CHECKING:
    import torch
    import xgrammar

NUMBER_MAX = 1e6  # a decoder may write digits for ever into a number without bounds


@lru_cache(maxsize=64)
def bounded_schema(answer: type[BaseModel]) -> dict[str, Any]:
    """The answer's schema for a decoder: every number bounded, every field written, no other fields."""
    return _bounded(structured.schema(answer))


def _bounded(node: Any) -> Any:
    if isinstance(node, list):
        return [_bounded(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: value if key in ("const", "enum", "default") else _bounded(value) for key, value in node.items()}
    if node.get("type") in ("number", "integer"):
        largest = int(NUMBER_MAX) if node["type"] == "integer" else NUMBER_MAX
        out = {"minimum": -largest, "maximum": largest, **out}
    if node.get("type") == "object" and "properties" in node:
        out |= {"required": list(node["properties"]), "additionalProperties": False}
    return out


class Grammars:
    """Compiles the grammar of each answer once for a model's vocabulary."""

    def __init__(self, tokenizer: Any, vocabulary: int, stops: Sequence[int]) -> None:
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=list(stops))
        self._compiler = xgrammar.GrammarCompiler(info)
        self._vocabulary = vocabulary
        self._compiled: dict[type[BaseModel], xgrammar.CompiledGrammar] = {}

    def mask(self, answers: Sequence[type[BaseModel]]) -> Mask:
        """A logits processor for one batch, whose rows may hold different answers."""
        return Mask([self._of(answer) for answer in answers], self._vocabulary)

    def _of(self, answer: type[BaseModel]) -> xgrammar.CompiledGrammar:
        if answer not in self._compiled:
            schema = json.dumps(bounded_schema(answer))
            self._compiled[answer] = self._compiler.compile_json_schema(schema, any_whitespace=False)
        return self._compiled[answer]


class Mask:
    """Leaves each row of a batch only the tokens that its grammar allows next. For one `generate` call."""

    def __init__(self, grammars: Sequence[xgrammar.CompiledGrammar], vocabulary: int) -> None:
        import xgrammar

        self._xgrammar = xgrammar
        self._rows = {row: xgrammar.GrammarMatcher(grammar) for row, grammar in enumerate(grammars)}
        self._bits = xgrammar.allocate_token_bitmask(len(grammars), vocabulary)
        self._began = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self._began:
            for row, token in enumerate(input_ids[:, -1].tolist()):
                matcher = self._rows.get(row)
                # a row that reached its own limit is filled up with padding, which no grammar takes
                if matcher is not None and (not matcher.accept_token(token) or matcher.is_terminated()):
                    del self._rows[row]
        self._began = True
        if not self._rows:
            return scores
        for row, matcher in self._rows.items():
            matcher.fill_next_token_bitmask(self._bits, row)
        rows = list(self._rows)
        if scores.device.type in ("cpu", "cuda"):
            self._xgrammar.apply_token_bitmask_inplace(scores, self._bits.to(scores.device), indices=rows)
            return scores
        masked = scores.cpu()
        self._xgrammar.apply_token_bitmask_inplace(masked, self._bits, indices=rows)
        return masked.to(scores.device)
