"""Both sides are read with clear errors, and episodes that do not fit are named and left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.dataset.generate import generate, truth_path
from tasks.dataset.layout import open_dataset
from tasks.errors import DatasetError, SettingsError
from tasks.evaluate.compare import evaluate
from tasks.evaluate.report import MEASURES
from tasks.evaluate.source import load
from tasks.evaluate.truth import read_truth
from tasks.language.rows import Row
from tasks.segments import Span
from tasks.staging import Staging
from tasks.write import write_dataset
from tests.evaluate.answers import CAMERA, true_answers, vqa_rows

SIZE = (160, 120)


def annotate_with_truth(root: Path, output: Path, leave_out: tuple[int, ...] = ()) -> Path:
    """What an annotator without fault would write, for all episodes but some."""
    dataset, truth = open_dataset(root), read_truth(truth_path(root))
    staging = Staging(output.with_name(f"{output.name}-staging"))
    modules: dict[int, list[str]] = {}
    for episode, known in zip(dataset.episodes(), truth.episodes, strict=True):
        if episode.episode_index in leave_out:
            continue
        plan = [Row("assistant", s.text, "subtask", episode.snap(s.start)) for s in known.subtasks]
        vqa: list[Row] = []
        for frame in range(0, episode.frames, 5):
            said = true_answers(known, frame, episode.times[frame], SIZE)
            vqa += vqa_rows(episode.times[frame], CAMERA, said[frame // 5 % len(said)])
        for module, rows in (("plan", plan), ("vqa", vqa)):
            staging.write(episode.episode_index, module, rows, key="k", facts={})
        modules[episode.episode_index] = ["plan", "vqa"]
    provenance = {"runs": [{"model": "oracle", "asked": 60, "skips": {"vqa_bbox": 3}, "failures": []}]}
    write_dataset(dataset, staging, modules, output=output, provenance=provenance, drop_subtask_index=True)
    return output


def write_truth(path: Path, *episodes: dict[str, Any], **more: Any) -> Path:
    path.write_text(json.dumps({"fps": 10, **more, "episodes": list(episodes)}))
    return path


def episode(index: int = 0, *cuts: float, end: float = 4.0, **more: Any) -> dict[str, Any]:
    edges = [0.0, *cuts, end]
    spans = [{"text": f"step {i}", "start": edges[i], "end": edges[i + 1]} for i in range(len(edges) - 1)]
    return {"episode_index": index, "frames": round(end * 10), "subtasks": spans, **more}


# ------------------------------------------------------------------------------------------------ truth


def test_truth_against_itself_is_one_throughout(generated_dataset: Path) -> None:
    truth = load(truth_path(generated_dataset))
    result = evaluate(truth, truth)
    assert len(result.episodes) == 3
    assert {m.name: (result.micro(m.name), result.macro(m.name)) for m in MEASURES} == {
        m.name: (1.0, 1.0) for m in MEASURES
    }
    assert result.offset_s == 0.0 and result.worst() == [] and result.warnings == []


def test_an_annotator_without_fault_scores_as_the_truth(generated_dataset: Path, tmp_path: Path) -> None:
    found = load(annotate_with_truth(generated_dataset, tmp_path / "perfect"))
    result = evaluate(found, load(truth_path(generated_dataset)))
    exact = ("boundary_f1_0.5s", "f1_50", "edit", "label_exact", "label_token_f1", "frame_accuracy")
    assert {name: result.micro(name) for name in exact} == dict.fromkeys(exact, 1.0)
    assert result.micro("iou") > 0.97, "times lie on frames"  # type: ignore[operator]
    assert result.offset_s <= 0.05 + 1e-6  # type: ignore[operator]
    visual = result.visual
    assert set(visual) == {"bbox", "keypoint", "count", "attribute", "spatial"}
    for kind, scores in visual.items():
        assert scores.compared == scores.root > 0
        for name, score in scores.scores.items():
            assert score.value == pytest.approx(0.0 if name.startswith("distance") else 1.0), (kind, name)
    assert (result.root.frames_with_subtask, result.root.frames) == (120, 120)
    assert result.root.rows == {"subtask": 6, "vqa": 48}
    assert result.root.skipped_share == pytest.approx(0.05) and result.root.model == "oracle"


def test_a_dataset_against_itself_is_one_in_visual_answers_too(generated_dataset: Path, tmp_path: Path) -> None:
    found = load(annotate_with_truth(generated_dataset, tmp_path / "perfect"))
    result = evaluate(found, found)
    assert all(result.micro(m.name) == 1.0 for m in MEASURES)
    for scores in result.visual.values():
        assert scores.compared == scores.root == scores.reference > 0
        values = {n: s.value for n, s in scores.scores.items()}
        assert values == {n: 0.0 if n.startswith("distance") else pytest.approx(1.0) for n in values}


def test_truth_made_by_hand_needs_little(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps({"episodes": [{"episode_index": 4, "subtasks": [{"text": "wave", "start": 0, "end": 2.5}]}]})
    )
    (found,) = load(path).episodes.values()
    assert (found.index, found.end_s, found.spans) == (4, pytest.approx(2.5, abs=0.5), [Span("wave", 0, 2.5)])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"episodes": []}', "episodes"),
        ('{"episodes": [{"episode_index": -1, "subtasks": []}]}', "episode_index"),
        ('{"episodes": [{"episode_index": 0, "subtasks": [{"text": "a", "start": 2, "end": 1}]}]}', "end after"),
        (json.dumps({"episodes": [episode(), episode()]}), "twice"),
        (
            json.dumps(
                {
                    "episodes": [
                        {
                            "episode_index": 0,
                            "subtasks": [{"text": "a", "start": 0, "end": 2}, {"text": "b", "start": 1, "end": 3}],
                        }
                    ]
                }
            ),
            "overlap",
        ),
    ],
)
def test_a_file_that_is_no_truth_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "truth.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=complaint):
        load(path)


def test_a_missing_side_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="annotated dataset folder or a truth"):
        load(tmp_path / "nothing")


# ------------------------------------------------------------------------------------------------ which episodes


def test_episodes_that_do_not_fit_are_named_and_left_out(tmp_path: Path) -> None:
    a = load(write_truth(tmp_path / "a.json", episode(0, 2.0), episode(1, 2.0), episode(2, 2.0), episode(3)))
    b = load(write_truth(tmp_path / "b.json", episode(0, 2.2), episode(1, 2.0, end=5.0), episode(2, 3.0), episode(7)))
    result = evaluate(a, b)
    assert [e.index for e in result.episodes] == [0, 2]
    warned = "\n".join(result.warnings)
    assert "only in root: 3" in warned and "only in the reference: 7" in warned
    assert "of another length in the reference: 1 (4.00 s, 5.00 s)" in warned
    with pytest.raises(SettingsError, match="episodes"):
        load(tmp_path / "a.json", [99])


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    a, b = (load(write_truth(tmp_path / f"{i}.json", episode(i))) for i in (0, 1))
    with pytest.raises(DatasetError, match="at least one episode"):
        evaluate(a, b)


def test_an_episode_without_rows_is_left_out_or_counts_as_nothing(generated_dataset: Path, tmp_path: Path) -> None:
    found = load(annotate_with_truth(generated_dataset, tmp_path / "partial", leave_out=(1,)))
    truth = load(truth_path(generated_dataset))
    left_out = evaluate(found, truth)
    assert [e.index for e in left_out.episodes] == [0, 2] and "not annotated in root: 1" in left_out.warnings[0]
    assert left_out.micro("boundary_f1_1s") == 1.0 and left_out.root.annotated == 2
    counted = evaluate(found, truth, missing_as_zero=True)
    assert [e.index for e in counted.episodes] == [0, 1, 2]
    assert counted.episodes[1].value("boundary_f1_1s") == 0.0 and counted.episodes[1].value("frame_accuracy") == 0.0
    assert counted.macro("boundary_f1_1s") == pytest.approx(2 / 3)
    assert counted.worst()[0].index == 1


def test_only_episodes_are_read(generated_dataset: Path, tmp_path: Path) -> None:
    found = annotate_with_truth(generated_dataset, tmp_path / "perfect")
    assert list(load(found, [2, 0, 99]).episodes) == [0, 2]


def test_a_dataset_without_language_columns_has_nothing_to_compare(generated_dataset: Path) -> None:
    plain = load(generated_dataset)
    assert not any(e.annotated for e in plain.episodes.values()) and plain.last_run is None
    with pytest.raises(DatasetError, match="not annotated in root: 0, 1, 2"):
        evaluate(plain, plain)


def test_pooling_weighs_spans_and_averaging_weighs_episodes(tmp_path: Path) -> None:
    a = load(write_truth(tmp_path / "a.json", episode(0, 1, 2, 3, end=10.0), episode(1, 8.0, end=10.0)))
    b = load(write_truth(tmp_path / "b.json", episode(0, 1, 2, 3, end=10.0), episode(1, 3.0, end=10.0)))
    result = evaluate(a, b)
    assert result.micro("boundary_recall_1s") == pytest.approx(3 / 4)
    assert result.macro("boundary_recall_1s") == pytest.approx(1 / 2)


def test_sides_may_have_different_rates(tmp_path: Path) -> None:
    a = load(write_truth(tmp_path / "a.json", episode(0, 2.0)))
    b = load(write_truth(tmp_path / "b.json", episode(0, 2.0) | {"frames": 120}, fps=30))
    assert evaluate(a, b).micro("frame_accuracy") == 1.0


# ------------------------------------------------------------------------------------------------ motion


def test_motion_meets_its_bar_on_a_generated_dataset(tmp_path: Path) -> None:
    from flows.inline import annotate_inline
    from tasks.settings import AnnotateSettings

    root = generate(tmp_path / "d", episodes=6, seconds=10.0, fps=10, size=(64, 48), seed=5, noise=0)
    annotate_inline(AnnotateSettings(root=root))
    result = evaluate(load(root), load(truth_path(root)))
    assert len(result.episodes) == 6 and result.root.frames_with_subtask == result.root.frames
    assert result.micro("boundary_f1_1s") >= 0.9  # type: ignore[operator]
    assert result.visual["attribute"].scores["exact"].value >= 0.95  # type: ignore[operator]
