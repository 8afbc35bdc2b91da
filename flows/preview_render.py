"""Rendered samples and realised rates in the terminal. Takes data, gives rich renderables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flows.timeline import camera_name
from tasks.language.preview import Shown, why_never
from tasks.language.rates import ComponentRate, Rates

STREAM_STYLES = {"high_level": "cyan", "low_level": "yellow"}
TARGET_STYLE = "bold green"
TARGET_MARK = "▶ learn"
LEGEND = (
    ("high", STREAM_STYLES["high_level"]),
    (" words only   ", "dim"),
    ("low", STREAM_STYLES["low_level"]),
    (" the policy acts on it   ", "dim"),
    (TARGET_MARK, TARGET_STYLE),
    (" the policy learns to say it", "dim"),
)


def samples_view(shown: Sequence[Shown]) -> Group:
    """All samples, and what their colours mean."""
    return Group(*(_sample(s) for s in shown), Text.assemble(*LEGEND))


def _sample(shown: Shown) -> Panel:
    title = f"episode {shown.episode_index} · frame {shown.frame_index} · {shown.time_s:.2f} s"
    component = Text.assemble(("component ", "dim"), (shown.component or "none", "bold"))
    others = [name for name in shown.renderable if name != shown.component]
    if others:
        component.append(f"   could be here too: {', '.join(others)}", "dim")
    task = Text.assemble(("task ", "dim"), shown.task or "(the dataset names no task)")
    body = _messages(shown) if shown.sample is not None else _lacks(shown.lacks)
    return Panel(
        Group(component, task, Padding(body, (1, 0, 0, 0))),
        title=Text(title, "bold cyan"),
        title_align="left",
        border_style="cyan",
        box=box.ROUNDED,
    )


def _messages(shown: Shown) -> Table:
    assert shown.sample is not None
    table = Table.grid(padding=(0, 2), expand=True)
    for _ in ("role", "stream", "target"):
        table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    turns = zip(shown.sample["messages"], shown.sample["message_streams"], strict=True)
    for i, (message, stream) in enumerate(turns):
        style = STREAM_STYLES[stream]
        target = i in shown.sample["target_message_indices"]
        table.add_row(
            Text(message["role"], f"bold {style}"),
            Text(stream.removesuffix("_level"), style),
            Text(TARGET_MARK if target else "", TARGET_STYLE),
            Text(content_words(message), TARGET_STYLE if target else ""),
        )
    return table


def content_words(message: Mapping[str, Any]) -> str:
    """A message's content and tool calls as text: pictures as [image front], calls as say(text="On it.")."""
    content = message.get("content")
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    lines = [_block_words(block) for block in blocks]
    return "\n".join([*lines, *(_call_words(call) for call in message.get("tool_calls") or ())])


def _block_words(block: Mapping[str, Any]) -> str:
    if block["type"] == "text":
        return str(block.get("text", ""))
    feature = camera_name(str(block.get("feature", "")))
    return f"[{block['type']} {feature}]" if feature else f"[{block['type']}]"


def _call_words(call: Any) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), Mapping):
        return json.dumps(call, ensure_ascii=False)
    given = (f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in function["arguments"].items())
    return f"→ {function.get('name')}({', '.join(given)})"


def _lacks(lacks: Mapping[str, Sequence[str]]) -> RenderableType:
    lines = [Text(f"{name} cannot render here without {', '.join(names)}", "yellow") for name, names in lacks.items()]
    return Group(*lines)


def rates_table(rates: Rates) -> Table:
    """Weights beside what the dataset really gives."""
    seen = "every frame" if rates.frames == rates.frames_total else f"{rates.frames:,} of {rates.frames_total:,} frames"
    table = _table(f"Realised rates over {seen}", _caption(rates))
    table.add_column("component", overflow="fold")
    for name in ("weight", "share", "drawn", "could\nrender"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("note", ratio=1)
    for c in rates.components.values():
        drawn, able = (_percent(n, rates.frames) for n in (c.drawn, c.renderable))
        never = "never" if rates.frames == rates.frames_total else "on none of these"
        table.add_row(Text(c.name), f"{c.weight:g}", f"{c.share:.1%}", drawn, able, _note(c, never))
    return table


def _note(component: ComponentRate, never: str) -> Text:
    if not component.renderable:
        return Text(f"{never}: {why_never(component)}", "yellow")
    return Text("goes before all others" if component.routed else "", "dim")


def _caption(rates: Rates) -> str:
    words = []
    if rates.nothing:
        words.append(f"nothing renders on {rates.nothing:,} frames; {rates.task_only:,} of them have a task to fall to")
    if rates.ambiguous:
        words.append(f"rows contradict each other on {rates.ambiguous:,} frames, first: {rates.first_ambiguous}")
    return "\n".join(words)


def recipe_table(name: str, components: Sequence[Mapping[str, Any]]) -> Table:
    """What a recipe consists of."""
    table = _table(f"Recipe {name}: {len(components)} component{'' if len(components) == 1 else 's'}", "")
    table.add_column("component", overflow="fold")
    table.add_column("weight", justify="right", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("turns (▶ learnt), bindings", ratio=1)
    for c in components:
        cell = Text(c["name"])
        if c["route"]:
            cell.append(f"\nroute {c['route']}", "dim")
        if c["cameras"]:
            cameras = c["cameras"] if isinstance(c["cameras"], str) else ", ".join(map(camera_name, c["cameras"]))
            cell.append(f"\ncameras {cameras}", "dim")
        weight = "" if c["weight"] is None else f"{c['weight']:g}"
        turns = _turns(c["turns"])
        for key, expression in c["bindings"].items():
            turns.append(f"\n  {key} = {expression}", "dim")
        if c["unused"]:
            turns.append(f"\n  never used: {', '.join(c['unused'])}", "yellow")
        table.add_row(cell, weight, f"{c['share']:.1%}", turns)
    return table


def _turns(turns: Sequence[Mapping[str, Any]]) -> Text:
    text = Text()
    for i, turn in enumerate(turns):
        mark = "▶ " if turn["target"] else "  "
        optional = f" if {turn['if_present']}" if turn["if_present"] else ""
        text.append(("\n" if i else "") + mark, TARGET_STYLE)
        text.append(f"{turn['role']} {turn['stream'].removesuffix('_level')}", STREAM_STYLES[turn["stream"]])
        text.append(optional, "dim")
    return text


def _percent(count: int, of: int) -> str:
    """A share; the bare count where it would round to nothing."""
    if not count:
        return "·"
    share = count / max(of, 1)
    return f"{share:.1%}" if share >= 0.001 else f"{count:,} frames"


def _table(title: str, note: str) -> Table:
    return Table(
        title=Text(title, "bold"),
        title_justify="left",
        caption=Text(note, "yellow") if note else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        header_style="dim",
        border_style="grey37",
        show_edge=False,
        expand=True,
        padding=(0, 1, 0, 0),
    )
