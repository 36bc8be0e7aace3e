"""Runs that show the same pictures to the same teacher ask it once, and learn what they learn without."""

import json
from pathlib import Path

import pytest
import yaml

from ida_lightning.__main__ import main
from ida_lightning.studies.compare.cells import Cell, digest_of, teacher_of
from ida_lightning.studies.compare.estimates import timed
from ida_lightning.studies.compare.settings import read_settings
from ida_lightning.studies.compare.sharing import Sharing
from tests.helpers.comparisons import METHODS, cell, rows_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
SELECTION = {"class_path": "DataSelectionCallback", "init_args": {"score": "violation", "folder": "scores"}}
LONGER = {"trainer": {"max_epochs": 3}}
SHARED = {
    **METHODS,
    "longer": LONGER,
    "selection": {"trainer": {"callbacks": [SELECTION]}},
    "mixup": {"data": {"init_args": {"mixing": {"kind": "mixup"}}}},
}
FIGURES = ("last", "best", "logged", "steps", "initial_weights", "config_sha256")


def results_in(folder):
    found = {}
    for path in sorted(Path(folder).rglob("cell.json")):
        result = json.loads(path.read_text())
        found[result["method"], result["seed"]] = result
    return found


def same(one, other):
    assert one.keys() == other.keys()
    for key, result in one.items():
        assert {name: result[name] for name in FIGURES} == {name: other[key][name] for name in FIGURES}, key


def test_results_are_those_without_sharing(files):
    main(files(methods=SHARED, seeds=[0], share_teacher=False, output="apart"))
    main(files(methods=SHARED, seeds=[0], output="together"))
    apart, together = results_in("apart"), results_in("together")
    same(apart, together)
    words = {method: result["answers"] for (method, _), result in together.items()}
    assert words["student"] is None
    assert words["longer"] == "recorded", "only the longest has asked enough"
    assert words["kd_aug"] == words["control"] == "stored"
    assert words["selection"] == "live", "its scores need the teacher itself"
    assert words["mixup"] == "live", "nobody else sees these pictures"
    assert {result["answers"] for result in apart.values()} == {None, "live"}
    batches = [(result["live_batches"], result["stored_batches"]) for result in together.values()]
    live, stored = (sum(counts) for counts in zip(*batches, strict=True))
    summary = Path("together/summary.md").read_text()
    assert f"The teacher answered {live} of {live + stored} batches, {stored} answers were replayed." in summary
    assert "With the teacher itself: selection, seed 0; mixup, seed 0." in summary
    assert "replayed" not in Path("apart/summary.md").read_text()
    assert not Path("together/teacher_outputs").exists(), "the space is freed"


@pytest.mark.slow
def test_results_side_by_side_are_those_without_sharing(files):
    methods = {"kd_aug": {}, "control": METHODS["control"]}
    main(files(methods=methods, seeds=[0], share_teacher=False, output="apart"))
    main([*files(methods=methods, seeds=[0], output="together"), "--jobs", "2"])
    same(results_in("apart"), results_in("together"))
    assert {result["answers"] for result in results_in("together").values()} == {"recorded", "stored"}


def test_answers_are_kept_when_asked_and_used_again(files, capsys):
    methods = {"kd_aug": {}, "control": METHODS["control"]}
    main(files(methods=methods, keep_answers=True, seeds=[0]))
    (folder,) = Path("out/teacher_outputs").iterdir()
    assert {path.name for path in folder.glob("*.npy")} == {"epoch_0000-rank_0.npy", "epoch_0001-rank_0.npy"}
    for method in methods:
        cell(method, 0).unlink()
    main(files(methods=methods, keep_answers=True, seeds=[0]))
    assert [row["answers"] for row in rows_of("results")] == ["stored", "stored"]


def test_a_folder_of_ones_own_has_one_for_each_seed(files):
    cycle = {"model": {"init_args": {"teacher_outputs": {"folder": "answers", "cycle": 1}}}}
    main(files(methods={"kd_aug": {}, "cycle": cycle}))
    results = results_in("out")
    assert {results["cycle", seed]["answers"] for seed in (0, 1)} == {"recorded"}
    assert [results["cycle", seed]["live_batches"] for seed in (0, 1)] == [4, 4]
    assert {path.name for path in Path("answers").iterdir()} == {"seed_0", "seed_1"}


def test_answers_that_a_killed_comparison_left_are_freed(files):
    left = Path("out/teacher_outputs/0123456789abcdef")
    left.mkdir(parents=True)
    (left / ".lock-rank_0").touch()
    (left.parent / ".lock-host-1").touch()
    (left.parent / ".holder-host-2").write_text("{}")
    main(files(methods={"student": METHODS["student"]}, reference="student", seeds=[0]))
    assert not left.parent.exists()


def made(method, seed=0, epochs=2, **init_args):
    model = {"init_args": {"teacher": "t", "teacher_outputs": None, **init_args}}
    config = {"model": model, "trainer": {"max_epochs": epochs}, "data": {"seed": seed}}
    return Cell(method, seed, Path(method), config, "", None, False)


def settings_of(files, **changes):
    files(methods={"kd_aug": {}}, **changes)
    return read_settings(["compare.yaml"])


def test_the_recorder_changes_among_the_longest(files):
    cells = [made(name, seed, epochs) for seed in (0, 1, 2) for name, epochs in (("a", 2), ("b", 3), ("c", 3))]
    sharing = Sharing(cells, settings_of(files))
    assert [cell.method for cell in sharing.cells] == ["b", "a", "c", "c", "a", "b", "b", "a", "c"]
    assert len({cell.answers for cell in sharing.cells}) == 3


def test_prolonged_runs_are_as_long_as_they_are(files):
    twice = made("twice")
    twice = twice._replace(config={**twice.config, "epoch_factor": 2.0})
    sharing = Sharing([made("a"), twice, made("c", epochs=3)], settings_of(files))
    assert [cell.method for cell in sharing.cells] == ["twice", "a", "c"]


def test_others_wait_until_one_has_recorded(files):
    sharing = Sharing([made("a"), made("b"), made("c"), made("other", teacher="u")], settings_of(files))
    a, b, c, other = sharing.cells
    assert other.answers is None
    sharing.start(a)
    assert [sharing.may_start(cell) for cell in (b, c, other)] == [False, False, True]
    sharing.end(a, finished=False)
    sharing.start(b)
    assert not sharing.may_start(c), "the next one records"
    sharing.end(b, finished=True)
    sharing.start(c)
    assert sharing.may_start(c)


def test_a_folder_of_ones_own_is_not_replaced(files):
    cells = [made("a", teacher_outputs={"folder": "mine"}), made("b"), made("c", temperature=2.0)]
    a, b, c = Sharing(cells, settings_of(files)).cells
    assert a.answers is None
    assert b.answers == c.answers is not None
    assert {cell.answers for cell in Sharing(cells, settings_of(files, share_teacher=False)).cells} == {None}


def test_views_that_ask_about_the_same_images_share(files):
    several = [{"network": "t", "checkpoint": "a"}, {"network": "u", "checkpoint": "b"}]
    cells = [
        made("mixed"),
        made("plain", teacher_view="plain", teacher_blend=None),
        made("logits", teacher_view="plain_logits"),
        made("as_ever", teacher_view="mixed", teacher_classes=None),
        made("mirrored", teacher_view="mirrored"),
        made("two", teacher=several),
        made("trusted", teacher=several, teacher_blend={"trust": "violation"}),
    ]
    shared = {cell.method: cell.answers for cell in Sharing(cells, settings_of(files)).cells}
    assert shared["plain"] == shared["logits"] is not None
    assert shared["mixed"] == shared["as_ever"] is not None
    assert shared["two"] == shared["trusted"] is not None
    assert shared["mirrored"] is None
    assert len(set(shared.values())) == 4


def test_files_of_several_teachers_are_told_apart(tmp_path):
    entries = [{"network": "t", "checkpoint": str(tmp_path / name)} for name in "ab"]
    paths = teacher_of({"model": {"init_args": {"teacher": entries, "teacher_checkpoint": None}}})
    assert digest_of(paths) is None
    for name in "ab":
        Path(tmp_path, name).write_text(name)
    first = digest_of(paths)
    assert first != digest_of(paths[::-1])
    Path(tmp_path, "b").write_text("other")
    assert first != digest_of(paths) is not None


def test_only_times_of_one_kind_are_compared():
    results = [{"answers": word} for word in ("live", "recorded", "stored", None)]
    assert timed(results) == results[2:]
    assert timed(results[:2]) == results[:2]
    assert timed([{}, {}]) == [{}, {}], "results of before"


def test_newer_arguments_at_their_defaults_change_no_digest(files):
    from ida_lightning.studies.compare.cells import _decisive

    new = made("a", hard_temperature=1.0, distillation={"class_path": "ida_lightning.KL", "init_args": {}}).config
    old = yaml.safe_load(yaml.safe_dump(new))
    for name in ("teacher_outputs", "hard_temperature", "distillation"):
        del old["model"]["init_args"][name]
    assert _decisive(new) == _decisive(old)
    assert _decisive(made("a", hard_temperature=2.0).config) != _decisive(old)
    export = {"class_path": "ExportCallback", "init_args": {"path": "net.safetensors"}}
    for artifact, same in ((False, True), (True, False)):
        newer = {**export, "init_args": {**export["init_args"], "artifact": artifact}}
        configs = [{**old, "trainer": {**old["trainer"], "callbacks": [callback]}} for callback in (export, newer)]
        assert (_decisive(configs[0]) == _decisive(configs[1])) is same
