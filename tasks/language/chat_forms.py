"""How a rendered sample is written down for the libraries that fine-tune vision-language models.

messages           TRL: every content a list of blocks, `{type: image}` where a picture goes, the files in `images`
prompt_completion  TRL: the same, cut before each turn that is to be learnt, so that nothing else is
llamafactory       LLaMA-Factory: every content a text, `<image>` where a picture goes, the files in `images`
inline             chat templates of transformers: as messages, the file named in the block itself as well

TRL takes a picture from the block or from `images`, and refuses a sample that has it in both: hence two forms.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Line = dict[str, Any]
Block = dict[str, Any]
Sample = Mapping[str, Any]  # messages, message_streams, target_message_indices

IMAGE_TOKEN = "<image>"
FUNCTION_CALL = "function_call"  # the role LLaMA-Factory gives to a turn that calls a tool


def picture_blocks(sample: Sample) -> Iterator[Block]:
    """The image blocks of a sample, in reading order."""
    for message in sample["messages"]:
        if isinstance(message.get("content"), list):
            yield from (block for block in message["content"] if block.get("type") == "image")


def chat_lines(form: str, sample: Sample, images: Sequence[str], facts: Mapping[str, Any]) -> list[Line]:
    """The JSON lines of one sample; `images` are the files of its image blocks, in reading order."""
    return FORMS[form](sample, list(images), dict(facts))


def _messages(sample: Sample, images: list[str], facts: Line) -> list[Line]:
    turns = _turns(sample, images, inline=False)
    return [{"messages": turns, "images": images, **_supervision(sample), **facts}]


def _inline(sample: Sample, images: list[str], facts: Line) -> list[Line]:
    turns = _turns(sample, images, inline=True)
    return [{"messages": turns, "images": images, **_supervision(sample), **facts}]


def _prompt_completion(sample: Sample, images: list[str], facts: Line) -> list[Line]:
    turns = _turns(sample, images, inline=False)
    lines = []
    for target in sample["target_message_indices"]:
        shown = sum(_is_picture(b) for turn in turns[:target] for b in turn["content"])
        lines.append({"prompt": turns[:target], "completion": [turns[target]], "images": images[:shown], **facts})
    return lines


def _llamafactory(sample: Sample, images: list[str], facts: Line) -> list[Line]:
    """Turns of one side in a row become one: that library leaves out samples whose sides do not alternate."""
    turns: list[Line] = []
    for message in sample["messages"]:
        turn = _spoken(message)
        if turns and _side(turns[-1]) == _side(turn):
            turns[-1]["content"] += "\n" + turn["content"]
        else:
            turns.append(turn)
    return [{"messages": turns, "images": images, **facts}]


def _side(turn: Line) -> str:
    return "assistant" if turn["role"] == FUNCTION_CALL else turn["role"]


FORMS: dict[str, Callable[[Sample, list[str], Line], list[Line]]] = {
    "messages": _messages,
    "prompt_completion": _prompt_completion,
    "llamafactory": _llamafactory,
    "inline": _inline,
}


def _supervision(sample: Sample) -> Line:
    return {name: list(sample[name]) for name in ("target_message_indices", "message_streams")}


def _turns(sample: Sample, images: Sequence[str], *, inline: bool) -> list[Line]:
    """Contents as blocks throughout: readers of JSON lines want one type per field."""
    files = iter(images)
    turns = []
    for message in sample["messages"]:
        blocks = [_block(block, files, inline) for block in _blocks(message)]
        turn: Line = {"role": message["role"], "content": blocks}
        if message.get("tool_calls"):
            turn["tool_calls"] = message["tool_calls"]
        turns.append(turn)
    return turns


def _blocks(message: Mapping[str, Any]) -> list[Block]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content or []


def _block(block: Block, files: Iterator[str], inline: bool) -> Block:
    if not _is_picture(block):
        return block
    file = next(files)
    return {"type": "image", "image": file} if inline else {"type": "image"}


def _is_picture(block: Block) -> bool:
    return block.get("type") == "image"


def _spoken(message: Mapping[str, Any]) -> Line:
    """A turn as one text."""
    words = [IMAGE_TOKEN if _is_picture(b) else str(b.get("text", "")) for b in _blocks(message)]
    role = message["role"]
    if calls := message.get("tool_calls"):
        functions = [call.get("function", call) for call in calls]
        role = role if words else FUNCTION_CALL
        words.append(json.dumps(functions, ensure_ascii=False))
    return {"role": role, "content": "\n".join(words)}
