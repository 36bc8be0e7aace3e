"""The benchmark times what it says, and the table in docs/solvers.md is what it measured. Nothing about speed."""

import csv

import pytest
import torch
from benchmarks import _baselines, _timing, before_after, isotonic, table
from benchmarks._cells import allowed_error, error_of, make_cell
from benchmarks._report import COLUMNS

from ida_lightning import LabelMix, violated_rows
from tests.helpers.devices import DEVICES

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    isotonic.main(["--quick", "--threads", "1", "--out", str(out)])
    return out


def lines_of(folder):
    with (folder / "isotonic_cpu.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return list(reader)


def test_quick_run_has_a_line_for_every_candidate_of_every_cell(quick):
    lines = lines_of(quick)
    cells = {(line["B"], line["c"], line["dtype"], float(line["violation_rate"])) for line in lines}
    assert cells == {("8", c, d, r) for c in ("10", "50") for d in ("float32", "bf16") for r in (0.0, 0.5, 1.0)}
    assert len(lines) == len(cells) * len(isotonic.CANDIDATES)
    assert {line["candidate"] for line in lines} == set(isotonic.CANDIDATES) >= {"threshold", "triton", "weak_order"}
    for line in lines:
        assert all(line[column] for column in ("device", "torch", "threads", "date", "commit")), line
        timed = float(line["median_ms"] or 0) > 0 and float(line["ratio_to_softmax"] or 0) > 0
        assert timed or line["note"], line
        assert not line["note"].startswith(("WRONG", "failed")), line
    always = {
        "threshold",
        "scipy",
        "sklearn",
        "python_merge",
        "python_merge_lists",
        "softmax",
        "softmax_kernel",
        "kl_forward_backward",
    }
    assert all(line["median_ms"] for line in lines if line["candidate"] in always)
    assert (quick / "isotonic_cpu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_every_candidate_gives_what_scipy_gives(rate, dtype, device):
    cell = make_cell(12, 30, rate, dtype, torch.device(device))
    for name, candidate in isotonic.candidates_of(cell, isotonic.solve).items():
        if candidate.call is not None and candidate.corrects:
            result = candidate.call()
            assert (result.dtype, result.shape) == (dtype, (12, 30)), name
            assert error_of(result, cell, rows=12) <= allowed_error(dtype), name


def test_the_check_notices_a_wrong_result():
    cell = make_cell(12, 30, 1.0, torch.float32, CPU)
    assert error_of(cell.soft_labels, cell) > allowed_error(torch.float32)
    bench = isotonic.Bench(isotonic.parse(["--quick"]))
    wrong = isotonic.Candidate(lambda: cell.soft_labels)
    assert bench._tried("scipy", wrong, cell, "float32") is None
    assert wrong.note.startswith("WRONG")


def test_python_merge_on_a_row_worked_out_by_hand():
    # 0.15 absorbs 0.45 (mean 0.3), which is not above 0.3; then 0.2 with 0.6 (0.4) takes in the 0.1 above it (0.3).
    rows = torch.tensor([[0.30, 0.15, 0.45, 0.10], [0.10, 0.20, 0.60, 0.10]])
    mix = LabelMix.pair(torch.tensor([0, 0]), torch.tensor([1, 1]), 0.7)
    expected = torch.tensor([[0.3, 0.3, 0.3, 0.1], [0.3, 0.3, 0.3, 0.1]])
    torch.testing.assert_close(_baselines.python_merge(rows, mix), expected)
    torch.testing.assert_close(_baselines.python_merge_lists(rows, mix), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "classes"), [(8, 10), (64, 100), (5, 3000)])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 1.0])
def test_violation_rate_is_as_asked(rate, rows, classes, dtype):
    cell = make_cell(rows, classes, rate, dtype, CPU)
    assert int(violated_rows(cell.soft_labels, cell.mix).sum()) == round(rate * rows)
    torch.testing.assert_close(cell.soft_labels.double().sum(1), torch.ones(rows).double(), rtol=0, atol=0.02)


def test_cells_over_a_budget_say_so(tmp_path):
    arguments = ["--quick", "--threads", "1", "--out", str(tmp_path)]
    isotonic.main([*arguments, "--memory-gb", "1e-9"])
    assert all(line["note"].startswith("skipped: up to") and not line["median_ms"] for line in lines_of(tmp_path))
    isotonic.main([*arguments, "--minutes", "1e-9", "--rates", "0.5"])
    assert all("minutes" in line["note"] and not line["median_ms"] for line in lines_of(tmp_path))
    isotonic.main([*arguments, "--call-seconds", "0", "--rates", "0.5", "--append"])
    rates = [line["violation_rate"] for line in lines_of(tmp_path)]
    assert set(rates) == {"0.5"}  # what is measured anew replaces what was there
    isotonic.main([*arguments, "--minutes", "1e-9", "--rates", "1", "--append"])
    assert {line["violation_rate"] for line in lines_of(tmp_path)} == {"0.5", "1.0"}
    assert not any(line["median_ms"] for line in lines_of(tmp_path))


def test_a_candidate_that_fails_becomes_a_note():
    def broken():
        raise RuntimeError("out of\n luck")

    bench = isotonic.Bench(isotonic.parse(["--quick"]))
    candidate = isotonic.Candidate(broken)
    assert bench._tried("threshold_compiled", candidate, make_cell(4, 5, 0.0, torch.float32, CPU), "float32") is None
    assert candidate.note == "failed: RuntimeError: out of luck"


def test_interleaved_runs_every_candidate_once_per_round(monkeypatch):
    seen = []
    # Slow enough not to be made a second time before it is timed; the last is too slow for all rounds.
    monkeypatch.setattr(_timing, "time_once", lambda call, device: call())
    calls = {name: lambda name=name, ms=ms: seen.append(name) or ms for name, ms in (("a", 30), ("b", 40), ("c", 900))}
    times = _timing.interleaved(calls, CPU, rounds=8, warmup=3, slow_ms=500, seconds_each=3)
    assert times == {"a": [30] * 8, "b": [40] * 8, "c": [900] * 3}
    rounds = [seen[:3], seen[3:5], seen[5:7], *(seen[7 + 3 * i : 10 + 3 * i] for i in range(3))]
    assert [sorted(names) for names in rounds] == [["a", "b", "c"], ["a", "b"], ["a", "b"], *[["a", "b", "c"]] * 3]
    assert len({tuple(names) for names in rounds[3:]} | {tuple(rounds[0])}) > 1
    assert _timing.ratio(times["c"], times["a"]) == 30


@pytest.mark.skipif("cuda" not in DEVICES, reason="needs CUDA")
def test_host_synchronisations_and_memory_are_counted():
    values = torch.rand(1000, 1000, device="cuda")
    assert _timing.host_syncs(lambda: values + 1) == 0
    assert _timing.host_syncs(lambda: (values[0, 0].item(), values.cpu())[1]) == 2
    assert _timing.peak_extra_mb(lambda: values + 1) == pytest.approx(4, rel=0.1)
    assert _timing.time_once(lambda: values + 1, values.device) > 0


CSV = (
    f"{','.join(COLUMNS)}\n"
    + """\
Tin can,2.99,2,2026-01-02,abc,256,100,float32,1.0,threshold,1,7.654,,,
Tin can,2.99,2,2026-01-02,abc,256,100,float32,0.5,threshold,1,0.456,,,
Tin can,2.99,2,2026-01-02,abc,256,21841,float32,1.0,threshold,1,12.5,,,
Tin can,2.99,2,2026-01-02,abc,256,100,float32,1.0,triton,,,,,needs CUDA
Tin can,2.99,2,2026-01-02,abc,256,1000,float32,0.5,scipy,1,1234.5,,,
Tin can,2.99,2,2026-01-02,abc,64,100,float32,0.5,sklearn,1,99,,,
Tin can,2.99,2,2026-01-02,abc,256,100,bf16,0.5,sklearn,1,99,,,
"""
)
BLOCK = """<!-- solvers:begin -->
| solver | when | c = 100 | c = 1000 | c = 21841 |
|---|---|---|---|---|
| `threshold` | `auto` on the CPU, and wherever `triton` cannot run | 7.7 / 0.46 | – / – | 12 / – |
| SciPy, row by row | to compare | – / – | – / 1,200 | – / – |

Time of one call as a multiple of `softmax(logits / T)` of the same batch (256 rows, float32), where every row / every \
second row breaks its order; – was skipped as too slow. Tin can, 2 threads, torch 2.99; 2026-01-02, commit abc; \
`make bench-isotonic`.

Figures for a GPU are still owed; `make gpu-check` and `python benchmarks/isotonic.py --device cuda` make them.
<!-- solvers:end -->"""


def test_table_comes_from_the_csv_and_stale_ones_are_noticed(tmp_path, capsys):
    results, page = tmp_path / "results", tmp_path / "solvers.md"
    results.mkdir()
    arguments = ["--results", str(results), "--page", str(page)]
    with pytest.raises(SystemExit, match="make bench-isotonic"):
        table.main(arguments)
    (results / "isotonic_cpu.csv").write_text(CSV)
    page.write_text("no place for it\n")
    with pytest.raises(SystemExit, match="solvers:begin"):
        table.main(arguments)
    stale = "# Title\n\n<!-- solvers:begin -->\nold\n<!-- solvers:end -->\n\nafter ≥\n"
    page.write_text(stale, encoding="utf-8")
    assert table.main([*arguments, "--check"]) == 1
    assert "solver table" in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == stale
    assert table.main(arguments) == 0
    assert page.read_text(encoding="utf-8") == f"# Title\n\n{BLOCK}\n\nafter ≥\n"
    assert table.main([*arguments, "--check"]) == 0
    (results / "isotonic_cpu.csv").write_text(CSV.replace("7.654", "3.21"))
    assert table.main([*arguments, "--check"]) == 1


def test_a_csv_of_a_gpu_gets_its_own_table(tmp_path):
    for device in ("cpu", "cuda"):
        (tmp_path / f"isotonic_{device}.csv").write_text(CSV.replace("Tin can", f"Tin {device}"))
    text = table.block(sorted(tmp_path.glob("*.csv")))
    assert text.count("| solver |") == 2
    assert "Tin cpu" in text
    assert "Tin cuda" in text
    assert "owed" not in text


def test_disturbed_figures_are_not_published(tmp_path):
    file = tmp_path / "isotonic_cpu.csv"
    file.write_text(
        CSV.replace("threshold,1,12.5,,,", "threshold,1,12.5,,,noisy: best 0.1 ms")
        + "Tin can,2.99,2,2026-01-02,abc,256,100,float32,0.5,softmax,1,1,,,noisy: best 0.1 ms\n"
    )
    assert "| 7.7 / noisy | – / – | noisy / – |" in table.block([file])


def test_two_checkouts_are_timed_in_turn(tmp_path):
    before_after.main([str(before_after.HERE), "--quick", "--out", str(tmp_path)])
    with (tmp_path / "before_after_cpu.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert (line["B"], line["c"], line["k"], line["rows"], line["budget"]) == ("8", "10", "2", "ordinary", "half")
    assert float(line["before"]) > 0 < float(line["after"])


def test_the_page_has_the_table_of_the_results_that_are_here():
    assert table.main(["--check"]) == 0
