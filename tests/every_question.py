"""One question of every kind, with the shipped prompts and real JPEG pictures."""

from __future__ import annotations

import io
import string

from PIL import Image

import prompts
from tasks import questions
from tasks.answers.question import Picture, Question

SIDE = 96
TEXT_ONLY = ("plan_memory", "plan_task_rephrasings", "plan_task_aug_axes", "interjections_initial_speech")
INPUTS = {"duration": 8.0, "width": SIDE, "height": SIDE, "time": 1.5, "n": 3, "count": 2, "index": 1, "max_steps": 4}


def picture(colour: str, caption: str = "") -> Picture:
    """A JPEG of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), colour).save(out, "JPEG", quality=90)
    return Picture(out.getvalue(), SIDE, SIDE, caption)


def question(name: str, *pictures: Picture, **more: object) -> Question:
    """A question by the name of its prompt, every placeholder filled."""
    fields = {field for _, field, _, _ in string.Formatter().parse(prompts.text(name)) if field}
    inputs = {field: INPUTS.get(field, "move the cup") for field in fields}
    return Question(name, ANSWERS[name], inputs, pictures, phase=name.split("_")[0], **more)


def every_question() -> list[Question]:
    """All of them; those about pictures show one or two."""
    shown = (picture("red", "first"), picture("blue"))
    return [
        question(name, *(() if name in TEXT_ONLY else shown[:1] if name.startswith("vqa") else shown))
        for name in ANSWERS
    ]


def _answers() -> dict[str, type[questions.Answer]]:
    """Prompt name -> answer, by the first word of the answer's description."""
    classes = [c for c in vars(questions).values() if isinstance(c, type) and issubclass(c, questions.Answer)]
    named = {(c.__doc__ or "").split(":")[0].strip(): c for c in classes}
    return {name: named[name] for name in prompts.names() if name in named}


ANSWERS = _answers()
