"""What a newcomer does wrong ends in one line that says what to do next; never in a traceback.

Others stand where what they are about does: wrong keys, values and types in test_params and test_check, missing data of each set in
test_recipes and test_images, labels.csv in test_listing, a full disk in test_survival, no compiler in test_compiling, remotes in
test_remotes, files of other sets in test_run and test_trust.
"""

import os
import resource
import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from conftest import ROOT

from mtt import environment, errors, exporting, memory, params, store, workers
from stages import distill

ORDER = ["prepare", "experts", "buffer", "distill", "baseline", "evaluate", "report"]


def start(run, stage, *, limit=None, what=resource.RLIMIT_AS, words=None, **environment):
    """(exit status, output) of a stage in a process of its own, as dvc.yaml calls it or with other words."""
    module, *paths = run.command(stage)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    limited = None if limit is None else lambda: resource.setrlimit(what, (limit, limit))
    command = [sys.executable, "-m", module, *(paths if words is None else words)]
    found = subprocess.run(
        command, cwd=run.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=limited
    )
    return found.returncode, found.stdout


def error(status, output):
    """The one line of an error of the user's."""
    assert status == 1, output
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


def ended(main, monkeypatch, *words):
    """The lines with which `run` ends."""
    monkeypatch.setattr(sys, "argv", ["stage", *words])
    with pytest.raises(SystemExit) as caught:
        params.run(main)
    return str(caught.value)


# stages run by hand, in the wrong order or with the wrong words


@pytest.mark.slow
@pytest.mark.parametrize("stage", ORDER[1:])
def test_a_stage_whose_input_is_not_there_says_what_makes_it(make_run, stage):
    line = error(*start(make_run(), stage))
    assert line.endswith("; `dvc repro` runs the stages that make it, `dvc pull` brings it from the remote")
    assert "data/" in line or "results/" in line


@pytest.mark.slow
def test_a_stage_called_with_too_few_words_says_where_the_command_stands(make_run):
    line = error(*start(make_run(), "distill", words=["data/buffer"]))
    assert "distill data/buffer: missing a required argument: 'images'; dvc.yaml has the command" in line


def test_distill_counts_the_paths_that_it_is_to_write_to_before_it_works(make_run):
    make_run()
    with pytest.raises(ValueError, match="stages.distill: found 2 paths to write to; wanted 9: best, last, history, animation"):
        distill.main("data/buffer", "images.safetensors", "validation.safetensors", "set.safetensors", "last.safetensors")


def test_a_command_that_is_no_stage_gives_no_advice_on_stages(make_run, monkeypatch):
    make_run()
    monkeypatch.setattr(sys, "argv", ["mtt.distilled", "export", "data/nowhere.safetensors", "out"])
    with pytest.raises(SystemExit) as caught:
        params.run(exporting.main)
    assert str(caught.value).startswith("error: data/nowhere.safetensors: ")
    assert "dvc repro" not in str(caught.value)


def test_a_refused_value_comes_without_advice_on_missing_files(make_run, monkeypatch):
    make_run()

    def main(path):
        raise ValueError(f"{path}: found the wrong thing")

    assert ended(main, monkeypatch, "params.yaml") == "error: params.yaml: found the wrong thing"
    assert ended(main, monkeypatch, "0") == "error: 0: found the wrong thing"
    assert ended(main, monkeypatch, "data/nowhere").endswith("brings it from the remote")


def test_outside_the_repository_the_line_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "params.yaml: no such file; run this in the repository, where" in ended(lambda: params.read_all(), monkeypatch)


@pytest.mark.parametrize("variable", ["MTT_WORKERS", "MTT_TOGETHER"])
@pytest.mark.parametrize("value", ["many", "0", "-1", "1.5"])
def test_a_variable_that_is_no_number_is_named(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"^{variable}: found {value}; wanted a whole number, 1 or more$"):
        workers.groups([1, 2])


def test_seconds_between_checkpoints_that_are_no_number_are_named(monkeypatch):
    monkeypatch.setenv("MTT_SAVE_EVERY", "often")
    with pytest.raises(ValueError, match="^MTT_SAVE_EVERY: found often; wanted seconds$"):
        store.due(0)


@pytest.mark.slow
def test_remotes_without_dvc_say_where_it_is(tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "remotes", "pull", "published"], cwd=ROOT, env={**os.environ, "PATH": str(tmp_path), "PYTHONPATH": ""},
        capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr.splitlines()[-1] == "error: found no command dvc; wanted the one of .venv: source .venv/bin/activate"
    assert "Traceback" not in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prepare", "baseline", "evaluate", "report"])
def test_a_file_that_has_no_room_ends_every_other_stage_in_one_line(run, stage):
    """A file may have 64 bytes: a disk as good as full. (experts, buffer, distill, and going on: test_survival.)"""
    run.set(architectures=["ConvNet"], whole_architectures=[])
    for earlier in {"evaluate": ["baseline"], "report": ["baseline", "distill", "evaluate"]}.get(stage, []):
        run(earlier)
    if stage == "report":
        shutil.copy("results/scores/random-ConvNet.json", "results/scores/distilled-ConvNet.json")
    line = error(*start(run, stage, limit=64, what=resource.RLIMIT_FSIZE))
    assert line.endswith("; make space, and the same command goes on from what was finished")
    assert not list(run.folder.rglob("*.tmp"))


# no memory

GPU = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.20 GiB is free. "
    "See documentation for Memory Management (https://pytorch.org/docs/stable/notes/cuda.html)"
)
CPU = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096000 bytes."


@pytest.mark.parametrize(
    ("stage", "words", "changes", "lower"),
    [
        ("experts", [], {}, "experts.batch from 64 to 32"),
        (
            "experts",
            [],
            {"MTT_TOGETHER": "10", "MTT_WORKERS": "2", "experts": {"count": 8}},
            "lower MTT_TOGETHER from 10 to 2 or experts.batch",
        ),
        ("distill", ["data/buffer"], {}, "distill.batch_syn from all (10) to 5"),
        ("distill", ["data/buffer"], {"distill": {"batch_syn": 9}}, "distill.batch_syn from 9 to 4"),
        ("distill", ["data/buffer"], {"distill": {"canvas_samples": 4}}, "(10) to 5 or distill.canvas_samples from 4 to 2"),
        ("baseline", ["dm"], {}, "baseline.dm.batch_real from 20 to 10"),
        ("baseline", ["herding"], {}, "baseline.herding.batch from 64 to 32"),
        (
            "evaluate",
            ["distilled", "ConvNet", "evaluate"],
            {"MTT_TOGETHER": "10", "evaluate": {"networks": 5}},
            "lower MTT_TOGETHER from 10 to 2 or evaluate.batch from 256 to 128",
        ),
        ("evaluate", ["whole", "ConvNet", "whole"], {}, "whole.batch from 64 to 32"),
        ("prepare", [], {"prepare": {"zca": True}}, "prepare.zca from true to false"),
        ("experts", [], {"MTT_WORKERS": "4"}, "lower MTT_WORKERS from 4 to 2 or experts.batch"),
        ("experts", [], {"MTT_TOGETHER": "10", "MTT_WORKERS": "4", "experts": {"count": 4}}, "lower experts.batch"),
        (
            "distill",
            ["data/buffer"],
            {"MTT_TOGETHER": "10", "distill": {"validate": {"every": 0, "networks": 3}}},
            "lower distill.batch_syn",
        ),
        ("distill", ["data/buffer"], {"MTT_TOGETHER": "10", "distill": {"validate": {"networks": 3}}}, "lower MTT_TOGETHER from 10 to 1"),
        ("buffer", [], {}, "lower network.width"),
        ("buffer", [], {"experts": {"epochs": 9}}, "lower buffer.snapshots from all (10) to 4"),
        ("buffer", [], {"experts": {"epochs": 9}, "buffer": {"waypoints": 3}}, "lower buffer.snapshots from all (10) to 5"),
        ("buffer", [], {"experts": {"epochs": 9}, "buffer": {"waypoints": 7}}, "lower buffer.snapshots from all (10) to 7"),
        ("buffer", [], {"experts": {"epochs": 9}, "buffer": {"snapshots": 9}}, "lower buffer.snapshots from 9 to 4"),
        ("buffer", [], {"buffer": {"snapshots": 4}}, "lower network.width"),
        ("buffer", [], {"experts": {"epochs": 9}, "distill": {"start_images": "right"}}, "lower network.width"),
        ("buffer", [], {"experts": {"epochs": 9}, "distill": {"labels": "learned"}}, "lower network.width"),
        ("prepare", [], {}, "network.width"),
    ],
)
@pytest.mark.parametrize("raised", [torch.OutOfMemoryError(GPU), RuntimeError(CPU), MemoryError()], ids=["GPU", "CPU", "Python"])
def test_where_memory_runs_out_the_line_says_what_to_lower_and_to_what(make_run, monkeypatch, raised, stage, words, changes, lower):
    run, variables = make_run(), {"MTT_WORKERS": "1", "MTT_TOGETHER": "1"}
    variables.update({key: value for key, value in changes.items() if key in variables})
    run.set(**{key: value for key, value in changes.items() if key not in variables})
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    (run.folder / "data/buffer").mkdir(parents=True)
    (run.folder / "data/buffer/index.json").write_text('{"classes": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}')
    (line,) = errors.lines(raised, stage, words, params.read_all)
    assert line.startswith(f"{stage}: found no memory left")
    assert f"; lower {lower}" in line or f" or {lower}" in line or lower in line
    assert line.endswith("; what was finished is kept")
    if isinstance(raised, torch.OutOfMemoryError):
        assert "for 2.50 GiB on the GPU" in line


def test_an_error_of_the_program_is_no_lack_of_memory():
    assert not memory.ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert errors.lines(RuntimeError("mat1 and mat2"), "distill", [], dict) is None
    assert errors.lines(KeyError("x"), "distill", [], dict) is None


def test_what_is_told_to_lower_may_be_lowered(make_run):
    """Every parameter that the advice names is one."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    words = {"evaluate": ("distilled", "ConvNet", "evaluate"), "baseline": ("dsa",)}
    for stage, names in memory.WAYS.items():
        found = [name.format(*words.get(stage, ()), "", "", "") for name in names]
        assert [name for name in found if name.startswith("MTT_") or memory._set(name, values) is not None], stage


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A folder in which prepare, experts and buffer were run, tiny."""
    from conftest import Run

    folder = tmp_path_factory.mktemp("ready")
    before = os.getcwd()
    os.chdir(folder)
    run = Run(folder)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MTT_WORK", str(folder / "work"))
            for stage in ("prepare", "experts", "buffer"):
                run(stage)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def run(make_run, ready):
    """A copy of it."""
    run = make_run()
    shutil.copytree(ready, run.folder, dirs_exist_ok=True)
    return run


@pytest.mark.slow
def test_a_machine_with_too_little_memory_ends_distill_in_one_line(run):
    """A limit on addresses, which a batch of canvases does not fit in: torch's own error."""
    run.set(distill={"validate": {"every": 0}, "start": "noise", "ipc": 1_200_000}, baseline={"ipc": 1_200_000})
    line = error(*start(run, "distill", limit=12 << 30))
    assert line.startswith("error: distill: found no memory left")
    assert "lower distill.batch_syn from all (12000000) to 6000000" in line


@pytest.mark.slow
def test_a_gpu_that_is_too_small_for_a_worker_ends_the_stage_in_one_line(run, monkeypatch):
    """The error of a worker comes to the stage and says what to lower."""
    (run.folder / "sitecustomize.py").write_text(
        "import os, torch\nfrom mtt import training\ndef full(*_, **__):\n"
        f"    raise torch.OutOfMemoryError({GPU!r})\n" + "training.epoch = full\n"
    )
    shutil.rmtree(run.folder / "work")
    status, output = start(run, "experts", PYTHONPATH=f"{run.folder}:{ROOT}", MTT_TOGETHER="2", MTT_WORKERS="1")
    line = error(status, output)
    assert line == (
        "error: experts: found no memory left for 2.50 GiB on the GPU; lower MTT_TOGETHER from 2 to 1 or experts.batch from 64 to 32; "
        "what was finished is kept"
    )


@pytest.mark.slow
def test_a_worker_that_the_system_kills_ends_the_stage_in_one_line(run):
    (run.folder / "sitecustomize.py").write_text(
        "import os, signal\nfrom mtt import training\ntraining.epoch = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    shutil.rmtree(run.folder / "work")
    line = error(*start(run, "experts", PYTHONPATH=f"{run.folder}:{ROOT}", MTT_WORKERS="2"))
    assert line.startswith("error: experts: found a worker killed, as happens where memory runs out; lower MTT_WORKERS from 2 to 1 or exp")


def test_a_compiler_that_fails_late_is_named_with_the_way_without():
    from torch._dynamo.exc import BackendCompilerFailed

    (line,) = errors.lines(BackendCompilerFailed(lambda: None, ValueError("no such card"), None), "experts", [], dict)
    assert line.startswith("experts: torch.compile failed (")
    assert line.endswith("; MTT_COMPILE=0 goes without, slower")


# no room: each stage's own writing is in test_survival


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_and_a_full_quota_say_how_to_go_on(number):
    import errno

    code = getattr(errno, number)
    (line,) = errors.lines(OSError(code, os.strerror(code), "x"), "distill", [], dict)
    assert line.endswith("; make space, and the same command goes on from what was finished")


# the environment


@pytest.mark.parametrize("version", [(3, 8, 18), (3, 10, 13), (3, 14, 0), (4, 0, 0)])
def test_another_python_is_refused_in_one_line(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit, match=rf"^error: found Python {version[0]}.{version[1]} \(.*wanted 3.11, 3.12 or 3.13: make PYTHON="):
        environment.check()


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 9)])
def test_the_supported_pythons_pass(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    environment.check()


def test_windows_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="^error: found Windows; wanted Linux or macOS; on Windows: WSL"):
        environment.check()


def test_missing_packages_are_named_in_one_line(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no_such_package", "no_such.module"))
    with pytest.raises(
        SystemExit, match="^error: found no no_such_package, no_such.module beside .*wanted the packages of requirements.txt"
    ):
        environment.check()


@pytest.mark.slow
def test_an_interrupt_while_a_stage_still_imports_is_one_line(tmp_path):
    """And no other error is hidden."""
    for raised, wanted in (("KeyboardInterrupt", "interrupted; "), ("LookupError", "Traceback")):
        (tmp_path / "torch.py").write_text(f"raise {raised}")
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, "-c", "import sys; sys.path.insert(1, '.'); from stages import check"]
        found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert found.returncode != 0
        assert found.stderr.startswith(wanted)
    assert found.stderr.endswith("LookupError\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["stages.check", "recipes", "studies.choosing", "benchmarks"])
def test_every_command_looks_at_the_environment_first(command):
    """-S: without the packages."""
    found = subprocess.run([sys.executable, "-S", "-m", command], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1
    assert found.stderr.startswith("error: found no numpy, ")
    assert found.stderr.count("\n") == 1
