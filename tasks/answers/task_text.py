"""What an imperative English sentence says: verbs, objects and targets, as far as a small table of words can tell.

Conservative on purpose: a sentence of any other shape gives None, and nothing is made up from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["take", "place", "other"]
WORDS_MAX = 60  # of a sentence that is still looked at
NOUN_WORDS_MAX = 12  # of one object


@dataclass(frozen=True)
class Verb:
    """A verb of the table; `kind` tells whether something is taken hold of or put somewhere."""

    name: str
    kind: Kind
    past: str


def _verbs(kind: Kind, table: str) -> list[Verb]:
    """ "name past, name past": a one-word past keeps the particle of its name ("pick up picked" -> "picked up")."""
    out = []
    for entry in table.split(","):
        *name, past = entry.split()
        out.append(Verb(" ".join(name), kind, " ".join([past, *name[1:]])))
    return out


_TAKE = "pick up picked, pick picked, grab grabbed, grasp grasped, take took, lift lifted, lift up lifted, get got"
_PLACE = """put put, put down put, place placed, move moved, stack stacked, transfer transferred, drop dropped,
insert inserted, set set, set down set, lay laid, lay down laid, return returned, bring brought, carry carried,
hang hung, load loaded"""
_OTHER = """open opened, close closed, shut shut, push pushed, pull pulled, press pressed, pour poured, wipe wiped,
fold folded, unfold unfolded, turn turned, turn on turned, turn off turned, rotate rotated, slide slid, stir stirred,
sort sorted, clean cleaned, clear cleared, cut cut, flip flipped, shake shook, hold held, touch touched, reach reached,
assemble assembled, screw screwed, unscrew unscrewed, sweep swept, wash washed, water watered, hand handed,
release released, squeeze squeezed, twist twisted, unplug unplugged, plug plugged, throw threw, tie tied, hit hit,
tighten tightened, loosen loosened, arrange arranged, align aligned, stand stood, tilt tilted, draw drew, write wrote"""
VERBS: dict[str, Verb] = {v.name: v for v in _verbs("take", _TAKE) + _verbs("place", _PLACE) + _verbs("other", _OTHER)}


def _any(*words: str) -> str:
    """Alternatives, the longest first."""
    return "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))


_VERB = re.compile(rf"(?:{_any(*VERBS)})(?=\s|$)", re.IGNORECASE)
_CLAUSES = re.compile(rf"(?:\s*[,;])?(?:\s+and)?(?:\s+then)?\s+(?=(?:{_any(*VERBS)})\s)", re.IGNORECASE)
_TARGET = re.compile(
    r"\s+("
    + _any(
        "on top of", "next to", "in front of", "to the left of", "to the right of", "inside of", "onto", "on", "into"
    )
    + "|"
    + _any(
        "inside", "in", "to", "at", "behind", "beside", "near", "under", "below", "above", "over", "between", "around"
    )
    + r")\s+(?=\S)",
    re.IGNORECASE,
)
_SOURCE = re.compile(r"\s+(?:out of|from|off of|off)\s+", re.IGNORECASE)
_ARM = re.compile(
    r"\s*,?\s*\b(?:with|using)\s+(?:(?:your|the|its|both|one|two)\s+)*(?:(?:left|right)\s+)?(?:robot(?:ic)?\s+)?"
    r"(?:arm|hand|gripper)s?\b",
    re.IGNORECASE,
)
_POLITE = re.compile(r"^please\b[\s,]*|[\s,]*\bplease$", re.IGNORECASE)
_TAIL = re.compile(r"\s+(?:up|down|back|away|again|gently|carefully|slowly|now)$", re.IGNORECASE)
_DETERMINER = re.compile(r"(?:the|a|an|all|both|every|each|one|two|three|four|some|this|that)\s", re.IGNORECASE)
_MANY = re.compile(r"(?:all|both|every|each|two|three|four|five|six|some|these|those|\d+)\s", re.IGNORECASE)
_PRONOUN = re.compile(r"(?:it|them|this|that|these|those|me|us|him|her|you|everything)\b", re.IGNORECASE)
_GOAL_WORDS = frozenset({"to", "into", "onto"})
_NEEDS_NO_TARGET = frozenset({"put down", "set down", "lay down", "drop"})
_BACK_REFERENCE = re.compile(r"(?:it|them)$", re.IGNORECASE)


@dataclass(frozen=True)
class Step:
    """One clause: what is done to which objects, and where they go."""

    verb: Verb
    objects: tuple[str, ...]  # noun phrases as written
    preposition: str = ""  # "in", "on top of"; "" without a target
    target: str = ""  # noun phrase as written


@dataclass(frozen=True)
class TaskText:
    """An understood task: its clauses in order, "pick up X and put it in Y" being one."""

    steps: tuple[Step, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """All objects in order."""
        return tuple(o for s in self.steps for o in s.objects)

    @property
    def transports(self) -> bool:
        """Every clause takes hold of something or puts it somewhere."""
        return all(s.verb.kind != "other" for s in self.steps)

    @property
    def verb(self) -> str:
        """Verb of the last clause."""
        return self.steps[-1].verb.name

    @property
    def preposition(self) -> str:
        """Preposition of the only target; "" when there is none or more than one."""
        return self._only_target()[0]

    @property
    def target(self) -> str:
        """The only target; "" when there is none or more than one."""
        return self._only_target()[1]

    def _only_target(self) -> tuple[str, str]:
        targets = {(s.preposition, s.target) for s in self.steps}
        return targets.pop() if len(targets) == 1 else ("", "")


def imperative(text: str) -> str | None:
    """The sentence to be said after "please": no full stop, small first letter; None when no known verb begins it."""
    sentence = " ".join(text.split()).strip(" \"'“”`.!")
    sentence = _POLITE.sub("", _POLITE.sub("", sentence)).strip(" .!,")
    if not sentence or len(sentence.split()) > WORDS_MAX or re.search(r"[.!?]\s|\?$", sentence):
        return None
    found = _VERB.match(sentence)
    if found is None or not sentence[found.end() :].strip():
        return None
    return sentence[0].lower() + sentence[1:]


def leading_verb(sentence: str) -> tuple[Verb, str] | None:
    """The verb that begins a sentence and the rest of it, or None."""
    found = _VERB.match(sentence)
    return None if found is None else (VERBS[found[0].lower()], sentence[found.end() :].strip())


def without_arm(sentence: str) -> str:
    """The sentence without words such as "with the left arm"."""
    return " ".join(_ARM.sub("", sentence).split())


def is_many(noun: str) -> bool:
    """Whether a noun phrase may stand for several things."""
    word = noun.split()[-1].lower() if noun.split() else ""
    return bool(_MANY.match(noun + " ")) or (word.endswith("s") and not word.endswith("ss"))


def parse_task(text: str) -> TaskText | None:
    """The task's clauses, or None when any of them has an unknown shape. Never raises."""
    sentence = imperative(text)
    if sentence is None:
        return None
    steps: list[Step] = []
    for clause in _clauses(without_arm(sentence)):
        found = _steps(clause, steps[-1] if steps else None)
        if not found:
            return None
        if steps and _carries_on(steps[-1], found[0]):
            steps.pop()  # "pick up X and put it in Y" is one transport of X
        steps += found
    return TaskText(tuple(steps)) if steps else None


def _carries_on(before: Step, step: Step) -> bool:
    return step.objects == before.objects and before.verb.kind == "take" and step.verb.kind == "place"


def _clauses(sentence: str) -> list[str]:
    """Cut where a conjunction is followed by a verb."""
    cuts = [m for m in _CLAUSES.finditer(sentence) if m.start() > 0 and m[0].strip(" ")]
    starts = [0, *(m.end() for m in cuts)]
    ends = [*(m.start() for m in cuts), len(sentence)]
    return [sentence[a:b].strip(" ,;") for a, b in zip(starts, ends, strict=True)]


def _steps(clause: str, before: Step | None) -> list[Step]:
    """The steps of one clause; none when its shape is unknown."""
    head = leading_verb(clause)
    if head is None:
        return []
    verb, rest = head
    first, *others = _same_verb(rest)  # "put X in Y and Z on W"
    steps = [_step(verb, first, before), *(_step(verb, other, None) for other in others)]
    return [s for s in steps if s is not None] if None not in steps else []


def _same_verb(rest: str) -> list[str]:
    """Cut at "and" between two pairs of object and target."""
    parts = re.split(r"(?:\s*,)?\s+and\s+", rest)
    return parts if len(parts) > 1 and all(_TARGET.search(" " + p) for p in parts) else [rest]


def _step(verb: Verb, rest: str, before: Step | None) -> Step | None:
    noun, preposition, target = _split_target(" " + rest)
    if _BACK_REFERENCE.match(noun):
        objects = before.objects if before else ()
    else:
        objects = _objects(noun)
    if verb.kind == "take" and preposition not in _GOAL_WORDS:
        preposition = target = ""  # "on the table" tells where the thing is, not where it goes
    if not objects or (target and not _is_target(preposition, target)):
        return None
    if verb.kind == "place" and not target and verb.name not in _NEEDS_NO_TARGET:
        return None  # "set the table"
    return Step(VERBS["pick up"] if verb.name == "pick" else verb, objects, preposition, target)


def _split_target(rest: str) -> tuple[str, str, str]:
    """(object, preposition, target); "from ..." is left out."""
    source = _SOURCE.search(rest)
    if source is not None:
        after = _TARGET.search(rest, source.end())
        rest = rest[: source.start()] + (rest[after.start() :] if after else "")
    found = _TARGET.search(rest)
    if found is None:
        return _bare(rest), "", ""
    return _bare(rest[: found.start()]), found[1].lower(), _bare(rest[found.end() :])


def _bare(noun: str) -> str:
    return _TAIL.sub("", noun.strip(" ,;")).strip(" ,;")


def _objects(noun: str) -> tuple[str, ...]:
    """The parts of a list of nouns; one part when it need not be a list ("the salt and pepper shaker")."""
    parts = [p for p in re.split(r"\s*,\s*and\s+|\s*,\s*|\s+and\s+", noun) if p]
    articles = [bool(_DETERMINER.match(p + " ")) for p in parts]
    if len(parts) > 1 and any(articles) and not all(articles):
        parts = [noun]
    return tuple(parts) if parts and all(_is_noun(p) for p in parts) else ()


def _is_target(preposition: str, text: str) -> bool:
    return _is_noun(text) and (preposition == "between" or not re.search(r"\sand\s|,", text))


def _is_noun(text: str) -> bool:
    words = text.split()
    return 0 < len(words) <= NOUN_WORDS_MAX and not _PRONOUN.match(text) and any(c.isalpha() for c in words[-1])
