import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from mtt import prune, store

VALUES = {"network": {"width": 8}, "experts": {"epochs": 3, "count": 2}}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with params.yaml, an input and one file of code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MTT_WORK", str(tmp_path / "work"))
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/experts.py").write_text("code")
    (tmp_path / "train").write_text("images")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(VALUES))
    git("init", "--quiet", "--initial-branch", "main")
    return tmp_path


def git(*words):
    subprocess.run(["git", "-c", "user.name=test", "-c", "user.email=test", *words], check=True)


def entry(key, width=8, code="code", train="images"):
    """A store entry of two experts, made of these."""
    path = store.root() / "experts" / key
    path.mkdir(parents=True)
    md5 = {"stages/experts.py": digest(code), "train": digest(train)}
    about = {"stage": "experts", "params": {"network": {"width": width}, "experts": {"epochs": 3}}, "md5": md5}
    (path / store.ABOUT).write_text(json.dumps(about))
    (path / "0000.safetensors").write_bytes(bytes(1000))
    return path


def digest(text):
    return hashlib.md5(text.encode()).hexdigest()


def commit(branch, width=8, code="code", train="images"):
    """A branch whose lock names experts of these."""
    deps = [{"path": "stages/experts.py", "md5": digest(code)}, {"path": "train", "md5": digest(train)}]
    params = {"network": {"width": width}, "experts": {"epochs": 3, "count": 9}}
    lock = {"stages": {"experts": {"deps": deps, "params": {"params.yaml": params}}}}
    git("checkout", "--quiet", "-B", branch)
    with open("dvc.lock", "w") as file:
        yaml.safe_dump(lock, file)
    git("add", "dvc.lock")
    git("commit", "--quiet", "-m", branch)


def test_what_a_lock_of_any_branch_names_is_kept_and_the_rest_removed(repository, capsys):
    """Whatever the count that a branch asks for; another width, other code and another input are other entries."""
    commit("wide", width=16)
    commit("other-code", code="new")
    commit("main", train="more images")
    kept = [entry("wide", width=16), entry("code", code="new"), entry("input", train="more images"), entry("standing")]
    gone = [entry("narrow", width=4), entry("old", code="old"), entry("both", width=16, code="new")]
    prune.main("--dry")
    assert all(path.exists() for path in kept + gone)
    prune.main()
    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in gone)
    said = capsys.readouterr().out
    assert said.count("remove") == 2 * 3
    assert "needed by refs/heads/wide" in said
    assert "needed by the working tree" in said


def test_a_key_that_a_lock_names_alone_is_compared_within_its_section(repository):
    """As of a comparison method: `baseline.seed` and `baseline.dm`, less the iterations."""
    (repository / "params.yaml").write_text(yaml.safe_dump({"baseline": {"seed": 1, "dm": {"momentum": 0.5}}}))
    params = {"baseline.seed": 0, "baseline.dm": {"momentum": 0.5, "iterations": 9}}
    deps = [{"path": "stages/experts.py", "md5": digest("code")}]
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"baseline@dm": {"deps": deps, "params": {"params.yaml": params}}}}))
    kept = {}
    for seed, momentum in ((0, 0.5), (1, 0.5), (0, 0.9), (2, 0.5)):
        path = kept[seed, momentum] = store.root() / "baseline@dm" / f"{seed} {momentum}"
        about = {"stage": "baseline@dm", "params": {"baseline": {"seed": seed, "dm": {"momentum": momentum}}}}
        path.mkdir(parents=True)
        (path / store.ABOUT).write_text(json.dumps({**about, "md5": {"stages/experts.py": digest("code")}}))
    prune.main()
    assert [settings for settings, path in kept.items() if path.exists()] == [(0, 0.5), (1, 0.5)]


def test_a_small_number_is_the_same_in_a_lock_and_in_the_store(repository):
    """DVC writes 1e-05, in YAML 1.1 a word."""
    path = store.root() / "distill/rate"
    path.mkdir(parents=True)
    (path / store.ABOUT).write_text(json.dumps({"stage": "distill", "params": {"distill": {"lr_lr": 1e-05}}, "md5": {}}))
    Path("dvc.lock").write_text("stages: {distill: {deps: [], params: {params.yaml: {distill: {lr_lr: 1e-05}}}}}")
    prune.main()
    assert path.exists()


def test_what_is_freed_is_counted_with_what_lies_in_folders(repository, capsys):
    history = entry("old", width=4) / "history"
    history.mkdir()
    (history / "000001.png").write_bytes(bytes(2_000_000))
    prune.main("--dry")
    assert "2.0 MB would be freed" in capsys.readouterr().out


def test_an_entry_in_use_is_kept(repository, capsys):
    used = entry("used", width=4)
    with store.held(used):
        prune.main()
    assert used.exists()
    assert "in use" in capsys.readouterr().out
    prune.main()
    assert not used.exists()


def test_what_dvc_keeps_of_an_experiment_is_needed_too(repository):
    commit("side", width=16)
    git("update-ref", "refs/exps/ab/cdef/side", "HEAD")
    commit("main")
    git("branch", "-D", "side", "--quiet")
    path = entry("wide", width=16)
    prune.main()
    assert path.exists()


def test_what_the_store_writes_of_an_entry_is_what_is_compared(repository):
    """The words of store.folder: stage, sections, md5 of inputs by their path and of code by its path in the repository."""
    import mtt.seeds  # noqa: F401

    path = store.folder("experts", ["train"], {"network": {"width": 8}})
    about = json.loads((path / store.ABOUT).read_text())
    assert about["stage"] == "experts"
    assert about["params"] == {"network": {"width": 8}}
    assert about["md5"]["train"] == digest("images")
    assert about["md5"]["mtt/seeds.py"] == digest((ROOT / "mtt/seeds.py").read_text())
    assert not [name for name in about["md5"] if name.endswith("store.py")]


def test_an_unknown_option_is_refused(repository):
    with pytest.raises(ValueError, match="found --force; wanted nothing or --dry"):
        prune.main("--force")
