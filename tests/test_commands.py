"""Every command of README.md and docs/ is run: here, in a clone made small, or by the test that ELSEWHERE names.

A command is a line of a block that is indented or fenced as sh, or a span of words in backticks that begins with one of PROGRAMS.
A span that is the beginning of another command is a mention of it.
"""

import contextlib
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, TINY
from lab import ended

from recipes.__main__ import update
from stages import check

pytestmark = pytest.mark.slow

PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
PROGRAMS = ("make", "dvc", "python", "pip", "pytest", "git", "find", "sbatch", "srun")
LANGUAGES = ("sh", "env", "python", "diff", "text", "sshconfig", "yaml", "json")  # sh alone is commands

# Each text, or what a text with * begins with, and the test that runs it: for long, with other data, against a server, or on a cluster.
ELSEWHERE = {
    "README.md": {"dvc pull": "test_pipeline.py::test_a_fresh_clone_pulls_everything_that_the_lock_names"},
    "docs/ablations.md": {
        "dvc exp run --queue*": "test_studies.py::test_the_commands_of_the_page_queue_every_run_of_its_tables_and_no_other",
        "make ablations": "test_studies.py::test_an_ablation_is_run_and_scored_by_the_pipelines_own_stages",
        "python -m studies.probes": "test_studies.py::test_a_walk_is_plain_gradient_descent",
        "dvc queue start": "test_commands.py::test_the_commands_of_a_page_do_what_they_say_in_a_small_clone",
        "dvc exp show": "test_commands.py::test_the_commands_of_a_page_do_what_they_say_in_a_small_clone",
    },
    "docs/contributing.md": {
        "dvc commit -f STAGE": "test_importing.py::test_the_commands_of_the_page_take_others_files_to_scores_and_on_through_distillation",
        "make parameters": "test_commands.py::test_the_commands_of_a_page_do_what_they_say_in_a_small_clone",
    },
    "docs/experiments.md": {
        "dvc exp run -S distill.stop=nearest -S distill.labels=learned*": "test_successors.py::test_two_ranks_give_the_labels_and_averages_of_one",
        "make recipe NAME=fashion-mnist-ipc1-cpu && dvc repro": "test_recipes.py::test_every_recipe_runs_through_all_stages",
        "dvc exp run -S 'architectures=[ConvNet,LeNet]'*": "test_run.py::test_an_architecture_that_is_off_by_default_is_scored_alone_and_together",
        "dvc exp run -S 'robustness_architectures=[ConvNet]'": "test_run.py::test_plain_is_the_evaluation_without_augmentation_and_no_other_word_is_taken",
        "dvc exp run -S 'baselines=[random,dsa,dm]'*": "test_baseline.py::test_every_method_gives_as_many_images_of_each_class_in_a_set_like_the_distilled_one",
        "make ablations": "test_studies.py::test_an_ablation_is_run_and_scored_by_the_pipelines_own_stages",
        "make comparison": "test_studies.py::test_every_case_of_the_comparison_passes_the_check",
        "make successors": "test_studies.py::test_every_idea_of_every_case_passes_the_check",
        "make truncation": "test_studies.py::test_the_truncated_gradient_nears_the_exact_one_as_the_steps_become_few_and_small",
        "make growth": "test_benchmarks.py::test_a_row_is_measured_in_processes_of_its_own",
        "python -m stages.distill": "test_run.py::test_distill_reads_no_test_image_and_with_noise_and_no_validation_no_real_image",
        "dvc queue logs NAME": "test_commands.py::test_what_was_queued_is_looked_at_applied_and_made_a_branch",
        "dvc exp apply NAME": "test_commands.py::test_what_was_queued_is_looked_at_applied_and_made_a_branch",
        "dvc exp branch NAME BRANCH": "test_commands.py::test_what_was_queued_is_looked_at_applied_and_made_a_branch",
    },
    "docs/gpus.md": {
        "PIP_EXTRA_INDEX_URL=*": "test_commands.py::test_pip_takes_another_build_of_the_pinned_torch_where_a_second_index_has_one",
        "CUDA_VISIBLE_DEVICES=1 dvc exp run --temp*": "test_survival.py::test_killed_twenty_times_a_run_ends_in_the_files_of_an_undisturbed_one",
    },
    "docs/importing.md": {"*": "test_importing.py::test_the_commands_of_the_page_take_others_files_to_scores_and_on_through_distillation"},
    "docs/parameters.md": {"make*": "test_commands.py::test_the_commands_of_a_page_do_what_they_say_in_a_small_clone"},
    "docs/remotes.md": {
        "make push REMOTE=store": "test_remotes.py::test_the_published_remote_is_no_place_for_a_push",
        "make *": "test_remotes.py::test_what_was_pushed_is_pulled_one_file_or_all",
        "pip install *": "test_remotes.py::test_the_document_pins_what_the_tests_run",
        "dvc pull data/buffer/0003.safetensors": "test_remotes.py::test_what_was_pushed_is_pulled_one_file_or_all",
        "dvc push": "test_remotes.py::test_a_push_that_is_killed_half_way_is_completed_by_the_next",
        "dvc pull": "test_remotes.py::test_another_repository_gets_and_imports_a_buffer",
        "dvc get*": "test_remotes.py::test_another_repository_gets_and_imports_a_buffer",
        "dvc import*": "test_remotes.py::test_another_repository_gets_and_imports_a_buffer",
        "dvc push --run-cache": "test_remotes.py::test_with_the_run_cache_another_clone_skips_the_stage",
        "dvc pull --run-cache": "test_remotes.py::test_with_the_run_cache_another_clone_skips_the_stage",
        "dvc repro --pull": "test_remotes.py::test_with_the_run_cache_another_clone_skips_the_stage",
        "dvc exp p*": "test_remotes.py::test_an_experiment_travels_with_its_data",
        "dvc data status": "test_remotes.py::test_a_remote_with_local_settings_must_be_committed",
        "git commit .dvc/config": "test_remotes.py::test_a_remote_with_local_settings_must_be_committed",
        "dvc update theirs.dvc": "test_remotes.py::test_the_small_remedies_of_the_page_work",
        "dvc push --all-commits": "test_remotes.py::test_the_small_remedies_of_the_page_work",
        "dvc remote modify --local lab access_key_id ...": "test_remotes.py::test_the_small_remedies_of_the_page_work",
        "find *": "test_remotes.py::test_the_small_remedies_of_the_page_work",
        "dvc remote modify --local lab auth basic": "test_remotes.py::test_http_behind_a_password_is_read_with_the_one_in_config_local",
        "dvc remote modify --local lab password*": "test_remotes.py::test_http_behind_a_password_is_read_with_the_one_in_config_local",
        "dvc remote modify --local lab *": "test_remotes.py::test_ssh_goes_by_config_local_alone",
        "dvc remote *": "test_remotes.py::test_what_was_pushed_is_pulled_one_file_or_all",
        "python -c *": "test_remotes.py::test_a_harmed_object_that_was_got_or_imported_is_named_by_the_buffer_itself",
    },
    "docs/running.md": {
        "make bench": "test_benchmarks.py::test_a_row_is_measured_in_processes_of_its_own",
        "dvc exp run --pull*": "test_pipeline.py::test_an_experiment_on_distill_runs_distill_and_what_follows_and_trains_no_expert",
        "dvc pull": "test_pipeline.py::test_a_fresh_clone_pulls_everything_that_the_lock_names",
        "dvc repro": "test_recipes.py::test_recipes_run_through_dvc",
        "make help": "test_commands.py::test_every_target_that_a_page_names_is_there",
    },
    "docs/slurm.md": {"*": "test_slurm.py::test_dvc_repro_on_slurm_gives_the_bytes_of_one_machine_and_growth_submits_what_is_missing"},
    "docs/successors.md": {
        "make successors": "test_studies.py::test_every_idea_of_every_case_passes_the_check",
        "make truncation": "test_studies.py::test_the_truncated_gradient_nears_the_exact_one_as_the_steps_become_few_and_small",
    },
}

# Parameters as in other tests, but for what would take processes: one architecture, nothing of the whole training set.
SMALL = {**TINY, "architectures": ["ConvNet"], "whole_architectures": []}
FEWER = {  # of the tests that a command runs
    "make test": "tests/test_seeds.py",
    'pytest -m "not slow"': "tests/test_seeds.py",
    "pytest tests/test_unroll.py": "-k batches",
    "pytest tests/test_architectures.py": "-k AllConv",
    'pytest -m "not slow" tests/test_averages.py tests/test_baseline.py tests/test_pipeline.py': "-k 'averages or deps_name'",
}


def blocks(page):
    """(language, text) of each block, sh where it is indented."""
    text = PAGES[page]
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return fenced + [("sh", re.sub("^    ", "", block, flags=re.M)) for block in re.findall(r"(?:^    .*\n)+", rest, re.M)]


def lines(page):
    """The commands in the blocks of a page, without their remarks."""
    found = [line for language, text in blocks(page) if language == "sh" for line in text.splitlines()]
    return [re.sub(r"\s+#.*", "", line) for line in found if line.strip()]


def mentions(page):
    """The commands in its words."""
    rest = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.M | re.S)
    rest = "".join(line for line in rest.splitlines(keepends=True) if not line.startswith("    "))
    return [span for span in dict.fromkeys(re.findall(r"`([^`\n]+)`", rest)) if span.split()[0] in PROGRAMS and " " in span]


def elsewhere(page, command):
    """The test that runs a command of a page, or None."""
    known = ELSEWHERE.get(page, {})
    fits = (test for text, test in known.items() if command == text or (text.endswith("*") and command.startswith(text[:-1])))
    return known.get(command) or next(fits, None)


def here(page):
    """The commands of a page that are run here."""
    return [line for line in lines(page) if not elsewhere(page, line)]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    assert {language for language, _ in blocks(page)} <= {*LANGUAGES}


@pytest.mark.parametrize("page", PAGES)
def test_no_command_in_words_is_run_by_nothing(page):
    """It is in the table, or it is how a command begins that is run."""
    everywhere = [line for other in PAGES for line in here(other)]
    for command in mentions(page):
        assert elsewhere(page, command) or any(f"{line} ".startswith(f"{command} ") for line in everywhere), command


def test_every_test_that_the_table_names_is_there_and_every_line_of_it_is_of_a_command():
    for page, known in ELSEWHERE.items():
        commands = lines(page) + mentions(page)
        for text, test in known.items():
            file, _, name = test.partition("::")
            assert re.search(rf"^def {name}\(", (ROOT / "tests" / file).read_text(), re.M), test
            assert any(command == text or (text.endswith("*") and command.startswith(text[:-1])) for command in commands), (page, text)


def test_every_target_that_a_page_names_is_there():
    """And `make help` lists it."""
    named = {target for page in PAGES for command in lines(page) + mentions(page) for target in re.findall(r"\bmake ([a-z]+)", command)}
    listed = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert named <= {"help", *re.findall(r"^([a-z]+) ", listed, re.M)}


class Clone:
    """A clone of what is committed, its parameters small, in which the pipeline has run and `make` finds these tests' packages."""

    def __init__(self, folder):
        self.folder, own = folder, folder.parent
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        (folder / ".venv").mkdir()
        (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
        for name in ("runtime", "development"):
            (folder / ".venv" / name).touch()
        names = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MTT_", "PYTEST_"))}
        path = f"{folder}/.venv/bin:{os.environ['PATH']}"
        settings = {"PATH": path, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "MTT_WORKERS": "1", "DVC_SITE_CACHE_DIR": str(own / "site")}
        self.environment = {**kept, **names, **settings}
        self.shrink()
        self.run("make repro && git commit --quiet --all --message small")

    def shrink(self):
        """Make params.yaml small."""
        path = self.folder / "params.yaml"
        values = yaml.safe_load(path.read_text())
        update(values, SMALL, "")
        path.write_text(yaml.safe_dump(values))

    def run(self, line):
        """What a command line prints; it must succeed."""
        environment = {**self.environment, "PYTEST_ADDOPTS": FEWER.get(line, "")}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        words = ["bash", "-c", line]
        return ended(subprocess.Popen(words, cwd=self.folder, env=environment, text=True, start_new_session=True, **pipes), seconds=300)

    def begin(self):
        """Go back to what is committed."""
        self.run("git checkout --quiet main . && git clean --force --quiet -d && dvc checkout --quiet")

    def queued(self):
        """How many experiments wait or run."""
        return len(re.findall("Queued|Running", self.run("dvc queue status")))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    made = Clone(tmp_path_factory.mktemp("commands") / "clone")
    made.run("git switch --quiet --force-create main")
    yield made
    with contextlib.suppress(AssertionError):
        made.run("dvc queue stop --kill")


def follow(clone, line):
    """Run a line as a reader does, who waits for a queue, and commits a change. Of a sweep, the first run alone is left to be worked off."""
    if line.startswith("git commit"):
        (clone.folder / "LOG.md").write_text("")
    said = clone.run(line)
    if "--queue" in line:
        names = re.findall(r"Queued experiment '([\w-]+)'", said)
        assert len(names) > 1
        clone.run(f"dvc queue remove {' '.join(names[1:])}")
    if line == "dvc queue start":
        end = time.monotonic() + 200
        while clone.queued():
            assert time.monotonic() < end
            time.sleep(1)
    if line.startswith("make recipe"):
        clone.shrink()
    return said


@pytest.mark.parametrize("page", sorted((page for page in PAGES if here(page)), key=lambda page: page == "docs/extending.md"))
def test_the_commands_of_a_page_do_what_they_say_in_a_small_clone(clone, page):
    """One after the other; those of docs/extending.md last, as they change the code."""
    clone.begin()
    for line in here(page):
        said = follow(clone, line)
        if line.startswith("dvc exp run -S 'baselines=[random,averages]'"):
            assert "evaluate@averages-ConvNet" in said
    if page == "docs/extending.md":
        scores = (clone.folder / "results/scores.csv").read_text()
        assert re.search("^averages,ConvNet,", scores, re.M)
        assert re.search("^distilled,AllConv,", scores, re.M)


@pytest.mark.parametrize("page", PAGES)
def test_the_experiments_that_are_run_elsewhere_are_queued_by_dvc_and_pass_the_check(clone, page, tmp_path, monkeypatch):
    """Their settings are read by DVC, and what becomes of them is a params.yaml that may be run."""
    commands = [line for line in lines(page) if re.search("dvc exp run (--temp )?-S", line) and elsewhere(page, line)]
    if not commands:
        return
    clone.begin()
    monkeypatch.chdir(tmp_path)
    for line in commands:
        clone.run(line.replace("--temp ", "").replace("dvc exp run", "dvc exp run --queue"))
        Path("params.yaml").write_text(clone.run("git show refs/exps/celery/stash:params.yaml"))
        check.main()
    clone.run("dvc queue remove --queued")


def test_what_was_queued_is_looked_at_applied_and_made_a_branch(clone):
    """By the name that the queue gave it."""
    clone.begin()
    (name,) = re.findall(r"Queued experiment '([\w-]+)'", clone.run("dvc exp run --queue -S distill.syn_steps=2"))
    clone.run("dvc queue start")
    end = time.monotonic() + 200
    while clone.queued():
        assert time.monotonic() < end
        time.sleep(1)
    assert "stages.distill" in clone.run(f"dvc queue logs {name}")
    clone.run(f"dvc exp apply {name}")
    assert yaml.safe_load((clone.folder / "params.yaml").read_text())["distill"]["syn_steps"] == 2
    clone.run(f"dvc exp branch {name} few")
    assert "few" in clone.run("git branch")


def wheel(folder, version):
    """A simple index in `folder` with a wheel of that version of torch, which is empty."""
    (folder / "torch").mkdir(parents=True)
    name, about = f"torch-{version}-py3-none-any.whl", f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / "torch" / name, "w") as file:
        file.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        file.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{about}/RECORD", "")
    (folder / "torch/index.html").write_text(f'<a href="{name}">{name}</a>')
    return folder.as_uri()


def test_pip_takes_another_build_of_the_pinned_torch_where_a_second_index_has_one(tmp_path):
    """By the one setting of docs/gpus.md; without it, the plain one."""
    (setting,) = [line.partition("=")[0] for line in lines("docs/gpus.md") if line.startswith("PIP_")]
    pin = re.search("^torch==(.*)$", (ROOT / "requirements.txt").read_text(), re.M)
    plain, other = wheel(tmp_path / "pypi", pin[1]), wheel(tmp_path / "pytorch", f"{pin[1]}+cpu")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    for extra, wanted in (({}, pin[1]), ({setting: other}, f"{pin[1]}+cpu")):
        environment = {**kept, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": plain, **extra}
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(tmp_path / wanted), pin[0]]
        subprocess.run(command, env=environment, check=True)
        assert [path.name for path in (tmp_path / wanted).iterdir()] == [f"torch-{wanted}-py3-none-any.whl"]
