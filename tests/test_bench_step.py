"""The benchmark of a training step compares like with like. Nothing about speed."""

import csv

import pytest
import torch

pytest.importorskip("timm.task", reason="timm before 1.0.24 has no distillation task to compare with")

from benchmarks import losses, step

from ida_lightning.modules import DistillationModule

CPU = torch.device("cpu")
TINY = ["--quick", "--classes", "10"]


@pytest.fixture
def bench():
    return step.Bench(step.parse(TINY))


def rows_of(folder):
    with (folder / "step_cpu.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == step.COLUMNS
        return list(reader)


@pytest.mark.slow
def test_quick_run_times_every_candidate_and_every_part(tmp_path, capsys):
    step.main([*TINY, "--out", str(tmp_path)])
    rows = rows_of(tmp_path)
    assert [row["name"] for row in rows if row["what"] == "candidate"] == list(step.CANDIDATES)
    parts = {row["name"]: row for row in rows if row["what"] == "part of kd_i"}
    assert tuple(parts) == step.PARTS
    for row in rows:
        assert all(row[column] for column in step.COLUMNS[:13]), row
        assert float(row["median_ms"]) > 0, row
        assert float(row["ratio_to_bare"]) > 0, row
    assert sum(float(row["share"]) for row in parts.values()) == pytest.approx(1, abs=0.2)  # each a median of its own
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*step.CANDIDATES, *step.PARTS, "budget 1.03", "budget 1.01", "budget 1.15"))


def test_only_some_candidates_within_minutes(tmp_path):
    step.main([*TINY, "--only", "kd", "--minutes", "1e-9", "--out", str(tmp_path)])
    assert [(row["name"], row["rounds"]) for row in rows_of(tmp_path)] == [("bare", "1"), ("kd", "1")]


def test_losses_are_timed_where_they_are_asked_for(tmp_path):
    step.main([*TINY, "--only", "kd", "dkd", "crd", "--minutes", "1e-9", "--out", str(tmp_path)])
    notes = {row["name"]: row["note"] for row in rows_of(tmp_path)}
    assert "of kd, budget 1.02; keeps 0.00 MB for its backward pass" in notes["dkd"]
    assert "of kd, budget 1.1" in notes["crd"]


def test_each_loss_is_timed_alone(tmp_path):
    losses.main(["--batch", "4", "--classes", "5", "--out", str(tmp_path)])
    with (tmp_path / "losses_cpu.csv").open(newline="") as file:
        rows = {row["loss"]: row for row in csv.DictReader(file)}
    assert {"kl", "dkd", "rank", "crd", "rkd"} <= rows.keys()
    assert all(float(row["ms"]) > 0 for row in rows.values())
    assert float(rows["rank"]["kept_mb"]) >= 0


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_bare_and_timm_pay_the_loss_of_the_module(precision):
    bench = step.Bench(step.parse([*TINY, "--precision", precision]))
    batch = next(bench.batches(1))
    teacher, student = bench.networks()
    module = DistillationModule(teacher, student, 10)
    module.setup("fit")
    student.eval()  # each of the three passes would change what BatchNorm remembers
    with bench.autocast():
        expected = sum(module.loss_parts(module(batch.inputs), module.supervise(batch)).values())
    torch.testing.assert_close(bench.loss(teacher, student, batch), expected)
    if precision == "32":  # in bfloat16 timm's softmax on a CPU has few digits
        task = bench.task(teacher, student)
        student.eval()
        torch.testing.assert_close(task(batch.inputs, batch.label_mix.dense(10))["loss"], expected)


def test_bare_loop_and_trainer_take_the_same_steps(bench):
    trained = [bench.candidates[name](step.Clock(CPU, 3)).state_dict() for name in ("bare", "kd")]
    for name, before in bench.student.state_dict().items():
        torch.testing.assert_close(trained[0][name], trained[1][name], msg=name)
        assert before.numel() == 1 or not torch.equal(before, trained[0][name]), name


def test_layouts_and_inference_mode_take_the_same_steps(bench):
    trained = {n: bench.candidates[n](step.Clock(CPU, 2)) for n in ("kd", "kd_channels_last", "kd_inference")}
    for name, network in trained.items():
        torch.testing.assert_close(network.state_dict(), trained["kd"].state_dict(), rtol=1e-3, atol=1e-4, msg=name)
    weights = [m.weight for m in trained["kd_channels_last"].modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


def test_corrections_of_all_kinds_take_the_same_steps(bench):
    names = ("kd", "kd_measure", "kd_i", "kd_i_python", "kd_i_python_lists", "parts")
    weights = {name: bench.candidates[name](step.Clock(CPU, 3)).get_parameter("fc.weight") for name in names}
    torch.testing.assert_close(weights["kd_measure"], weights["kd"], rtol=0, atol=0)
    assert not torch.equal(weights["kd_i"], weights["kd"])
    for name in ("kd_i_python", "kd_i_python_lists", "parts"):
        torch.testing.assert_close(weights[name], weights["kd_i"], msg=name)


def test_picking_costs_one_more_batch_of_the_teacher_only(bench, monkeypatch):
    networks = bench.networks
    for name, expected in (("tl_cutmix", (2, 2)), ("cutmix_pick", (3, 2))):
        rows = {"teacher": [], "student": []}

        def watched(rows=rows):
            both = networks()
            for network, seen in zip(both, rows.values(), strict=True):
                network.register_forward_pre_hook(lambda _, images, seen=seen: seen.append(len(images[0])))
            return both

        monkeypatch.setattr(bench, "networks", watched)
        bench.candidates[name](step.Clock(CPU, 1))
        batch = bench.options.batch
        tried = rows["teacher"].pop(0), *(count for count in rows["student"] if count <= 2)
        rows["student"] = [count for count in rows["student"] if count > 2]
        assert rows == {"teacher": 3 * [expected[0] * batch], "student": 3 * [expected[1] * batch]}
        assert max(tried) <= 2, "both are tried on blank images before training"


def test_clock_leaves_out_the_first_steps_and_adds_up_the_parts(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(step.time, "perf_counter", lambda: next(now))
    clock = step.Clock(CPU, 2)
    for _ in range(4):
        clock.start("[_TrainingEpochLoop].train_dataloader_next")
        clock.start("run_training_batch")
        clock.stop("run_training_batch")
        clock.stop("[_TrainingEpochLoop].train_dataloader_next")
        with clock.profile("teacher"):
            pass
        clock.tick()
    assert clock.ms() == 5000
    assert clock.parts() == {"teacher": 1000, "student": 0, "data": 1000, "correction": 0, "rest": 3000}


def test_no_block_sees_the_end_of_an_epoch(bench):
    assert sum(1 for _ in bench.batches(10**6)) > max(50, step.WARMUP + bench.options.steps)
