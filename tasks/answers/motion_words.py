"""Sentences made from a task's own words: rephrasings, memory, speech. Nothing is added that the words do not say."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

from tasks.answers.task_text import imperative, leading_verb, without_arm

_FRAMES = (
    "please {}",
    "could you {}?",
    "your task is to {}",
    "{}, please",
    "can you {}?",
    "I want you to {}",
    "go ahead and {}",
    "would you {}?",
    "I need you to {}",
    "now {}",
    "your job is to {}",
    "I would like you to {}",
    "could you please {}?",
    "the goal is to {}",
    "kindly {}",
    "it is your turn to {}",
)
_SAME_VERBS = {
    "pick up": ("grab",),
    "grab": ("pick up",),
    "put": ("place",),
    "place": ("put",),
    "put down": ("set down",),
    "set down": ("put down",),
    "close": ("shut",),
    "shut": ("close",),
    "transfer": ("move",),
}
_LATER_VERB = re.compile(r"\b(and|then) (put|place) ", re.IGNORECASE)
_ORIENTATION = re.compile(
    r"\s+(?:upright|upside down|sideways|horizontally|vertically|facing (?:up|down|left|right|forwards?|backwards?))\b",
    re.IGNORECASE,
)
_GRASP_METHOD = re.compile(
    r"\s+(?:by (?:the|its) (?:handle|rim|edge|neck|stem|top|side|sides|base|lid|corner|body)"
    r"|(?:with|using) (?:a|the) (?:pinch|power|top|side|overhand|underhand) (?:grasp|grip))\b",
    re.IGNORECASE,
)
_CUES = ("Now {}.", "Next, {}, please.", "Please {} now.", "Can you {} now?", "Go ahead and {}.", "Good, now {}.")
_REPLIES = ("On it.", "Okay.", "Sure.", "Will do.", "Doing it now.", "Yes, right away.")
_FOREIGN_CUE = "Next: {}"  # a label that is no English imperative is repeated as it stands
_LONG_CUE = "Now the next step, please."
_NOTHING_DONE = frozenset({"hold still"})
LIST_MARK = ";"  # between the subtasks of one memory question
MEMORY_SENTENCES = 2
MEMORY_MAX = 1000  # characters, as the answers' models allow
SENTENCE_MAX = 400


def choose(options: Sequence[str], *key: object) -> str:
    """One of the options: always the same for the same key."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return options[int.from_bytes(digest, "big") % len(options)]


def rephrasings(task: str, n: int) -> list[str]:
    """Up to `n` distinct sentences of the same meaning, none the task itself; none when its shape is unknown."""
    sentence = imperative(task)
    if sentence is None or n <= 0:
        return []
    wordings = [*_synonyms(sentence), sentence]
    out = list(wordings[:-1])
    for i in range(len(_FRAMES) * len(wordings)):  # verbs and frames take turns, so that few are varied too
        frame = _FRAMES[i % len(_FRAMES)]
        out.append(frame.format(wordings[(i + 1 + i // len(_FRAMES)) % len(wordings)]))
    return [text for text in _distinct(out, task) if len(text) <= SENTENCE_MAX][:n]


def axes(task: str, counts: Mapping[str, int]) -> dict[str, list[str]]:
    """Rephrasings by what they leave out; a list stays empty when the task does not say that thing."""
    arm, way_up, grip = without_arm(task), _ORIENTATION.sub("", task), _GRASP_METHOD.sub("", task)
    shorter = {"synonym_paraphrase": task, "omit_arm": arm, "omit_orientation": way_up, "omit_grasp_method": grip}
    said = [name for name, text in shorter.items() if name != "synonym_paraphrase" and not _same(text, task)]
    if len(said) > 1:
        shorter["combined_omissions"] = _ORIENTATION.sub("", _GRASP_METHOD.sub("", arm))
    out: dict[str, list[str]] = {name: [] for name in counts}
    used = [task]
    for name, count in counts.items():
        base = shorter.get(name, task)
        plain = imperative(base)
        if plain is None or (name != "synonym_paraphrase" and _same(base, task)):
            continue
        texts = _distinct([plain, *rephrasings(base, count + len(used))], task)
        out[name] = [t for t in texts if not any(_same(t, u) for u in used)][:count]
        used += out[name]
    return out


def memory(completed: str, before: str) -> str:
    """What has been done so far in at most two short sentences; "" when nothing is to be added."""
    labels = [label.strip() for label in completed.split(LIST_MARK)]
    sentences = [s.strip() for s in re.findall(r"[^.]+\.", before)]
    news = [_past(label) for label in labels if label and label.lower() not in _NOTHING_DONE]
    for new in news:
        sentences = [s for s in sentences if not _superseded(s, new)] + [new]
    return " ".join(sentences[-MEMORY_SENTENCES:])[-MEMORY_MAX:] if news else ""


def _past(label: str) -> str:
    head = leading_verb(label)
    if head is None:
        return f"I finished: {label.strip(' .')}."
    verb, rest = head
    return f"I {verb.past} {_past_inside(rest)}".strip(" .") + "."


def _past_inside(rest: str) -> str:
    """ "X and put it down" is already past by its look; other verbs after "and" are turned."""
    found = re.search(r"\band (?:then )?(?=\w)", rest)
    later = leading_verb(rest[found.end() :]) if found else None
    if found is None or later is None:
        return rest
    return f"{rest[: found.end()]}{later[0].past} {later[1]}"


def _superseded(old: str, new: str) -> bool:
    """Whether an old "I picked up X." is told again by the new sentence about X."""
    thing = old.removeprefix("I picked up ").strip(" .")
    return old == new or (old.startswith("I picked up ") and bool(thing) and f" {thing} " in f"{new.strip('.')} ")


def initial_speech(task: str) -> str:
    """What the robot says when it is given the task."""
    text = f"Okay, I will {imperative(task) or 'start now'}."
    return text if len(text) <= SENTENCE_MAX else "Okay, I will start now."


def interjection(next_label: str, *key: object) -> tuple[str, str]:
    """What a person says just before the next subtask, and the robot's reply."""
    sentence = imperative(next_label)
    cue = choose(_CUES, "cue", *key).format(sentence) if sentence else _FOREIGN_CUE.format(next_label.strip())
    return cue if len(cue) <= SENTENCE_MAX else _LONG_CUE, choose(_REPLIES, "reply", *key)


def _synonyms(sentence: str) -> list[str]:
    """The sentence with other verbs of the same meaning."""
    head = leading_verb(sentence)
    if head is None:
        return []
    verb, rest = head
    out = [f"{other} {rest}" for other in _SAME_VERBS.get(verb.name, ())]
    swap = {"put": "place", "place": "put"}
    out += [_LATER_VERB.sub(lambda m: f"{m[1]} {swap[m[2].lower()]} ", s) for s in (*out, sentence)]
    return _distinct(out, sentence)


def _same(a: str, b: str) -> bool:
    return a.strip(" .!?").casefold() == b.strip(" .!?").casefold()


def _distinct(texts: Sequence[str], but: str) -> list[str]:
    seen = {but.strip(" .!?").casefold()}
    out = []
    for text in texts:
        key = text.strip(" .!?").casefold()
        if key not in seen:
            seen.add(key)
            out.append(text)
    return out
