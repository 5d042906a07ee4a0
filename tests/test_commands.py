"""Every command of README.md and docs/ is run: here, in a clone made small, or by the test that tests/commands.yaml names.

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

import psutil
import pytest
import yaml
from conftest import ROOT
from lab import ended, kill

from recipes.__main__ import update
from stages import check

pytestmark = pytest.mark.slow

PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]}
PROGRAMS = ("make", "dvc", "python", "pip", "pytest", "git", "find", "sbatch", "srun")
LANGUAGES = ("sh", "env", "python", "diff", "text", "sshconfig", "yaml", "json")  # sh alone is commands

ELSEWHERE = yaml.safe_load((ROOT / "tests/commands.yaml").read_text())

SWEPT = "test_commands.py::test_a_run_of_a_sweep_is_looked_at_applied_and_made_a_branch"
START = "test_commands.py::test_the_studies_begin_with_the_stages_of_their_first_run"

# Nothing that would change an expert, so that the published ones are used; the rest as small as may be.
SMALL = {
    "distill": {"iterations": 2, "validate": {"every": 2, "networks": 1, "epochs": 2}},
    "architectures": ["ConvNet"],
    "evaluate": {"networks": 1, "epochs": {"ConvNet": 2}, "learning_rates": [0.01]},
    "whole_architectures": [],
}
FEWER = {  # of the tests that a command runs
    "make test": "tests/test_seeds.py",
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
    texts = [text.replace("\\\n", "") for language, text in blocks(page) if language == "sh"]  # a line that goes on is one
    found = [line for text in texts for line in text.splitlines()]
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
        commands = lines(page) + mentions(page) + [language for language, _ in blocks(page)]
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
    """A clone of what is committed, with the published data and small parameters, in which `make` finds these tests' packages."""

    def __init__(self, folder):
        self.folder, own = folder, folder.parent
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
        (folder / ".venv").mkdir()
        for name in ("bin", "include", "lib", "lib64", "pyvenv.cfg"):
            (folder / ".venv" / name).symlink_to(Path(sys.prefix, name))
        for name in ("runtime", "development"):
            (folder / ".venv" / name).touch()  # newer than the requirements, so that nothing is installed
        names = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MTT_", "PYTEST_"))}
        path = f"{folder}/.venv/bin:{os.environ['PATH']}"
        settings = {"PATH": path, "PYTHONPATH": "", "OMP_NUM_THREADS": "1", "MTT_WORKERS": "1", "DVC_SITE_CACHE_DIR": str(own / "site")}
        self.environment = {**kept, **names, **settings}
        self.run("git switch --quiet --force-create main && dvc pull --quiet")
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
        return ended(self.start(line), seconds=300)

    def start(self, line):
        """Its process, in a group of its own."""
        environment = {**self.environment, "PYTEST_ADDOPTS": FEWER.get(line, "")}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(["bash", "-c", line], cwd=self.folder, env=environment, text=True, start_new_session=True, **pipes)

    def begin(self):
        """Go back to what is committed."""
        self.run("git switch --quiet --discard-changes main && git clean --force --quiet -d && dvc checkout --quiet")

    def queued(self):
        """How many experiments wait or run."""
        return len(re.findall("Queued|Running", self.run("dvc queue status")))


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    made = Clone(tmp_path_factory.mktemp("commands") / "clone")
    yield made
    with contextlib.suppress(AssertionError):
        made.run("dvc queue stop --kill")


def follow(clone, line):
    """Run a line as a reader does, who has something to commit, and makes a recipe that is small."""
    if "git commit" in line:
        (clone.folder / "LOG.md").write_text("")
        (clone.folder / "mtt/new.py").touch()
    said = clone.run(line)
    if "git commit" in line:
        assert not clone.run("git status --porcelain")
    if "--queue" in line:
        clone.names = re.findall(r"Queued experiment '([\w-]+)'", said)
        clone.run(f"dvc queue remove {' '.join(clone.names[1:])}")  # the first of a sweep is enough
    if line == "dvc queue start":
        wait_for(clone)
    if line.startswith("make recipe"):
        clone.shrink()
    return said


def wait_for(clone):
    """Wait until the queue is worked off."""
    end = time.monotonic() + 200
    while clone.queued():
        assert time.monotonic() < end
        time.sleep(4)  # asking takes a second of a processor


@pytest.mark.parametrize("page", [page for page in PAGES if here(page) and page != "docs/extending.md"])
def test_the_commands_of_a_page_do_what_they_say_in_a_small_clone(clone, page):
    """One after the other."""
    clone.begin()
    for line in here(page):
        follow(clone, line)


def test_a_run_of_a_sweep_is_looked_at_applied_and_made_a_branch(clone):
    """After the sweep of README.md, by the name that the queue gave its first run."""
    commands = [span for span in mentions("docs/experiments.md") if elsewhere("docs/experiments.md", span) == SWEPT]
    assert len(commands) == 4
    assert len(clone.names) == 8
    said = [clone.run(line.replace("NAME", clone.names[0]).replace("BRANCH", "ten")) for line in commands]
    assert "Success" in said[0]
    assert "stages.distill" in said[1]
    assert yaml.safe_load((clone.folder / "params.yaml").read_text())["distill"]["syn_steps"] == 10
    assert "ten" in clone.run("git branch")


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(clone, page):
    """Block after block in one process; in the table it is called python."""
    text = "\n".join(text for language, text in blocks(page) if language == "python")
    if text and not elsewhere(page, "python"):
        clone.begin()
        (clone.folder / "page.py").write_text(text)
        clone.run("PYTHONPATH=. python page.py")


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


def working(process):
    """Whether a stage runs under a process."""
    with contextlib.suppress(psutil.Error):
        return any("stages." in " ".join(child.cmdline()) for child in psutil.Process(process.pid).children(recursive=True))


def test_the_studies_begin_with_the_stages_of_their_first_run(clone):
    """All at once, each until then: the rest takes hours. One that has a row for every run ends at once, and well."""
    clone.begin()
    commands = {line for page in PAGES for line in lines(page) + mentions(page) if elsewhere(page, line) == START}
    assert len(commands) > 4
    running = {line: clone.start(line) for line in commands}
    end = time.monotonic() + 120
    try:
        while running:
            for line, process in list(running.items()):
                if working(process) or process.poll() == 0:
                    kill(running.pop(line))
                else:
                    assert process.poll() is None, line + process.stdout.read()
                    assert time.monotonic() < end, line
            time.sleep(0.2)
    finally:
        for process in running.values():
            kill(process)


def test_the_exercises_of_the_page_add_a_method_and_a_network_that_are_scored(clone):
    """Its blocks applied, its commands run, as they stand there."""
    clone.begin()
    for line in here("docs/extending.md"):
        follow(clone, line)
    scores = (clone.folder / "results/scores.csv").read_text()
    for cell in ("averages,ConvNet", "distilled,AllConv"):
        assert re.search(f"^{cell},", scores, re.M), scores


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
