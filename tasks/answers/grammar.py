"""Answers held to their JSON schema while they are written, by xgrammar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tasks.answers import structured

if TYPE_CHECKING:
    import torch
    import xgrammar

TOKENS_FOR_LENGTHS_MAX = 20_000  # up to this vocabulary a grammar that counts characters is compiled in a moment


def decoder_schema(answer: type[BaseModel], vocabulary: int) -> dict[str, Any]:
    """What a decoder is held to: lengths of strings too, where counting them does not take seconds to compile."""
    small = vocabulary <= TOKENS_FOR_LENGTHS_MAX
    return structured.schema(answer) if small else structured.wire_schema(answer)


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
            schema = json.dumps(decoder_schema(answer, self._vocabulary))
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
