"""Where lerobot 0.6.1 and this project render the same rows otherwise, on purpose; each case asserts both sides.

    python tests/compat/intended_differences.py        # prints the table; run by a Python that has lerobot

Numbers are those of the known weaknesses that this project mends; "new" marks what later versions of lerobot do too.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lerobot.configs.recipe import TrainingRecipe
from lerobot.datasets.language_render import render_sample
from lerobot.processor.render_messages_processor import RenderMessagesStep
from lerobot.utils.collate import lerobot_collate_fn

from tasks.errors import AmbiguousRowsError, RecipeError
from tasks.language.collate import collate
from tasks.language.lerobot_step import CuebookRenderMessages
from tasks.language.recipe import load_recipe
from tasks.language.render import Renderer
from tasks.language.resolve import EpisodeTable, rows_of
from tasks.language.styles import PERSISTENT, Style, register_style
from tests.compat.hand_made import CAMERAS, REPHRASINGS, TASK, float32, question, row, say, state
from tests.compat.parity_recipes import Json, said, turn

FPS = 30.0
TASK_TURN = turn("user", "${task}")
SAY_SUBTASK: Json = {"messages": [TASK_TURN, said("${subtask}", when="subtask")]}
ANSWER: Json = {"messages": [turn("user", "${vqa_query}", when="vqa_query"), said("${vqa}", when="vqa")]}
SPEAK: Json = {"messages": [TASK_TURN, said(None, when="speech", tool_calls_from="speech")]}
RESPOND: Json = {
    "messages": [
        TASK_TURN,
        turn("user", "${interjection}", when="interjection"),
        said(None, when="speech", tool_calls_from="speech"),
    ]
}
SUBTASK = state("subtask", "grasp", 0.0)
TASK_WAYS = [state("task_aug", text, 0.0, "user") for text in REPHRASINGS]


class Case(NamedTuple):
    number: str
    lerobot: str
    cuebook: str
    check: Callable[[], None]


CASES: list[Case] = []


def difference(number: int | str, *, lerobot: str, cuebook: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """A row of the table, and the function that asserts both of its sides."""

    def add(check: Callable[[], None]) -> Callable[[], None]:
        CASES.append(Case(str(number), lerobot, cuebook, check))
        return check

    return add


# --- both renderers over one frame ---------------------------------------------------------------------------------


def lerobot(
    recipe: Json,
    persistent: Sequence[Json] = (),
    events: Sequence[Json] = (),
    *,
    time_s: float = 0.0,
    index: int = 0,
    task: str | None = TASK,
) -> Json | None:
    return render_sample(
        recipe=TrainingRecipe.from_dict(recipe),
        persistent=list(persistent),
        events=list(events),
        t=time_s,
        sample_idx=index,
        dataset_ctx={"task": task},
    )


def cuebook(
    recipe: Json,
    persistent: Sequence[Json] = (),
    events: Sequence[Json] = (),
    *,
    frame: int = 0,
    episode: int = 0,
    task: str | None = TASK,
    **options: Any,
) -> Json | None:
    here = [(frame, r) for r in rows_of(events)]
    table = EpisodeTable.at_fps(rows_of(persistent), here, FPS)
    return Renderer(load_recipe(recipe), cameras=CAMERAS, **options).render(table, frame, episode=episode, task=task)


def last(sample: Mapping[str, Any] | None) -> Any:
    """What the last turn says; None where there is no sample."""
    return sample and sample["messages"][-1].get("content")


def raised(error: type[Exception], call: Callable[[], Any]) -> str:
    """The message of the error that a call must raise."""
    try:
        got = call()
    except error as err:
        assert type(err) is error, repr(err)
        return str(err)
    raise AssertionError(f"want {error.__name__}, got {got!r}")


def item(persistent: Sequence[Json], events: Sequence[Json] = (), **fields: Any) -> Json:
    """A dataset's item as a transition."""
    rows = {"language_persistent": list(persistent), "language_events": list(events)}
    return {"complementary_data": {"timestamp": 0.0, "task": TASK, "episode_index": 0, **rows, **fields}}


def their_step(recipe: Json) -> RenderMessagesStep:
    return RenderMessagesStep(TrainingRecipe.from_dict(recipe))


def our_step(recipe: Json) -> CuebookRenderMessages:
    return CuebookRenderMessages(recipe=recipe, fps=FPS)


def weighted(recipe: Json, weight: float, **more: Any) -> Json:
    return {**recipe, "weight": weight, **more}


# --- the table -----------------------------------------------------------------------------------------------------


@difference(
    1, lerobot="the step's task hides all rephrasings", cuebook="rephrasings are drawn, only an option overrides"
)
def rephrasings_through_the_step() -> None:
    def tasks(step: Any) -> set[str]:
        data = [step(item([*TASK_WAYS, SUBTASK], index=i, episode_index=i))["complementary_data"] for i in range(64)]
        return {d["messages"][0]["content"] for d in data}

    assert tasks(their_step(SAY_SUBTASK)) == {TASK}
    assert tasks(our_step(SAY_SUBTASK)) == set(REPHRASINGS)
    assert tasks(CuebookRenderMessages(recipe=SAY_SUBTASK, fps=FPS, task_override="x")) == {"x"}


@difference(2, lerobot="no name for the dataset's own task", cuebook="${canonical_task} is never a rephrasing")
def the_datasets_own_task() -> None:
    recipe = {"messages": [TASK_TURN, turn("user", "${canonical_task}"), said("${subtask}", when="subtask")]}
    assert "canonical_task" in raised(ValueError, lambda: lerobot(recipe, [*TASK_WAYS, SUBTASK]))
    texts = [m["content"] for m in cuebook(recipe, [*TASK_WAYS, SUBTASK])["messages"]]
    assert texts[0] in REPHRASINGS and texts[1] == TASK


@difference(
    3, lerobot="no vqa route; where nothing is asked, its weight gives nothing", cuebook="asked: always vqa; else never"
)
def questions_have_their_own_way() -> None:
    blend = {"blend": {"talk": weighted(SAY_SUBTASK, 1.0), "ask": weighted(ANSWER, 1.0)}}
    routed = {"blend": {"talk": weighted(SAY_SUBTASK, 0.99), "ask": weighted(ANSWER, 0.01, route="vqa")}}
    asked = question(CAMERAS[0], "what is it?", "a cup")
    assert "route" in raised(TypeError, lambda: lerobot(routed, [SUBTASK]))
    unasked = [last(lerobot(blend, [SUBTASK], index=i)) for i in range(100)]
    assert 30 < unasked.count(None) < 70
    assert {last(cuebook(blend, [SUBTASK], frame=i)) for i in range(100)} == {"grasp"}
    assert {last(cuebook(routed, [SUBTASK], frame=i)) for i in range(100)} == {"grasp"}
    assert {last(cuebook(routed, [SUBTASK], asked, frame=i)) for i in range(100)} == {"a cup"}


@difference(4, lerobot="draws, then finds that nothing renders", cuebook="draws among what can render at the frame")
def a_rare_component_is_not_missed() -> None:
    blend = {
        "blend": {"rare": weighted(SPEAK, 0.1), "plan": weighted({"messages": [said("${plan}", when="plan")]}, 0.9)}
    }
    theirs = [lerobot(blend, events=[say("Sure.")], index=i) for i in range(100)]
    ours = [cuebook(blend, events=[say("Sure.")], frame=i) for i in range(100)]
    assert theirs.count(None) > 75 and ours.count(None) == 0


NOW: Json = {"bindings": {"now": "emitted_at(t, style=memory)"}, "messages": [said("${now}", when="now")]}


@difference(5, lerobot="a state is 'now' for 0.1 s around, or raises", cuebook="on the nearest frame only")
def a_state_is_emitted_on_one_frame() -> None:
    rows = [state("memory", "one", 1.0)]
    assert {28, 29, 30, 31, 32} <= {f for f in range(60) if lerobot(NOW, rows, time_s=f / FPS)}
    assert [f for f in range(60) if cuebook(NOW, rows, frame=f)] == [30]
    close = [*rows, state("memory", "two", float32(32 / FPS))]
    assert "2 matching rows" in raised(ValueError, lambda: lerobot(NOW, close, time_s=31 / FPS))
    assert [last(cuebook(NOW, close, frame=f)) for f in (30, 31, 32)] == ["one", None, "two"]


@difference(
    6, lerobot="rows that contradict each other stop training", cuebook="told to, leaves the component out and warns"
)
def contradictions_can_be_left_out() -> None:
    rows = [SUBTASK, state("subtask", "release", 0.0)]
    assert "2 matching rows" in raised(ValueError, lambda: lerobot(SAY_SUBTASK, rows))
    assert "2 rows" in raised(AmbiguousRowsError, lambda: cuebook(SAY_SUBTASK, rows))
    assert cuebook(SAY_SUBTASK, rows, on_ambiguous="skip") is None


@difference(8, lerobot="tool calls stored as JSON text have no name", cuebook="the text is parsed")
def calls_stored_as_text() -> None:
    text = '{"type": "function", "function": {"name": "say", "arguments": {"text": "Sure."}}}'
    stored = [row(None, None, tool_calls=[text])]
    assert lerobot(SPEAK, events=stored) is None
    calls = cuebook(SPEAK, events=stored)["messages"][-1]["tool_calls"]
    assert calls == say("Sure.")["tool_calls"] and lerobot(SPEAK, events=[say("Sure.")]) == cuebook(
        SPEAK, events=stored
    )


@difference(
    9, lerobot="a float32 time just above the frame's delays a state by one frame", cuebook="frames are compared"
)
def a_state_begins_on_its_own_frame() -> None:
    rows = [SUBTASK, state("subtask", "place", float32(9 / FPS))]
    assert rows[1]["timestamp"] > 9 / FPS  # 0.30000001 as float32
    assert last(lerobot(SAY_SUBTASK, rows, time_s=9 / FPS)) == "grasp"
    assert last(cuebook(SAY_SUBTASK, rows, frame=9)) == "place"


@difference(10, lerobot="a wrong binding is found at the first sample", cuebook="when the recipe is loaded")
def bindings_are_checked_when_loaded() -> None:
    for text in ("active_at(t, stlye=subtask)", "active_at(t, style=subtsk)", "active(t)", "active_at(t, style=vqa)"):
        recipe = {"bindings": {"subtask": text}, **SAY_SUBTASK}
        TrainingRecipe.from_dict(recipe)  # nothing wrong so far
        try:
            lerobot(recipe, [SUBTASK])
        except (ValueError, TypeError):
            pass
        else:
            raise AssertionError(text)
        assert "bindings.subtask" in raised(RecipeError, lambda recipe=recipe: load_recipe(recipe))


@difference(11, lerobot="a project's own style is unknown", cuebook="register_style makes it known to bindings")
def styles_of_a_project() -> None:
    recipe = {"bindings": {"mood": "active_at(t, style=mood)"}, "messages": [said("${mood}", when="mood")]}
    rows = [state("mood", "calm", 0.0)]
    assert "mood" in raised(ValueError, lambda: lerobot(recipe, rows))
    register_style(Style("mood", PERSISTENT, ("assistant",)))
    assert last(cuebook(recipe, rows)) == "calm"


@difference(12, lerobot="placeholders deep in a block stay as they are", cuebook="filled in at any depth")
def nested_placeholders() -> None:
    block = {"type": "text", "text": "x", "meta": {"notes": ["now: ${subtask}"]}}
    recipe = {"messages": [turn("user", [block]), said("${subtask}", when="subtask")]}

    def notes(sample: Json) -> list[str]:
        return sample["messages"][0]["content"][0]["meta"]["notes"]

    assert notes(lerobot(recipe, [SUBTASK])) == ["now: ${subtask}"]
    assert notes(cuebook(recipe, [SUBTASK])) == ["now: grasp"]


@difference(12, lerobot="a missing text leaves its label dangling", cuebook="no sample, or the turn's own default text")
def dangling_labels() -> None:
    recipe = {"messages": [turn("user", "Plan: ${plan}"), said("${subtask}", when="subtask")]}
    default = {"messages": [turn("user", "Plan: ${plan:-none yet}"), said("${subtask}", when="subtask")]}
    assert lerobot(recipe, [SUBTASK])["messages"][0]["content"] == "Plan: "
    assert cuebook(recipe, [SUBTASK]) is None
    assert cuebook(default, [SUBTASK])["messages"][0]["content"] == "Plan: none yet"


@difference(12, lerobot="without a task the user says an empty text", cuebook="no sample, or a default text")
def no_task() -> None:
    assert lerobot(SAY_SUBTASK, [SUBTASK], task=None)["messages"][0]["content"] == ""
    assert cuebook(SAY_SUBTASK, [SUBTASK], task=None) is None


@difference(13, lerobot="trains on empty targets", cuebook="a target without text is no target")
def empty_targets() -> None:
    recipe = {"bindings": {"next": "nth_next(style=subtask)"}, "messages": [TASK_TURN, said("${next}", when=None)]}
    blank = [state("subtask", "", 0.0)]
    for case, rows in ((recipe, [SUBTASK]), (SAY_SUBTASK, blank)):
        theirs = lerobot(case, rows)
        assert theirs["messages"][1]["content"] == "" and theirs["target_message_indices"] == [1]
        assert cuebook(case, rows) is None


@difference(13, lerobot="an empty rephrasing gives way to the task", cuebook="it is never drawn")
def empty_rephrasings() -> None:
    rows = [state("task_aug", "", 0.0, "user"), *TASK_WAYS, SUBTASK]
    assert TASK in {lerobot(SAY_SUBTASK, rows, index=i)["messages"][0]["content"] for i in range(64)}
    ours = {cuebook(SAY_SUBTASK, rows, frame=i)["messages"][0]["content"] for i in range(64)}
    assert ours == set(REPHRASINGS)


@difference(14, lerobot="counting over two rows of one time picks one silently", cuebook="says that they contradict")
def counting_over_rows_of_one_time() -> None:
    recipe = {"bindings": {"next": "nth_next(style=subtask)"}, "messages": [said("${next}", when="next")]}
    rows = [SUBTASK, state("subtask", "place", 1.0), state("subtask", "drop", 1.0)]
    assert last(lerobot(recipe, rows)) == "place"
    assert "2 rows" in raised(AmbiguousRowsError, lambda: cuebook(recipe, rows))


@difference(15, lerobot="the opening words pass for an answer to nobody", cuebook="an answer needs an interjection")
def answers_need_an_interjection() -> None:
    ours = load_recipe("subtask_mem_vqa_speech").model_dump(exclude_unset=True)["blend"]
    respond, acknowledge = ours["user_interjection_response"], ours["speech_acknowledgement"]
    wait = row("interjection", "wait", "user")
    assert len(lerobot(RESPOND, events=[say("On it.")])["messages"]) == 2
    assert cuebook(respond, events=[say("On it.")]) is None
    assert cuebook(acknowledge, events=[say("On it.")]) is not None
    assert cuebook(respond, events=[wait, say("Sure.")]) == lerobot(RESPOND, events=[wait, say("Sure.")])


@difference(16, lerobot="draws follow the index in the dataset", cuebook="they follow seed, epoch, episode and frame")
def draws_survive_a_merge() -> None:
    blend = {"blend": {"talk": weighted(SAY_SUBTASK, 1.0), "plan": weighted({"messages": [said("p", when=None)]}, 1.0)}}

    def draws(step: Any, first_index: int, episode: int = 0) -> list[str]:
        frames = [item([SUBTASK], timestamp=f / FPS, index=first_index + f, episode_index=episode) for f in range(40)]
        return [last(step(frame)["complementary_data"]) for frame in frames]

    theirs, ours = their_step(blend), our_step(blend)
    assert draws(theirs, 0) != draws(theirs, 1000)
    assert draws(ours, 0) == draws(ours, 1000) != draws(ours, 0, episode=1)
    ours.set_epoch(1)
    assert draws(ours, 0) != draws(our_step(blend), 0)


@difference(
    17, lerobot="one component a camera, by hand", cuebook="cameras: all repeats it for each camera of the dataset"
)
def cameras_are_expanded() -> None:
    part = weighted(ANSWER, 1.0, cameras="all")
    part["bindings"] = {
        "vqa": "emitted_at(t, style=vqa, role=assistant, camera=${camera})",
        "vqa_query": "emitted_at(t, style=vqa, role=user, camera=${camera})",
    }
    asked = question(CAMERAS[1], "what is it?", "a cup")
    assert "cameras" in raised(TypeError, lambda: lerobot({"blend": {"ask": part}}, events=asked))
    assert last(cuebook({"blend": {"ask": part}}, events=asked)) == "a cup"


BOTH_CAMERAS = [r for camera in CAMERAS for r in question(camera, "what is it?", f"a cup in {camera}")]


@difference("new", lerobot="raises where two cameras are asked about, in any recipe", cuebook="looks up what is used")
def questions_about_two_cameras() -> None:
    assert "2 matching rows" in raised(ValueError, lambda: lerobot(SAY_SUBTASK, [SUBTASK], BOTH_CAMERAS))
    assert last(cuebook(SAY_SUBTASK, [SUBTASK], BOTH_CAMERAS)) == "grasp"
    assert "2 rows" in raised(AmbiguousRowsError, lambda: cuebook(ANSWER, events=BOTH_CAMERAS))


@difference("new", lerobot="refuses recipes without a text target", cuebook="a low_level turn alone teaches actions")
def actions_alone() -> None:
    recipe = {"messages": [turn("user", "${subtask}", "low_level", when="subtask")]}
    assert "target" in raised(ValueError, lambda: lerobot(recipe, [SUBTASK]))
    assert cuebook(recipe, [SUBTASK]) == {
        "messages": [{"role": "user", "content": "grasp"}],
        "message_streams": ["low_level"],
        "target_message_indices": [],
    }


@difference("new", lerobot="nothing where no target is left", cuebook="a low_level turn that is left teaches actions")
def actions_that_are_left() -> None:
    recipe = {"messages": [turn("user", "${task}", "low_level"), said("${subtask}", when="subtask")]}
    assert lerobot(recipe) is None
    assert cuebook(recipe)["target_message_indices"] == [] and last(cuebook(recipe)) == TASK


@difference("new", lerobot="the step leaves samples without rows as they are", cuebook="it asks for the bare task")
def samples_without_rows() -> None:
    assert "messages" not in their_step(SAY_SUBTASK)(item([]))["complementary_data"]
    ours = our_step(SAY_SUBTASK)(item([]))["complementary_data"]
    assert last(ours) == TASK and ours["message_streams"] == ["low_level"] and "language_events" not in ours


@difference("new", lerobot="the step drops a sample of which nothing renders", cuebook="it asks for the bare task")
def samples_of_which_nothing_renders() -> None:
    plan = item([state("plan", "1. grasp", 0.0)])
    assert their_step(SAY_SUBTASK)(plan) is None
    assert last(our_step(SAY_SUBTASK)(plan)["complementary_data"]) == TASK


@difference("new", lerobot="the step takes one sample", cuebook="or a batch, cut in all fields to what renders")
def batches() -> None:
    batch = item([[SUBTASK], [SUBTASK]], [[], []], timestamp=[0.0, 1.0], task=["a", "b"], episode_index=[0, 1])
    raised(ValueError, lambda: their_step(SAY_SUBTASK)(batch))
    assert [m[0]["content"] for m in our_step(SAY_SUBTASK)(batch)["complementary_data"]["messages"]] == ["a", "b"]


@difference("new", lerobot="collating loses the language columns", cuebook="they stay, one list a sample")
def collating() -> None:
    samples = [item([SUBTASK])["complementary_data"], item([])["complementary_data"]]
    assert "language_persistent" not in lerobot_collate_fn(samples)
    assert collate(samples)["language_persistent"] == [[SUBTASK], []]


@difference("new", lerobot="the step cannot be saved with its recipe", cuebook="its config is all that builds it again")
def saving() -> None:
    assert their_step(SAY_SUBTASK).get_config() == {}
    config = our_step(SAY_SUBTASK).get_config()
    assert CuebookRenderMessages(**config)(item([SUBTASK])) == our_step(SAY_SUBTASK)(item([SUBTASK]))


def main() -> int:
    logging.disable(logging.WARNING)
    for case in CASES:
        case.check()
        print(f"{case.number:>4} | {case.lerobot:<70} | {case.cuebook}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
