"""Recipes that both renderers can say: every resolver, role, stream and kind of content, optional turns guarded.

`CAMERA` stands for a camera's key.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def turn(role: str, content: Any = None, stream: str = "high_level", *, when: str | None = None, **more: Any) -> Json:
    """A turn; `when` is its if_present."""
    given = {"content": content, "if_present": when, **more}
    return {"role": role, "stream": stream, **{key: value for key, value in given.items() if value is not None}}


def said(content: str | None, *, when: str, **more: Any) -> Json:
    """A turn of the robot that is learned."""
    return turn("assistant", content, when=when, target=True, **more)


RECIPES: dict[str, Json] = {
    "one_text": {
        "messages": [
            turn("system", "You move an arm."),
            turn("user", "${task}"),
            turn("assistant", "${subtask}", "low_level", when="subtask", target=True),
        ]
    },
    "around_now": {
        "bindings": {
            "before": "nth_prev(style=subtask, offset=2)",
            "after": "nth_next(style=subtask)",
            "old_memory": "nth_prev(t, style=memory, offset=1)",
        },
        "messages": [
            turn("user", "${task}"),
            turn("user", "before: ${before}", when="before"),
            turn("tool", "memory: ${old_memory}", when="old_memory"),
            said("${after}", when="after"),
        ],
    },
    "written_now": {
        "bindings": {
            "new_memory": "emitted_at(t, style=memory)",
            "new_plan": "emitted_at(t, style=plan, role=assistant)",
        },
        "messages": [said("${new_plan}", when="new_plan"), said("${new_memory}", when="new_memory")],
    },
    "spoken_to": {
        "messages": [
            turn("user", "${interjection}", when="interjection"),
            said(None, when="speech", tool_calls_from="speech"),
        ]
    },
    "said_and_called": {"messages": [said("${subtask}", when="subtask", tool_calls_from="speech")]},
    "asked": {
        "messages": [
            turn(
                "user",
                [{"type": "image", "feature": "CAMERA"}, {"type": "text", "text": "${vqa_query} (${task})"}],
                when="vqa_query",
            ),
            said("${vqa}", when="vqa"),
        ]
    },
}
