import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from benchmarks import __main__ as command
from benchmarks import cuda, gradient, harness, plain, problems, scale, small
from benchmarks.growth import line
from benchmarks.harness import Row
from mtt.functional import as_function
from mtt.unroll import Step, match

# The table of "Fast and flat": script, name, how many rows, must, aim.
TABLE = [
    ("gradient", "gradient, float64, relative to plain", 2, 1e-11, None),
    ("gradient", "a step's derivatives, float32 to float64", 2, 1e-5, 1e-6),
    ("gradient", "unroll's error in float32 / plain's", 2, 1.1, 1.0),
    ("unroll", "iteration, time / plain", 2, 0.60, 0.45),
    ("unroll", "iteration, time / plain", 1, 1.2, 0.9),
    ("unroll", "iteration, memory / plain", 1, 0.30, 0.20),
    ("unroll", "iteration, memory / plain", 1, 0.20, 0.10),
    ("unroll", "memory, N 80 / N 5, less the N+1 vectors", 2, 1.10, 1.0),
    ("experts", "experts, images per second / plain", 1, 2.5, 4),
    ("experts", "experts, images per second / plain", 1, 1.5, 2),
    ("evaluation", "evaluation, 5 networks, time / plain", 2, 0.5, 0.3),
    ("evaluation", "evaluation, 5 networks, time / plain", 2, 0.75, 0.5),
    ("buffers", "open buffer, read a segment, time / plain", 1, 0.01, None),
    ("buffers", "pages read / (2 P x 4 bytes + 1 MiB)", 1, 1.0, None),
    ("buffers", "distill's memory, 100 experts / 10", 2, 1.05, None),
    ("cuda", "a step's derivatives, float32 to float64", 2, 1e-5, 1e-6),
    ("cuda", "iteration, time / plain", 4, 0.5, 0.25),
    ("cuda", "iteration, memory / plain", 4, 0.2, 0.1),
    ("cuda", "experts, images per second / plain", 1, 3, 6),
]


def test_the_plain_way_takes_at_most_sixty_lines():
    assert len((ROOT / "benchmarks/plain.py").read_text().splitlines()) <= 60


def test_the_plain_way_and_ours_give_the_same_gradient():
    """So that what is timed is the same thing."""
    net, *rest = problems.matching(4, 3, 4, 3, 8, depth=2, dtype=torch.float64)
    for found, wanted in zip(match(Step(as_function(net)), *rest), plain.match(net, *rest), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    ("value", "must", "at_most", "met"),
    [(0.6, 0.6, True, True), (0.61, 0.6, True, False), (2.5, 2.5, False, True), (2.4, 2.5, False, False)]
    + [(None, 0.6, True, None), (None, 2.5, False, None), (7.0, None, True, None), (float("nan"), 0.6, True, False)],
)
def test_a_must_is_met_on_its_own_side_and_what_was_not_measured_is_neither(value, must, at_most, met):
    assert Row("row", "case", value, must, None, at_most).met is met


def test_a_row_is_stored_under_the_names_that_scripts_rely_on():
    plain_row, timed = Row("a", "b", 0.123456789, 1.0, 0.5), Row("a", "b", 0.5, 1.0, fractions=(0.25, 0.5))
    assert plain_row.record() == {"name": "a", "case": "b", "value": 0.123457, "must": 1.0, "aim": 0.5, "met": True}
    assert list(timed.record()) == ["name", "case", "value", "must", "aim", "met", "plain_of_bare", "ours_of_bare"]


@pytest.mark.parametrize(("values", "status"), [([0.5, None], 0), ([0.5, 1.5], 1), ([], 0)])
def test_the_exit_status_is_one_where_a_must_is_missed(values, status, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cuda, "rows", lambda: [Row("row", "case", value, 1.0) for value in values])
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    assert command.main(["cuda"]) == status
    assert [row["value"] for row in json.loads((tmp_path / "cuda.json").read_text())] == values
    assert ("NO" in capsys.readouterr().out) == bool(status)


def test_what_was_measured_elsewhere_stays_where_it_cannot_be_measured_here_and_not_where_it_failed(monkeypatch, tmp_path):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    for values, wanted in (([0.5, 0.6], [0.5, 0.6]), ([None, 0.7], [0.5, 0.7])):
        harness.store("cuda", [Row("row", str(number), value, 1.0, note="no GPU here") for number, value in enumerate(values)])
        assert [row["value"] for row in json.loads((tmp_path / "cuda.json").read_text())] == wanted
    harness.store("cuda", [Row("row", "0", None, 1.0, note=harness.FAILED), Row("row", "new", None, 1.0)])
    assert [row["value"] for row in json.loads((tmp_path / "cuda.json").read_text())] == [None, None]


def test_an_error_that_is_no_number_is_none_that_a_must_could_be_held_to():
    """max(1e-16, nan) is 1e-16."""
    with pytest.raises(ArithmeticError, match="found an error of nan"):
        gradient.relative(torch.tensor([float("nan")]), torch.ones(1))
    assert gradient.relative(torch.tensor([1.5]), torch.ones(1)) == 0.5


def test_the_table_shows_on_which_side_of_its_must_a_row_is_to_be():
    lines = harness.table([Row("a", "b", 3.0, 2.5, 4, False), Row("a", "b", None, 0.6, note="no GPU here")]).splitlines()
    assert all(word in lines[1] for word in (">= 2.5", ">= 4", "yes"))
    assert all(word in lines[2] for word in ("not measured", "<= 0.6", "no GPU here"))


def stored(script):
    return json.loads((ROOT / f"results/benchmarks/{script}.json").read_text())


def test_results_show_the_committed_rows():
    found = re.search("<!-- bench -->\n(.*?)<!-- /bench -->", (ROOT / "RESULTS.md").read_text(), re.S)[1]
    assert found == harness.markdown([row for script in command.SCRIPTS for row in stored(script)])


@pytest.mark.parametrize("script", command.SCRIPTS)
def test_the_committed_results_hold_every_row_with_its_must(script):
    """A row that was not measured stands there with null."""
    found = [(row["name"], row["must"], row["aim"]) for row in stored(script) if row["must"] is not None]
    assert sorted(found, key=str) == sorted([(*row[1:2], *row[3:]) for row in TABLE if row[0] == script for _ in range(row[2])], key=str)


def test_the_committed_rows_of_cuda_are_those_that_it_measures(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    wanted = [(row.name, row.case) for row in cuda.rows()]
    assert [(row["name"], row["case"]) for row in stored("cuda")] == wanted


@pytest.mark.parametrize("script", command.SCRIPTS)
def test_the_committed_results_say_truly_what_is_met_and_the_log_names_each_miss(script):
    for row in stored(script):
        at_most = not (row["must"] and row["aim"] and row["aim"] > row["must"])
        assert Row(row["name"], row["case"], row["value"], row["must"], row["aim"], at_most).met is row["met"]
        assert row["met"] is not False or row["name"] in (ROOT / "LOG.md").read_text()


@pytest.mark.parametrize(("name", "script"), [("small", small), ("scale", scale)])
def test_results_show_the_committed_records(name, script):
    found = re.search(f"<!-- {name} -->\n(.*?)<!-- /{name} -->", (ROOT / "RESULTS.md").read_text(), re.S)[1]
    assert found == script.markdown(stored(name))


def test_the_committed_buffers_are_of_what_was_asked():
    """All four forms of each set, over as many distillation seeds; the rounded ones take half the bytes."""
    records = stored("small")
    names = list(dict.fromkeys(record["set"] for record in records))
    assert [(record["set"], record["dtype"]) for record in records] == [(name, dtype) for name in names for dtype, _ in small.BUFFERS]
    assert set(names) <= set(small.SETS)
    for whole, exact, *rounded in (records[4 * number : 4 * number + 4] for number in range(len(names))):
        assert exact["bytes"] < whole["bytes"]
        for record in rounded:
            assert record["bytes"] == pytest.approx(exact["bytes"] / 2, rel=0.02)
            assert len(record["accuracies"]) == len(record["losses"]) == len(small.SEEDS)


def test_the_committed_simulation_is_of_a_thousand_experts():
    assert [(record["experts"], record["snapshots"], record["objects"]) for record in stored("scale")] == [(10, 51, 12), (1000, 51, 1002)]


class Segments:
    """A buffer of one expert at 0, 1, 2, ... in each of two parameters, `off` in the second."""

    experts = (0,)

    def __init__(self, off):
        self.off = off

    def segment(self, expert, start, epochs):
        return [torch.tensor([epoch, epoch + self.off * epoch]) for epoch in (start, start + epochs)]


def test_the_error_of_a_segment_is_in_lengths_of_the_segment():
    assert small.error(Segments(0.0), Segments(0.0), 3, 2) == 0
    assert small.error(Segments(0.0), Segments(0.5), 3, 2) == pytest.approx(0.5 / 2**0.5)


@pytest.mark.slow
def test_simulated_experts_go_through_buffer_push_partial_pull_and_distill():
    """In clones of what is committed."""
    found = scale.measure(10, 11)
    assert found["objects"] == 12
    assert all(seconds > 0 for seconds in found["seconds"].values())


def test_a_straight_line_is_found_again():
    fit = line([1, 2, 5], [4.0, 6.0, 12.0])
    assert (fit["slope"], fit["intercept"], fit["r2"]) == pytest.approx((2, 2, 1))


@pytest.mark.slow
def test_a_row_is_measured_in_processes_of_its_own():
    """Of the smallest size, ours without compiling."""
    found = harness.in_turn(
        1,
        plain=lambda: harness.measured("unroll", "plain", 2, 2, 4),
        ours=lambda: harness.measured("unroll", "ours", 2, 2, 4, 0),
        bare=lambda: harness.measured("bare", "convolutions", 2, 4, 3, 32),
    )
    assert all(harness.median(results, "seconds") > 0 for results in found.values())
    assert all(found[way][0]["memory"] > 0 for way in ("plain", "ours"))


@pytest.mark.slow
def test_processes_that_start_together_take_turns(tmp_path):
    """No one begins a round before all are ready for it, and none measures while another does."""
    work = "lambda: (time.monotonic(), time.sleep(0.05), time.monotonic())[::2]"
    script = f"import json, time; from benchmarks import harness; print(json.dumps(harness.turns(3, {work})))"
    environment = {**os.environ, "BENCHMARK_TURNS": f"2:{tmp_path}"}
    running = [
        subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    first, second = [json.loads(process.communicate()[0]) for process in running]
    rounds = [sorted(each) for each in zip(first, second, strict=True)]
    ordered = [moment for each in rounds for span in each for moment in span]
    assert len(rounds) == 3
    assert ordered == sorted(ordered)


PARTS = """
import sys
from functools import partial
from benchmarks import harness
late = partial(next, iter([1]))  # there is no second
harness.main({"sound": lambda: harness.turns(3, lambda: 1), "early": lambda: sys.exit(2), "late": lambda: harness.turns(3, late)})
"""


@pytest.mark.slow
def test_of_processes_that_take_turns_those_that_fail_are_lost_alone(tmp_path, monkeypatch):
    """Before all are there, or in a later round: the others wait for them no longer."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/__init__.py").write_text(f"__path__.append({str(ROOT / 'benchmarks')!r})")
    (tmp_path / "benchmarks/parts.py").write_text(PARTS)
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    assert harness.by_turns("parts", [("sound",), ("early",), ("late",)], PYTHONPATH=str(ROOT)) == [[1, 1, 1], None, None]


def test_rows_of_cuda_that_a_failed_part_was_to_measure_say_so_and_the_others_stand(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    value = {"seconds": 1.0, "memory": 1, "error": 1e-7}
    lost = [("our_experts",), ("step", "TF32", 0, 100, 10)]
    monkeypatch.setattr(harness, "by_turns", lambda script, parts, **_: [None if part in lost else value for part in parts])
    monkeypatch.setattr(harness, "side_by_side", lambda script, parts, lose, **_: [None if part in lost else value for part in parts])
    failed = [row for row in cuda.rows() if row.note == harness.FAILED]
    assert [(row.value, row.met) for row in failed] == [(None, None)] * 2
    assert {row.name for row in failed} == {"experts, images per second / plain", "a step's derivatives, float32 to float64"}
    assert all(row.note == "a GPU" and row.value is not None for row in cuda.rows() if row.note != harness.FAILED)
    assert harness.status(failed) == 1


@pytest.mark.slow
def test_a_measurement_that_fails_says_so():
    with pytest.raises(ChildProcessError, match=r"benchmarks\.unroll nothing ended with \[1\]"):
        harness.measured("unroll", "nothing")
