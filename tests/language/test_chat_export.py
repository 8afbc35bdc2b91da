"""Chat exports: what the lines say, that pictures are the very frames, and that a kill loses nothing."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from flows.inline import annotate_inline
from tasks.dataset.generate import generate
from tasks.dataset.layout import open_dataset
from tasks.dataset.video import Clip
from tasks.errors import AmbiguousRowsError, CommitError, DatasetBusyError, DatasetError, RecipeError, SettingsError
from tasks.language.chat_export import ChatExport, export_chat
from tasks.language.chat_options import ChatOptions, parse_split
from tasks.language.recipe import load_recipe
from tasks.language.render import Renderer
from tasks.language.row_store import open_rows
from tasks.settings import AnnotateSettings
from tests.conftest import REPO
from tests.language.conftest import Annotated

FRONT, SIDE = "observation.images.front", "observation.images.side"
RECIPE = "subtask_mem_vqa_speech"
NEAR = 6.0  # grey levels, mean over a picture: JPEG at quality 90
SPOKEN = {
    "messages": [
        {"role": "user", "stream": "high_level", "content": [{"type": "image"}, {"type": "text", "text": "${task}"}]},
        {"role": "assistant", "stream": "high_level", "content": "${subtask}", "target": True,
         "tool_calls_from": "speech"},
        {"role": "user", "stream": "low_level", "content": "${plan}"},
    ]
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUEBOOK_CACHE", str(tmp_path / "cache"))


def export(dataset: Annotated, output: Path, recipe: Any = RECIPE, **options: Any) -> ChatExport:
    return export_chat(dataset.root, recipe, output, ChatOptions(**options))


def lines_of(output: Path, name: str = "train") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file, the summary's seconds aside."""
    found = {str(p.relative_to(folder)): hashlib.blake2b(p.read_bytes()).hexdigest() for p in folder.rglob("*.*")}
    found["export.json"] = str({**json.loads((folder / "export.json").read_text()), "seconds": 0, "output": ""})
    return found


def frame_of(dataset: Annotated, episode: int, camera: str, frame: int) -> np.ndarray:
    """A frame decoded from the start of its file, counted one by one."""
    ref = open_dataset(dataset.root).episodes([episode])[0].videos[camera]
    with av.open(str(ref.path)) as container:
        for picture in container.decode(video=0):
            if picture.time is not None and abs(picture.time - (ref.from_s + frame / 10)) < 0.04:
                return picture.to_ndarray(format="rgb24")
    raise AssertionError("no such frame")


# ------------------------------------------------------------------------------------------------ what is written


def test_lines_are_the_samples_of_the_renderer(tabletop: Annotated, tmp_path: Path) -> None:
    result = export(tabletop, tmp_path / "chat", every=1, only_targets=False, seed=4, epoch=1)
    renderer = Renderer(load_recipe(RECIPE), cameras=tabletop.cameras, seed=4)
    expected = [
        (e.episode.episode_index, frame, *named)
        for e in tabletop.episodes
        for frame in range(e.episode.frames)
        if (named := renderer.render_named(
            e.table, frame, episode=e.episode.episode_index, epoch=1, task=e.episode.task
        ))
    ]  # fmt: skip
    lines = lines_of(tmp_path / "chat")
    assert len(lines) == len(expected) == sum(result.components.values()) == 120
    for line, (episode, frame, component, sample) in zip(lines, expected, strict=True):
        assert (line["episode_index"], line["frame_index"], line["component"]) == (episode, frame, component)
        assert line["timestamp"] == pytest.approx(frame / 10)
        assert line["message_streams"] == sample["message_streams"]
        assert line["target_message_indices"] == sample["target_message_indices"]
        for said, message in zip(line["messages"], sample["messages"], strict=True):
            assert said["role"] == message["role"] and said.get("tool_calls") == message.get("tool_calls")
            assert words(said["content"]) == words(message.get("content"))
    assert Counter(line["component"] for line in lines) == Counter(result.components)


def words(content: Any) -> list[str]:
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    return [block.get("text", block["type"]) for block in blocks]


def test_pictures_are_the_very_frames(tabletop: Annotated, tmp_path: Path) -> None:
    result = export(tabletop, tmp_path / "chat", components=("ask_vqa",))
    lines = lines_of(tmp_path / "chat")
    assert result.images == len({line["images"][0] for line in lines}) >= 12
    cameras = Counter()
    for line in lines:
        (name,) = line["images"]
        camera = {"ask_vqa_front": FRONT, "ask_vqa_side": SIDE}[line["component"]]
        episode, frame = line["episode_index"], line["frame_index"]
        assert name == f"images/ep{episode:03d}_{frame:06d}_{camera.rsplit('.', 1)[-1]}.jpg"
        shown = np.asarray(Image.open(tmp_path / "chat" / name), np.float64)
        errors = {
            at: np.abs(shown - frame_of(tabletop, episode, camera, at)).mean()
            for at in (frame - 1, frame, frame + 1)
            if 0 <= at < 40
        }
        assert errors[frame] < NEAR and min(errors, key=errors.__getitem__) == frame, errors
        assert sum(block["type"] == "image" for m in line["messages"] for block in m["content"]) == 1
        cameras[camera] += 1
    assert set(cameras) == {FRONT, SIDE}


def test_only_pictures_that_samples_show_are_decoded_and_each_once(
    tabletop: Annotated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Path, float]] = []
    read = Clip.read
    monkeypatch.setattr(Clip, "read", lambda self, t: asked.extend((self.path, s) for s in t) or read(self, t))
    assert export(tabletop, tmp_path / "words", "subtask").images == 0 and not asked
    assert not any((tmp_path / "words" / "images").iterdir())
    result = export(tabletop, tmp_path / "seen")
    assert len(asked) == len(set(asked)) == result.images == len(list((tmp_path / "seen" / "images").iterdir())) > 0


def test_a_picture_shown_twice_is_one_file(tabletop: Annotated, tmp_path: Path) -> None:
    block = {"type": "image", "feature": "front"}
    recipe = {"messages": [
        {"role": "user", "stream": "high_level", "content": [block, {"type": "image"}, {"type": "text", "text": "a"}]},
        {"role": "assistant", "stream": "high_level", "content": "${subtask}", "target": True},
    ]}  # fmt: skip
    result = export(tabletop, tmp_path / "chat", recipe, limit=1)
    (line,) = lines_of(tmp_path / "chat")
    assert line["images"] == ["images/ep000_000000_front.jpg"] * 2  # without a feature: the first camera
    assert result.images == 1


def test_pictures_are_scaled_down_when_asked(tabletop: Annotated, tmp_path: Path) -> None:
    export(tabletop, tmp_path / "chat", components=("ask_vqa",), limit=1, width_max=80, quality=50)
    (line,) = lines_of(tmp_path / "chat")
    assert Image.open(io.BytesIO((tmp_path / "chat" / line["images"][0]).read_bytes())).size == (80, 60)


# ------------------------------------------------------------------------------------------------ which samples


def test_frames_are_taken_by_stride_and_where_something_happens(tabletop: Annotated, tmp_path: Path) -> None:
    def frames(name: str, **options: Any) -> set[tuple[int, int]]:
        export(tabletop, tmp_path / name, "subtask", **options)
        return {(line["episode_index"], line["frame_index"]) for line in lines_of(tmp_path / name)}

    every_second = frames("seconds", moments=False)
    assert every_second == {(e, f) for e in range(3) for f in (0, 10, 20, 30)}
    assert frames("every", every=20, moments=False) == {(e, f) for e in range(3) for f in (0, 20)}
    begins = {
        (labelled.episode.episode_index, labelled.episode.nearest(row.timestamp))
        for labelled in tabletop.episodes
        for row in labelled.rows
    }
    assert frames("moments", stride_s=100.0) == begins


def test_samples_without_words_to_learn_are_left_out_unless_asked_for(tabletop: Annotated, tmp_path: Path) -> None:
    export(tabletop, tmp_path / "words", "subtask", every=1)
    lines = lines_of(tmp_path / "words")
    assert len(lines) == 120 and all(line["target_message_indices"] for line in lines)
    everything = export(tabletop, tmp_path / "all", "subtask", every=1, only_targets=False)
    assert everything.components["low_level_execution"] > everything.components["high_level_subtask"] > 0
    with pytest.raises(RecipeError, match="target: true"):
        export(tabletop, tmp_path / "none", {"messages": [{"role": "user", "stream": "low_level", "content": "go"}]})


def test_a_limit_takes_the_first_samples(tabletop: Annotated, tmp_path: Path) -> None:
    export(tabletop, tmp_path / "all", every=1)
    result = export(tabletop, tmp_path / "some", every=1, limit=55)
    assert lines_of(tmp_path / "some") == lines_of(tmp_path / "all")[:55] and result.episodes == 2


def test_episodes_are_split_by_their_index_alone(tabletop: Annotated, tmp_path: Path) -> None:
    share = {"train": 0.5, "val": 0.3, "test": 0.2}
    options = ChatOptions(split=share)
    parts = Counter(options.part_of(i) for i in range(4000))
    assert {name: round(n / 4000, 1) for name, n in parts.items()} == share
    chosen = {options.part_of(i) for i in range(3)}
    result = export(tabletop, tmp_path / "chat", split=share)
    for name in share:
        lines = lines_of(tmp_path / "chat", name)
        assert result.samples[name] == len(lines) and bool(lines) == (name in chosen)
        assert all(options.part_of(line["episode_index"]) == name for line in lines)
    assert sum(result.samples.values()) == sum(result.components.values())
    some = export(tabletop, tmp_path / "some", split=share, episodes=(1,))
    assert [name for name, count in some.samples.items() if count] == [options.part_of(1)]


# ------------------------------------------------------------------------------------------------ forms


def test_forms_say_the_same_in_their_own_ways(tabletop: Annotated, tmp_path: Path) -> None:
    written = {}
    for form in ("messages", "prompt_completion", "llamafactory", "inline"):
        export(tabletop, tmp_path / form, SPOKEN, form=form, every=10)
        written[form] = lines_of(tmp_path / form)[0]
    picture, task = "images/ep000_000000_front.jpg", written["messages"]["messages"][0]["content"][1]["text"]
    first = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": task}]}
    learnt, acted = written["messages"]["messages"][1:]
    assert written["messages"]["messages"][0] == first and written["messages"]["images"] == [picture]
    assert learnt["tool_calls"][0]["function"]["name"] == "say" and learnt["content"][0]["type"] == "text"
    cut = written["prompt_completion"]
    assert (cut["prompt"], cut["completion"], cut["images"]) == ([first], [learnt], [picture])
    assert written["inline"]["messages"][0]["content"][0] == {"type": "image", "image": picture}
    turns = written["llamafactory"]["messages"]
    assert [t["role"] for t in turns] == ["user", "assistant", "user"]
    assert turns[0]["content"] == f"<image>\n{task}" and written["llamafactory"]["images"] == [picture]
    assert learnt["content"][0]["text"] in turns[1]["content"] and '"name": "say"' in turns[1]["content"]
    assert turns[2]["content"] == acted["content"][0]["text"]


def test_llamafactory_sides_alternate_and_calls_have_their_role(tabletop: Annotated, tmp_path: Path) -> None:
    export(tabletop, tmp_path / "chat", form="llamafactory", every=1)
    roles: Counter[str] = Counter()
    for line in lines_of(tmp_path / "chat"):
        sides = [{"function_call": "assistant"}.get(m["role"], m["role"]) for m in line["messages"]]
        assert sides == ["user", "assistant"] * (len(sides) // 2)
        assert all(isinstance(m["content"], str) for m in line["messages"])
        assert sum(m["content"].count("<image>") for m in line["messages"]) == len(line["images"])
        roles.update(m["role"] for m in line["messages"])
    assert roles["function_call"] > 0
    described = json.loads((tmp_path / "chat" / "dataset_info.json").read_text())
    assert described["train"]["file_name"] == "train.jsonl" and described["train"]["columns"]["images"] == "images"


def test_every_line_has_the_same_keys_and_types(tabletop: Annotated, tmp_path: Path) -> None:
    """Readers of JSON lines give each column one type."""
    import pyarrow.json as pj

    for form in ("messages", "prompt_completion", "llamafactory", "inline"):
        export(tabletop, tmp_path / form, form=form, every=1)
        lines = lines_of(tmp_path / form)
        assert len({tuple(line) for line in lines}) == 1
        table = pj.read_json(tmp_path / form / "train.jsonl")
        assert table.num_rows == len(lines) and str(table.schema.field("images").type) == "list<item: string>"


def test_a_readme_tells_how_to_load_it(tabletop: Annotated, tmp_path: Path) -> None:
    result = export(tabletop, tmp_path / "chat", split={"train": 0.5, "val": 0.5})
    text = (tmp_path / "chat" / "README.md").read_text()
    for name, count in result.samples.items():
        assert f"`{name}.jsonl`: {count}" in text and (f'"{name}": "{name}.jsonl"' in text) == bool(count)


# ------------------------------------------------------------------------------------------------ killed and resumed

CHILD = """
import sys
from pathlib import Path
import tasks.language.chat_images as images
from tasks.language.chat_export import export_chat
from tasks.language.chat_options import ChatOptions

root, output, where, recipe = sys.argv[1:]
def stop(*_):
    print("here", flush=True)
    sys.stdin.read()
write, written = images.write_atomic, []
def slow(path, data):
    write(path, data)
    written.append(path)
    if len(written) == 7:
        stop()
if where == "picture":
    images.write_atomic = slow
export_chat(Path(root), recipe, Path(output), ChatOptions(every=5), progress=stop if where == "episode" else None)
"""


@pytest.fixture
def killed(tabletop: Annotated, tmp_path: Path) -> Iterator[Any]:
    """Exports in a process of their own, killed where they say."""
    children = []

    def kill(output: Path, where: str) -> None:
        words = [sys.executable, "-c", CHILD, str(tabletop.root), str(output), where, RECIPE]
        child = subprocess.Popen(words, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None and child.stdout.readline() == "here\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait(30) == -signal.SIGKILL

    yield kill
    for child in children:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(("where", "finished"), [("episode", 1), ("picture", 0)])
def test_a_killed_export_goes_on_and_gives_the_same_files(
    tabletop: Annotated, tmp_path: Path, killed: Any, where: str, finished: int
) -> None:
    whole = export(tabletop, tmp_path / "whole", every=5)
    killed(tmp_path / "chat", where)
    assert not (tmp_path / "chat").exists() and (tmp_path / "chat.partial").is_dir()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "chat.partial" / "images").iterdir()}
    assert before
    result = export(tabletop, tmp_path / "chat", every=5)
    assert result.resumed >= finished and result.components == whole.components and result.images == whole.images
    assert contents(tmp_path / "chat") == contents(tmp_path / "whole")
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "chat" / "images").iterdir()}
    assert all(kept[path.name] == changed for path, changed in before.items()), "a picture was made twice"
    assert not (tmp_path / "chat.partial").exists()


def test_a_killed_export_is_not_mixed_with_another(tabletop: Annotated, tmp_path: Path, killed: Any) -> None:
    killed(tmp_path / "chat", "episode")
    with pytest.raises(SettingsError, match="another options") as info:
        export(tabletop, tmp_path / "chat", every=6)
    assert "--overwrite" in info.value.remedy
    export_chat(tabletop.root, RECIPE, tmp_path / "chat", ChatOptions(every=6), overwrite=True)
    export(tabletop, tmp_path / "other", every=6)
    assert contents(tmp_path / "chat") == contents(tmp_path / "other")


def test_settings_that_a_crash_garbled_are_not_trusted(tabletop: Annotated, tmp_path: Path, killed: Any) -> None:
    killed(tmp_path / "chat", "episode")
    (tmp_path / "chat.partial" / "settings.json").write_text('{"form')
    with pytest.raises(SettingsError, match="begun with another"):
        export(tabletop, tmp_path / "chat", every=5)
    export_chat(tabletop.root, RECIPE, tmp_path / "chat", ChatOptions(every=5), overwrite=True)
    assert (tmp_path / "chat" / "train.jsonl").is_file()


def test_rows_that_are_open_already_are_used(tabletop: Annotated, tmp_path: Path) -> None:
    rows = open_rows(tabletop.root, cache_dir=tmp_path / "elsewhere")
    export_chat(rows, RECIPE, tmp_path / "chat")
    export(tabletop, tmp_path / "other")
    assert contents(tmp_path / "chat") == contents(tmp_path / "other")


def test_a_lost_picture_is_made_again(tabletop: Annotated, tmp_path: Path, killed: Any) -> None:
    killed(tmp_path / "chat", "episode")
    next((tmp_path / "chat.partial" / "images").iterdir()).unlink()
    export(tabletop, tmp_path / "chat", every=5)
    export(tabletop, tmp_path / "whole", every=5)
    assert contents(tmp_path / "chat") == contents(tmp_path / "whole")


def test_two_exports_to_one_place_do_not_mix(tabletop: Annotated, tmp_path: Path) -> None:
    def intrude(*_: int) -> None:
        with pytest.raises(DatasetBusyError):
            export(tabletop, tmp_path / "chat", every=5)

    export_chat(tabletop.root, RECIPE, tmp_path / "chat", ChatOptions(every=5), progress=intrude)
    assert len(lines_of(tmp_path / "chat")) > 10


# ------------------------------------------------------------------------------------------------ what is there already


def test_an_output_that_is_there_is_refused_replaced_or_accepted(tabletop: Annotated, tmp_path: Path) -> None:
    first = export(tabletop, tmp_path / "chat")
    before = contents(tmp_path / "chat")
    with pytest.raises(SettingsError, match="there already"):
        export(tabletop, tmp_path / "chat")
    again = export_chat(tabletop.root, RECIPE, tmp_path / "chat", resume=True)
    assert again.samples == first.samples and again.components == first.components
    with pytest.raises(SettingsError, match="there already"):
        export_chat(tabletop.root, RECIPE, tmp_path / "chat", ChatOptions(every=3), resume=True)
    assert contents(tmp_path / "chat") == before
    export_chat(tabletop.root, RECIPE, tmp_path / "chat", ChatOptions(every=3), overwrite=True)
    assert len(lines_of(tmp_path / "chat")) > sum(first.samples.values())
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["chat"]


def test_folders_of_others_are_never_replaced(tabletop: Annotated, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for output in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex"):
        with pytest.raises(SettingsError, match="no chat export"):
            export_chat(tabletop.root, RECIPE, output, overwrite=True)
    for output in (tabletop.root / "chat", tabletop.root, tabletop.root.parent):
        with pytest.raises(SettingsError, match="outside the dataset"):
            export_chat(tabletop.root, RECIPE, output, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    assert export(tabletop, tmp_path / "empty").output == tmp_path / "empty"


def test_the_dataset_is_left_as_it_was(tabletop: Annotated, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in tabletop.root.rglob("*")}
    export(tabletop, tmp_path / "chat")
    assert {p: p.stat().st_mtime_ns for p in tabletop.root.rglob("*")} == before


# ------------------------------------------------------------------------------------------------ what goes wrong


@pytest.fixture
def one_video_each(tmp_path: Path) -> Path:
    """Three annotated episodes, each in a video file of its own."""
    root = generate(tmp_path / "apart", episodes=3, seconds=2.0, size=(64, 48), video_files_size_in_mb=0.001)
    annotate_inline(AnnotateSettings(root=root))
    return root


def test_an_episode_without_its_video_is_left_out_and_named(one_video_each: Path, tmp_path: Path) -> None:
    whole = export_chat(one_video_each, RECIPE, tmp_path / "whole")
    ref = open_dataset(one_video_each).episodes()[1].videos[FRONT]
    ref.path.write_bytes(ref.path.read_bytes()[:200])
    some = export_chat(one_video_each, RECIPE, tmp_path / "some")
    ((index, why),) = some.failures
    assert index == 1 and str(ref.path) in why
    left = [line for line in lines_of(tmp_path / "whole") if line["episode_index"] != 1]
    assert lines_of(tmp_path / "some") == left and some.episodes == whole.episodes - 1 == 2
    assert not list((tmp_path / "some" / "images").glob("ep001_*"))
    assert not export_chat(one_video_each, "subtask_mem", tmp_path / "words").failures  # nothing to decode
    with pytest.raises(DatasetError, match="1 episodes failed"):
        export_chat(one_video_each, RECIPE, tmp_path / "none", ChatOptions(episodes=(1,)))
    assert not (tmp_path / "none").exists() and not (tmp_path / "none.partial").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"form": "alpaca"}, "llamafactory"),
        ({"every": 0}, "every"),
        ({"stride_s": 0.0}, "stride_s"),
        ({"limit": 0}, "limit"),
        ({"quality": 101}, "quality"),
        ({"width_max": 0}, "width_max"),
        ({"split": {}}, "split"),
        ({"split": {"train": 0.5}}, "add up to 1"),
        ({"split": {"train": 1.5, "val": -0.5}}, "above 0"),
        ({"split": {"../x": 1.0}}, "letters"),
        ({"episodes": (7,)}, "known episode"),
        ({"components": ("ask_vq",)}, "did you mean ask_vqa"),
    ],
)
def test_impossible_options_are_refused_before_any_work(
    tabletop: Annotated, tmp_path: Path, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(SettingsError, match=match):
        export(tabletop, tmp_path / "chat", **options)
    assert not (tmp_path / "chat").exists() and not (tmp_path / "chat.partial").exists()


@pytest.mark.parametrize("text", ["train", "train:x", "train:0.5,train:0.5", ":1", ""])
def test_a_wrong_split_says_how_to_write_it(text: str) -> None:
    with pytest.raises(SettingsError, match=r"train:0.9,val:0.1"):
        parse_split(text)
    assert parse_split("train:0.9, val:0.1") == {"train": 0.9, "val": 0.1}


def test_a_camera_that_does_not_exist_is_named(tabletop: Annotated, tmp_path: Path) -> None:
    recipe = {"messages": [
        {"role": "user", "stream": "high_level", "content": [{"type": "image", "feature": "observation.images.frnt"}]},
        {"role": "assistant", "stream": "high_level", "content": "${subtask}", "target": True},
    ]}  # fmt: skip
    with pytest.raises(SettingsError, match="frnt") as info:
        export(tabletop, tmp_path / "chat", recipe)
    assert FRONT in info.value.remedy
    assert not (tmp_path / "chat").exists()


def test_an_output_that_cannot_be_written(tabletop: Annotated) -> None:
    with pytest.raises(CommitError):
        export(tabletop, Path("/proc/chat"))


def test_a_dataset_that_nobody_annotated(generated_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="annotate"):
        export_chat(generated_dataset, RECIPE, tmp_path / "chat")


def test_contradicting_rows_stop_it_unless_told_to_leave_them_out(tabletop: Annotated, tmp_path: Path) -> None:
    recipe = {"blend": {
        "any": {"weight": 1.0, "bindings": {"both": "emitted_at(t, style=vqa)"}, "messages": [
            {"role": "user", "stream": "high_level", "content": "${both}", "target": True}]},
        "subtask": {"weight": 1.0, "messages": [
            {"role": "user", "stream": "high_level", "content": "${subtask}", "target": True}]},
    }}  # fmt: skip
    with pytest.raises(AmbiguousRowsError, match="style=vqa"):
        export(tabletop, tmp_path / "chat", recipe)
    result = export(tabletop, tmp_path / "other", recipe, skip_ambiguous=True)
    assert result.components["any"] == 0 and result.components["subtask"] > 0
