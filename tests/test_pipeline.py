"""dvc.yaml equals the code."""

import ast
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT, TINY

from mtt import store
from recipes.__main__ import update
from stages.baseline import METHODS, Baseline

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = PIPELINE["stages"]
OWN = {"baseline.ipc", "baseline.seed", "baseline.${item.method}"}


def script(stage):
    """The module that a stage runs, such as stages.evaluate; before some, stages.check is run."""
    return [word for word in shlex.split(STAGES[stage]["cmd"]) if word.startswith("stages.")][-1]


def outs(stage):
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in STAGES[stage].get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_name_the_import_closure_and_no_more(stage):
    code = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert code == {str(path.relative_to(ROOT)) for path in store.code(script(stage)).values()}


@pytest.mark.parametrize("stage", STAGES)
def test_params_name_the_sections_that_are_read(stage):
    """Those that the script reads by name, and the one that its command line names."""
    calls = [node for node in ast.walk(ast.parse(store.source(script(stage)).read_text())) if isinstance(node, ast.Call)]
    names = [call.args[0] for call in calls if getattr(call.func, "id", "") == "read"]
    wanted = {name.value for name in names if isinstance(name, ast.Constant)}
    if not all(isinstance(name, ast.Constant) for name in names):
        sections = yaml.safe_load((ROOT / "params.yaml").read_text())
        wanted |= {word for word in shlex.split(STAGES[stage]["cmd"]) if word in sections}
    assert {name.split(".")[0] for name in STAGES[stage].get("params", [])} == wanted
    assert {name for name in STAGES[stage].get("params", []) if "." in name} == (OWN if stage == "baseline" else set())


def test_a_comparison_method_has_settings_of_its_own_beside_those_that_all_share():
    """So that other iterations of one do not rerun another."""
    assert {f"baseline.{name}" for name in Baseline.model_fields} == {
        key.replace("${item.method}", name) for key in OWN for name in METHODS
    }


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_in_a_command_is_a_dep_or_an_out(stage):
    known = {*STAGES[stage]["deps"], *outs(stage)}
    paths = [word for word in shlex.split(STAGES[stage]["cmd"]) if "/" in word or "${prepare.raw}" in word]
    assert paths
    assert set(paths) <= known


def test_a_path_of_the_users_may_have_spaces():
    for line in (stage["cmd"] for stage in STAGES.values()):
        for name in ("${prepare.raw}", "${distill.images}"):
            assert line.count(name) == line.count(f'"{name}"')


def test_only_evaluate_reads_the_test_set():
    readers = [stage for stage in STAGES if "data/prepared/test.safetensors" in STAGES[stage]["deps"]]
    assert {script(stage) for stage in readers} == {"stages.evaluate"}


def test_nothing_in_the_library_imports_a_stage_and_no_stage_but_check_imports_a_stage():
    for path in [*ROOT.glob("mtt/*.py"), *ROOT.glob("stages/*.py")]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if module.endswith("__init__") or module == "stages.check":
            continue
        assert not {name for name in store.imported(module) if name.startswith("stages.")}, module


def lock():
    return yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]


def dvc(*words, cwd, **environment):
    names = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, "PYTHONPATH": "", **names, **environment}
    return subprocess.run(["dvc", *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture
def clone(tmp_path):
    """A fresh clone of what is committed, with its own work store."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    return tmp_path / "clone"


@pytest.mark.slow
def test_the_lock_is_up_to_date(clone):
    """On a clone without data nothing is to be run."""
    found = dvc("repro", "--dry", "--allow-missing", cwd=clone)
    assert "Running stage" not in found.stdout + found.stderr, found.stdout + found.stderr
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_sets_that_a_soft_one_is_held_against_are_made_before_they_are_scored(clone):
    values = yaml.safe_load((clone / "params.yaml").read_text())
    values |= {"relabelled": ["distilled_hard", "random_soft"], "methods": ["distilled", "random_soft", "distilled_hard"]}
    (clone / "params.yaml").write_text(yaml.safe_dump(values))
    found = dvc("dag", "--dot", cwd=clone)
    assert found.returncode == 0, found.stderr
    for method in values["relabelled"]:
        for before in ("distill", "buffer", "baseline@random"):
            assert f'"{before}" -> "relabel@{method}"' in found.stdout
        assert f'"relabel@{method}" -> "evaluate@{method}-ConvNet"' in found.stdout


def test_published_is_exactly_what_the_lock_names():
    """A user's own push does not belong there: `dvc remote add -d mine URL` sets another target."""
    wanted = set()
    for stage in lock().values():
        for out in stage["outs"]:
            if out["path"].startswith("data/"):
                wanted.add(out["md5"])
    for name in [name for name in wanted if name.endswith(".dir")]:
        found = ROOT / "published/files/md5" / name[:2] / name[2:]
        wanted |= {entry["md5"] for entry in json.loads(found.read_text())}
    found = {path.parent.name + path.name for path in (ROOT / "published/files/md5").rglob("*") if path.is_file()}
    assert found == wanted
    assert sum(path.stat().st_size for path in (ROOT / "published").rglob("*") if path.is_file()) <= 6e6


@pytest.mark.slow
def test_a_fresh_clone_pulls_everything_that_the_lock_names(clone):
    found = dvc("pull", cwd=clone)
    assert found.returncode == 0, found.stderr
    assert len(list((clone / "data/buffer").glob("*.safetensors"))) == 10
    status = dvc("status", cwd=clone)
    assert "up to date" in status.stdout


@pytest.mark.slow
def test_experts_lie_once_on_the_disk_in_store_cache_and_both_outs(clone):
    """By inode and by du; and again after a checkout. (DVC's own default, reflink,copy, makes four copies on most file systems.)"""
    values = yaml.safe_load((clone / "params.yaml").read_text())
    update(values, TINY, "")
    (clone / "params.yaml").write_text(yaml.safe_dump(values))
    found = dvc("repro", "buffer", cwd=clone, MTT_WORK="")
    assert found.returncode == 0, found.stdout + found.stderr
    for _ in range(2):
        experts, places = sorted((clone / "data/experts").glob("*.safetensors")), []
        assert len(experts) == 2
        for path in experts:
            digest = hashlib.md5(path.read_bytes()).hexdigest()
            stored = list(clone.glob(f".work/experts/*/{path.name}"))
            each = [path, *stored, clone / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}", clone / "data/buffer" / path.name]
            assert len(each) == 4
            assert len({place.stat().st_ino for place in each}) == 1, each
            places += each
        used = subprocess.run(["du", "--total", "--bytes", *places], capture_output=True, text=True, check=True).stdout.splitlines()
        assert int(used[-1].split()[0]) == sum(path.stat().st_size for path in experts)
        shutil.rmtree(clone / "data/experts")
        shutil.rmtree(clone / "data/buffer")
        assert dvc("checkout", "experts", "buffer", cwd=clone).returncode == 0


@pytest.mark.slow
def test_an_experiment_on_distill_runs_distill_and_what_follows_and_trains_no_expert(clone):
    """And a key that there is not is refused by name."""
    refused = dvc("exp", "run", "-S", "distill.syn_stepz=80", cwd=clone)
    assert refused.returncode != 0
    assert "syn_stepz" in refused.stderr
    fast = ["distill.syn_steps=3", "distill.iterations=2", "distill.validate.every=0", "architectures=[ConvNet]", "evaluate.networks=1"]
    fast += ["evaluate.epochs.ConvNet=2"]
    settings = [word for change in fast for word in ("-S", change)]
    found = dvc("exp", "run", "--pull", "--allow-missing", *settings, cwd=clone)
    assert found.returncode == 0, found.stdout + found.stderr
    ran = set(re.findall(r"Running stage '([\w@-]+)'", found.stdout + found.stderr))
    assert {"distill", "evaluate@distilled-ConvNet", "report"} <= ran
    assert not ran & {"prepare", "experts", "buffer", "baseline@random"}
    again = dvc("repro", "--allow-missing", cwd=clone)
    assert "Running stage" not in again.stdout + again.stderr
