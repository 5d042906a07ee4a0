"""What docs/ablations.md shows is what was run, and what it says to run is what is run."""

import itertools
import re
import shlex
import shutil
import subprocess

import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, TINY

from mtt import imageset
from mtt.buffer import Buffer
from mtt.imageset import ImageSet
from mtt.unroll import Step
from recipes.__main__ import update
from stages import check
from studies import ablations, choosing, comparison, coverage, probes, runs, successors, truncation
from studies.runs import Table, parameters, words

PAGE = (ROOT / "docs/ablations.md").read_text()
NUMBER = r"-?\d+\.\d+"
RUNS = {words(settings): settings for study in ablations.STUDIES.values() for settings in study}


@pytest.mark.parametrize("name", RUNS, ids=lambda name: name or "default")
def test_every_ablation_passes_the_check(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters("default", RUNS[name])))
    check.main()


def test_every_case_of_the_comparison_passes_the_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for (recipe, ipc), settings in comparison.CASES.items():
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters(recipe, {**settings, "distill.ipc": ipc, "baseline.ipc": ipc})))
        check.main()


@pytest.mark.parametrize("case", successors.CASES)
def test_every_idea_of_every_case_passes_the_check(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for idea in successors.tried(case):
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters(*successors.settings(case, idea))))
        check.main()


def test_the_tables_of_the_ideas_are_those_of_the_committed_rows():
    page = successors.PAGE.read_text()
    kept = Table(runs.RESULTS / "successors.csv", ["case", "idea", "seed"], runs.COLUMNS)
    assert runs.shown(page, successors.tables(kept)) == page
    assert all(f"<!-- {case} -->" in page for case in successors.CASES)
    results = (ROOT / "RESULTS.md").read_text()
    assert "<!-- successors -->" in results
    assert runs.shown(results, {"successors": successors.overview(kept)}) == results
    assert set(zip(kept.rows.case, kept.rows.idea, strict=True)) <= {
        (case, idea) for case in successors.CASES for idea in successors.tried(case)
    }
    assert {idea for case in successors.CASES for idea in successors.tried(case)} == {*successors.ideas(1, 1)}


def test_the_table_of_the_truncated_gradient_is_that_of_the_committed_rows():
    page = successors.PAGE.read_text()
    kept = Table(runs.RESULTS / "truncation.csv", ["case", "iteration", "steps", "rate"], truncation.COLUMNS)
    assert runs.shown(page, {"truncation": truncation.table(kept)}) == page
    assert "<!-- truncation -->" in page


@pytest.mark.slow
def test_the_truncated_gradient_nears_the_exact_one_as_the_steps_become_few_and_small(make_run):
    """Its error goes with alpha N; with a single step it is none."""
    run = make_run()
    for stage in ("prepare", "experts", "buffer", "distill"):
        run(stage)
    found, buffer = imageset.load("data/distilled/last.safetensors"), Buffer("data/buffer")
    each = {(n, rate): truncation.measure(found, buffer, ["crop"], 2, n, rate) for n, rate in ((1, 0.1), (4, 0.001), (4, 0.01), (4, 0.1))}
    assert each[1, 0.1]["error"] < 1e-5
    assert each[1, 0.1]["cosine"] == pytest.approx(1, abs=1e-5)
    assert each[4, 0.001]["error"] < 0.2 * each[4, 0.01]["error"] < 0.2 * each[4, 0.1]["error"]
    assert each[4, 0.1]["cosine"] < each[4, 0.01]["cosine"]


@pytest.mark.parametrize("study", [ablations, choosing, comparison, successors, truncation])
def test_a_name_that_a_study_does_not_know_is_refused_with_those_that_it_knows(study):
    with pytest.raises(ValueError, match="^found NAME=nosuch; wanted some of "):
        study.main("nosuch")


@pytest.mark.parametrize("name", choosing.RUNS)
def test_every_run_of_the_page_on_choosing_passes_the_check(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters("default", choosing.RUNS[name])))
    check.main()


def test_the_table_and_the_picture_of_the_page_on_choosing_are_those_of_the_committed_rows(tmp_path):
    page, kept = choosing.PAGE.read_text(), Table(runs.RESULTS / "choosing.csv", ["run", "iteration"], choosing.COLUMNS)
    assert runs.shown(page, {"choosing": choosing.table(kept)}) == page
    assert "<!-- choosing -->" in page
    pytest.importorskip("matplotlib")
    choosing.draw(kept, tmp_path / "choosing.svg")
    drawn, committed = ((folder / "choosing.svg").read_text() for folder in (tmp_path, ROOT / "docs"))
    assert re.sub(NUMBER, "", drawn) == re.sub(NUMBER, "", committed)
    places = [[float(number) for number in re.findall(NUMBER, picture)] for picture in (drawn, committed)]
    assert places[0] == pytest.approx(places[1], abs=1e-4)  # the last bits of logarithms are not the same on every machine


def test_each_bad_run_of_the_page_on_choosing_shows_its_fault():
    """As the page says by what it is known; so rows that do not show it may not be committed."""
    rows = pd.read_csv(runs.RESULTS / "choosing.csv").set_index("run")
    good, diverging, collapsed, ten, one = [rows.loc[name] for name in choosing.RUNS]
    assert diverging.step_size.max() / diverging.step_size.min() > 50 > 2 > good.step_size.max() / good.step_size.min()
    assert diverging.clamped.sum() > good.clamped.sum() == 0
    assert diverging.validation_accuracy.min() < good.validation_accuracy.min() - 0.3
    assert collapsed.likeness.iloc[-1] > 0.9 > good.likeness.iloc[-1]
    assert collapsed.loss.tail(5).mean() > 5 * good.loss.tail(5).mean()
    assert collapsed.validation_accuracy.tail(5).mean() < good.validation_accuracy.tail(5).mean() - 0.05
    assert one.loss.tail(5).mean() < ten.loss.tail(5).mean()
    assert one.validation_accuracy.tail(5).mean() < ten.validation_accuracy.tail(5).mean() - 0.02


@pytest.mark.slow
def test_the_curves_of_a_run_are_taken_every_so_many_iterations(tmp_path, monkeypatch):
    """Tiny; mean loss, last step size and validation of each stretch, likeness at the end."""
    monkeypatch.setenv("MTT_WORK", str(tmp_path / "work"))
    tiny = parameters("default", {})
    update(tiny, {**TINY, "distill": {**TINY["distill"], "ipc": 2, "iterations": 4, "validate": {**TINY["distill"]["validate"]}}}, "")
    tiny["baseline"]["ipc"] = 2
    monkeypatch.setattr(choosing, "parameters", lambda recipe, settings: tiny)
    monkeypatch.setattr(choosing, "EVERY", 2)
    found = choosing.curves({}, tmp_path / "run")
    written = pd.read_csv(tmp_path / "run/results/distill/curves.csv")
    assert [row["iteration"] for row in found] == [2, 4]
    assert [row["loss"] for row in found] == pytest.approx([written.loss[:2].mean(), written.loss[2:].mean()])
    assert [row["step_size"] for row in found] == written.step_size[1::2].tolist()
    assert [row["validation_accuracy"] for row in found] == pd.read_csv(tmp_path / "run/results/distill/validation.csv").iloc[:, 1].tolist()
    assert pd.isna(found[0]["likeness"])
    assert -1 <= found[1]["likeness"] <= 1


def expanded(command):
    """The settings that a `dvc exp run --queue` with lists of values queues, each as `words` has it, without the seed."""
    values = [setting.split("=", 1) for setting in shlex.split(command)[5::2]]
    choices = [[f"{key}={value}" for value in ([values] if values[0] == "[" else values.split(","))] for key, values in values]
    return {" ".join(sorted(word for word in each if not word.startswith("distill.seed"))) for each in itertools.product(*choices)}


def test_the_commands_of_the_page_queue_every_run_of_its_tables_and_no_other():
    commands = re.findall(r"^    (dvc exp run --queue .*)$", PAGE, re.M)
    queued = set().union(*map(expanded, commands))
    assert queued | {""} == set(RUNS)
    assert all("'distill.seed=0,1,2'" in command for command in commands)


def test_the_tables_of_the_page_are_those_of_the_committed_rows():
    kept = Table(runs.RESULTS / "ablations.csv", ["settings", "seed"], runs.COLUMNS)
    assert runs.shown(PAGE, ablations.tables(kept)) == PAGE
    assert set(kept.rows.settings) <= set(RUNS)
    drifts = Table(runs.RESULTS / "drift.csv", ["method", "seed", "steps"], ["distance", "accuracy"])
    parts = Table(runs.RESULTS / "layers.csv", ["loss", "seed", "start_epoch", "layer"], ["distance"])
    assert runs.shown(PAGE, probes.tables(drifts.rows, parts.rows)) == PAGE


def test_every_table_of_the_page_is_followed_by_what_it_says():
    for name in (*ablations.STUDIES, "layers", "drift"):
        assert re.search(f"<!-- /{name} -->\n\n\\*\\*", PAGE), name


def test_the_table_of_the_results_is_that_of_the_rows_of_the_comparison():
    kept = Table(runs.RESULTS / "comparison.csv", comparison.KEYS, comparison.COLUMNS)
    text = (ROOT / "RESULTS.md").read_text()
    assert runs.shown(text, comparison.tables(kept)) == text
    assert all(f"<!-- {name} -->" in text for name in comparison.tables(kept))
    assert set(zip(kept.rows.recipe, kept.rows.ipc, strict=True)) <= comparison.CASES.keys()


def test_the_table_of_what_sets_miss_is_that_of_the_committed_rows():
    kept = Table(runs.RESULTS / "coverage.csv", coverage.KEYS, coverage.COLUMNS)
    text = (ROOT / "RESULTS.md").read_text()
    assert runs.shown(text, {"coverage": coverage.table(kept)}) == text
    assert "<!-- coverage -->" in text
    assert (kept.rows.groupby("group").images.nunique() == 1).all()  # one grouping, to which the heads belong


def test_what_a_set_misses_is_counted_by_how_hard_an_image_is():
    """Two networks, seven images: the first is wrong on the three hardest, the second on all."""
    hard = torch.tensor([0, 0.05, 0.25, 0.3, 0.5, 0.55, 1])
    missed = torch.stack([hard >= 0.5, hard >= 0])
    found = {row["group"]: (row["images"], row["wrong"]) for row in coverage.rows("any", missed, hard)}
    assert found == {"none": (1, 0.5), "up to a quarter": (2, 1), "up to half": (2, 1.5), "more": (2, 2), "all": (7, 5)}
    (spread,) = [row["std"] for row in coverage.rows("any", missed, hard) if row["group"] == "all"]
    assert spread == 2  # of the population, as elsewhere


def test_a_network_that_has_learned_a_set_is_wrong_on_few_images_of_its_kind(make_run):
    """And one whose labels are all moved by one class is wrong on nearly all; each network is a training of its own."""
    run = make_run()
    run("prepare")
    run.set(network={"width": 16}, evaluate={"epochs": {"ConvNet": 60}})
    train = imageset.load("data/prepared/train.safetensors")
    x, y = train.normalised()[:200], train.labels[:200]
    right, moved = coverage.wrong([(x, y), (x, (y + 1) % 10)], 0.03, "set")
    assert right.float().mean() < 0.2
    assert moved.float().mean() > 0.9
    assert not torch.equal(*coverage.wrong([(x, y)] * 2, 0.03, "set"))


def test_experts_are_wrong_where_their_snapshots_are(make_run):
    """A row each, of the epoch that is asked for; an accuracy of the header's last epoch, on validation, is that of the last snapshot."""
    run = make_run()
    for stage in ("prepare", "experts", "buffer"):
        run(stage)
    shutil.copy("data/prepared/validation.safetensors", "data/prepared/test.safetensors")  # the part that headers have accuracies of
    buffer = Buffer("data/buffer")
    first, last = (coverage.wrong_experts(epoch) for epoch in (0, buffer.index["snapshots"] - 1))
    assert last.shape == (len(buffer.experts), len(imageset.load("data/prepared/test.safetensors").images))
    accuracies = pd.read_csv("results/buffer/experts.csv")
    for expert, mask in enumerate(last):
        of = accuracies[accuracies.expert == expert].sort_values("epoch")
        assert 1 - mask.float().mean().item() == pytest.approx(of.accuracy.iloc[-1], abs=1e-6)
    assert not torch.equal(first, last)


def test_a_study_that_has_all_its_rows_runs_no_stage(monkeypatch, tmp_path):
    """Though its experts are not there."""

    def fail(*words, **_):
        raise AssertionError(f"ran {words}")

    monkeypatch.setattr(runs, "stage", fail)
    monkeypatch.setattr(runs, "show", lambda *_: None)
    probes.main()
    coverage.main()
    along = Table(runs.RESULTS / "truncation.csv", ["case", "iteration", "steps", "rate"], truncation.COLUMNS)
    truncation.along("digits, 1", along)
    kept = Table(runs.RESULTS / "comparison.csv", comparison.KEYS, comparison.COLUMNS)
    comparison.one("default", 1, comparison.CASES["default", 1], 0, tmp_path, kept)
    assert not any(tmp_path.iterdir())
    with pytest.raises(AssertionError, match="ran"):
        comparison.one("default", 1, comparison.CASES["default", 1], 99, tmp_path, kept)


def test_no_method_that_learns_its_images_was_given_less_time_than_mtt():
    rows = Table(runs.RESULTS / "comparison.csv", comparison.KEYS, comparison.COLUMNS).rows
    for case, found in rows.groupby(["recipe", "ipc"]):
        seconds = found.groupby("method").seconds.mean()
        assert all(seconds[method] >= seconds["distilled"] for method in {"dc", "dsa", "dm"} & {*seconds.index}), case


def test_the_table_of_the_comparison_gathers_seeds_and_has_the_whole_set_once(tmp_path):
    kept = Table(tmp_path / "rows.csv", comparison.KEYS, comparison.COLUMNS)
    rows = []
    for seed, mean in enumerate((0.5, 0.7)):
        key = {"recipe": "default", "ipc": 1, "method": "dm", "architecture": "ConvNet", "seed": seed}
        kept.add({**key, "mean": mean, "std": 0, "best_mean": mean, "best_std": 0, "seconds": 10 + 4 * seed})
        rows += [line for line in comparison.tables(kept)["comparison: default"].splitlines() if line.startswith("| dm")]
    assert rows == ["| dm | 50.0 (1) |  | 10 |", "| dm | 60.0 +- 10.0 (2) |  | 12 |"]
    cells = [comparison.scored_on("whole", recipe, ipc, seed) for recipe, ipc in comparison.CASES for seed in comparison.SEEDS]
    assert sum(map(len, cells)) == len({recipe for recipe, _ in comparison.CASES})


def test_words_have_one_order_and_yaml_reads_them_as_they_were():
    settings = {"distill.syn_steps": 5, "augmentation.families": [], "distill.lr_lr": 0.00001, "distill.loss": "raw"}
    assert words(settings) == words(dict(reversed(settings.items())))
    found = dict(word.split("=") for word in words(settings).split())
    assert {key: yaml.safe_load(value) for key, value in found.items() if key != "distill.lr_lr"} == {
        key: value for key, value in settings.items() if key != "distill.lr_lr"
    }


@pytest.mark.parametrize("commit", ["3701280", "12e4567", "a6b8a9e+"])
def test_a_row_is_found_again_by_its_keys_after_a_restart(tmp_path, monkeypatch, commit):
    monkeypatch.setattr(runs, "commit", lambda: commit)
    table = Table(tmp_path / "rows.csv", ["settings", "seed"], ["test"])
    table.add({"settings": "", "seed": 1, "test": 0.5})
    table.add({"settings": "distill.start=noise", "seed": 0, "test": 0.25})
    again = Table(tmp_path / "rows.csv", ["settings", "seed"], ["test"])
    assert again.of(settings="", seed=1).test.tolist() == [0.5]
    assert again.of(settings="", seed=0).empty
    assert set(again.rows.commit) == {commit}


def test_the_rows_of_a_run_are_those_that_its_file_has_though_others_have_no_number(tmp_path):
    first, columns = Table(tmp_path / "rows.csv", ["seed"], ["test", "likeness"]), ["test", "likeness"]
    first.add({"seed": 0, "test": 1 / 3})
    for seed in (1, 2):
        table = Table(tmp_path / "rows.csv", ["seed"], columns)
        table.add({"seed": seed, "test": 1 / 3, "likeness": 2 / 3})
    assert pd.read_csv(tmp_path / "rows.csv", dtype=str, keep_default_na=False)[columns].values.tolist() == [
        ["0.333333", ""], ["0.333333", "0.666667"], ["0.333333", "0.666667"],
    ]  # fmt: skip
    assert table.of(seed=2)[columns].values.tolist() == [[0.333333, 0.666667]]


def test_images_that_are_one_are_alike_and_those_of_noise_are_not():
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1])
    about = "digits", ["a", "b"], [0.0], [1.0]
    assert runs.likeness(ImageSet(x[:1].expand(4, 1, 8, 8), labels, *about)) == pytest.approx(1)
    assert abs(runs.likeness(ImageSet(x, labels, *about))) < 0.4
    assert runs.likeness(ImageSet(x[:2], torch.tensor([0, 1]), *about)) is None


def test_a_walk_is_plain_gradient_descent():
    step = Step(lambda theta, x, y: (theta - x).square().sum())
    found = ImageSet(torch.zeros(1), torch.zeros(1), "", [], [], [])
    path = list(probes.walked(step, torch.ones(1), found, 0.25, 3))
    assert torch.allclose(torch.cat(path), torch.tensor([1, 0.5, 0.25, 0.125]))


@pytest.mark.slow
def test_an_ablation_is_run_and_scored_by_the_pipelines_own_stages(tmp_path, monkeypatch):
    """Tiny; by the parameters that its row names."""
    monkeypatch.setenv("MTT_WORK", str(tmp_path / "work"))
    tiny = parameters("default", {"distill.start": "noise"})
    update(tiny, TINY, "")
    monkeypatch.setattr(runs, "parameters", lambda recipe, settings: tiny)
    found = runs.score("default", {"distill.start": "noise"}, 0, tmp_path / "run")
    tiny["distill"]["lr_img"] = 1e30
    assert runs.score("default", {}, 0, tmp_path / "run") == {}
    assert found.keys() == set(runs.COLUMNS)
    assert 0 <= found["test"] <= 1
    assert yaml.safe_load((tmp_path / "run/params.yaml").read_text())["distill"]["start"] == "noise"


@pytest.mark.parametrize("status", [-9, 1])
def test_an_ablation_that_is_killed_or_refused_leaves_no_row(tmp_path, monkeypatch, status):
    def killed(name):
        if name == "distill":
            raise subprocess.CalledProcessError(status, name)

    monkeypatch.setattr(runs, "stage", killed)
    with pytest.raises(subprocess.CalledProcessError):
        runs.score("default", {}, 0, tmp_path / "run")


def test_the_images_that_a_recipe_starts_from_are_chosen_anew_by_each_seed(tmp_path, monkeypatch):
    called = []

    def stage(*words):
        called.append(words)
        if words == ("distill",):
            raise subprocess.CalledProcessError(runs.DIVERGED, "distill")

    monkeypatch.setattr(runs, "stage", stage)
    assert runs.score("digits-ipc10-best", {}, 2, tmp_path / "run") == {}
    assert called[-2:] == [("baseline", "k_center"), ("distill",)]
    assert yaml.safe_load((tmp_path / "run/params.yaml").read_text())["baseline"]["seed"] == 2
