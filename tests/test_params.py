import gc
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from ruamel.yaml import YAML

import stages
from mtt import params

ROOT = Path(__file__).parents[1]


class Inner(params.Section):
    every: int = Field(ge=0)


class Toy(params.Section):
    rate: float = Field(gt=0)
    epochs: int = Field(ge=1)
    name: Literal["one", "two"]
    rates: list[float]
    batch: Literal["all"] | Annotated[int, Field(ge=1)]
    inner: Inner


GOOD = {"rate": "0.5", "epochs": "3", "name": "one", "rates": "[0.1, 1]", "batch": "all", "inner": "{every: 0}"}


def read(folder, schema=Toy, section="toy", **changes):
    """Write a params.yaml of one section `toy`, GOOD but for `changes` (None leaves a key out), and read it."""
    values = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return read_text(folder, "toy:\n" + "".join(f"  {key}: {value}\n" for key, value in values.items()), schema, section)


def read_text(folder, text, schema=Toy, section="toy"):
    (folder / "params.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return params.read(section, schema, folder / "params.yaml")


def refusal(folder, call):
    """The lines of the ValueError that `call` raises; each begins with the file."""
    with pytest.raises(ValueError, match=".") as caught:
        call()
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{folder / 'params.yaml'}: ") for line in lines), lines
    return [line.removeprefix(f"{folder / 'params.yaml'}: ") for line in lines]


def test_a_section_is_read_as_it_stands(tmp_path):
    found = read(tmp_path)
    assert found.model_dump() == {"rate": 0.5, "epochs": 3, "name": "one", "rates": [0.1, 1.0], "batch": "all", "inner": {"every": 0}}
    assert read(tmp_path, batch=8).batch == 8


def test_what_is_no_section_is_read_too(tmp_path):
    assert read_text(tmp_path, "methods: [a, b]", list[str], "methods") == ["a", "b"]
    assert refusal(tmp_path, lambda: read_text(tmp_path, "methods: [a, 2]", list[str], "methods")) == [
        "methods.1 = 2: Input should be a valid string"
    ]


def test_a_section_cannot_be_changed_after_reading(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        read(tmp_path).epochs = 4


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"speed": 1}, "toy.speed = 1: unknown key"),
        ({"inner": "{every: 0, each: 2}"}, "toy.inner.each = 2: unknown key"),
        ({"epochs": None}, "toy.epochs: missing"),
        ({"inner": "{}"}, "toy.inner.every: missing"),
        ({"epochs": "many"}, "toy.epochs = 'many': Input should be a valid integer"),
        ({"epochs": "3.0"}, "toy.epochs = 3.0: Input should be a valid integer"),
        ({"epochs": "true"}, "toy.epochs = True: Input should be a valid integer"),
        ({"epochs": ""}, "toy.epochs = None: Input should be a valid integer"),
        ({"rate": "yes"}, "toy.rate = True: Input should be a valid number"),
        ({"rate": "[1]"}, "toy.rate = [1]: Input should be a valid number"),
        ({"rates": "0.1"}, "toy.rates = 0.1: Input should be a valid list"),
        ({"rates": "[0.1, true]"}, "toy.rates.1 = True: Input should be a valid number"),
        ({"name": "three"}, "toy.name = 'three': Input should be 'one' or 'two'"),
        ({"name": "1"}, "toy.name = 1: Input should be 'one' or 'two'"),
        ({"epochs": 0}, "toy.epochs = 0: Input should be greater than or equal to 1"),
        ({"rate": 0.0}, "toy.rate = 0.0: Input should be greater than 0"),
        ({"rate": ".nan"}, "toy.rate = nan: Input should be"),
        ({"rate": ".inf"}, "toy.rate = inf: Input should be"),
        ({"inner": "{every: -1}"}, "toy.inner.every = -1: Input should be greater than or equal to 0"),
        ({"inner": "5"}, "toy.inner = 5: Input should be"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_with_its_key_and_what_was_wanted(tmp_path, changes, line):
    (found,) = refusal(tmp_path, lambda: read(tmp_path, **changes))
    assert found.startswith(line)


@pytest.mark.parametrize("value", [0, -3, "every", "true", 2.5])
def test_a_key_that_may_be_a_word_or_a_number_is_refused_in_one_line_by_its_own_name(tmp_path, value):
    (line,) = refusal(tmp_path, lambda: read(tmp_path, batch=value))
    assert line.startswith("toy.batch = ")


@pytest.mark.parametrize("written", ["1e-3", "1E-03", "1.e-3", "1.0e-3", ".1e-2", "+1e-3", "0.001"])
def test_a_number_is_one_in_each_form_that_dvc_takes_for_one(tmp_path, written):
    """`-S distill.lr_lr=0.00002` leaves 2e-05 in params.yaml."""
    assert read(tmp_path, rate=written, rates=f"[0.1, {written}]").model_dump()["rates"] == [0.1, 0.001]
    assert YAML(typ="safe").load(f"rate: {written}") == {"rate": 0.001}


@pytest.mark.parametrize(("changes", "key"), [({"rate": "'0.1'"}, "toy.rate"), ({"rates": "[0.1, '0.1']"}, "toy.rates.1")])
def test_a_number_in_quotes_comes_with_the_way_to_write_it(tmp_path, changes, key):
    (line,) = refusal(tmp_path, lambda: read(tmp_path, **changes))
    assert line.startswith(f"{key} = '0.1': ")
    assert "in quotes it is a word: write it without" in line


def test_a_word_that_is_no_number_comes_without_that_hint(tmp_path):
    (line,) = refusal(tmp_path, lambda: read(tmp_path, rate="fast"))
    assert "quotes" not in line


def test_several_faults_give_several_lines(tmp_path):
    lines = refusal(tmp_path, lambda: read(tmp_path, rate=-1, epochs=None, name="x", speed=2))
    assert [line.split(":")[0].split(" ")[0] for line in lines] == ["toy.rate", "toy.epochs", "toy.name", "toy.speed"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("other: {}\n", "found no toy; wanted"),
        ("", "found nothing; wanted"),
        ("- toy\n", "found list; wanted"),
        ("toy\n", "found str; wanted"),
        ("toy:\n", "toy = None: "),
        ("toy: {rate: [\n", "while parsing"),
        ("toy:\n\trate: 1\n", "while scanning"),
        ("toy: {}\nother: {a: 1\n", "while parsing"),
        (b"toy: {rate: \xff}\n", ""),
        (b"toy: \x00\n", ""),
    ],
)
def test_a_file_that_holds_no_such_section_is_refused_in_one_line(tmp_path, text, line):
    (found,) = refusal(tmp_path, lambda: read_text(tmp_path, text))
    assert found.startswith(line)


def test_a_broken_file_is_refused_with_the_line_of_the_fault(tmp_path):
    (line,) = refusal(tmp_path, lambda: read_text(tmp_path, "a: 1\nb: 2\nc: [\n"))
    assert "line 3" in line or "line 4" in line


def test_a_key_that_stands_twice_is_refused(tmp_path):
    """YAML would silently take the last."""
    (line,) = refusal(tmp_path, lambda: read_text(tmp_path, "toy: {every: 1, every: 2}\n", Inner))
    assert "every" in line


def test_a_missing_file_is_refused_with_the_command_that_writes_it(tmp_path):
    (line,) = refusal(tmp_path, lambda: params.read("toy", Toy, tmp_path / "params.yaml"))
    assert line == "no such file; run this in the repository, where `make recipe NAME=default` writes it"


def test_a_key_that_is_no_word_is_refused(tmp_path):
    lines = refusal(tmp_path, lambda: read_text(tmp_path, "toy: {every: 1, 5: 2}\n", Inner))
    assert lines == ["toy.5 = 5: Keys should be strings"]


def ended(raising):
    """(exit status, standard error) of a stage whose main does `raising`, with the words it is called with in `words`."""
    code = f"from mtt.params import run\ndef main(*words):\n    {raising}\nrun(main)"
    done = subprocess.run([sys.executable, "-c", code, "one", "two"], cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raising", "errors"),
    [
        ("raise ValueError('a.yaml: first\\nb.yaml: second')", "error: a.yaml: first\nerror: b.yaml: second\n"),
        ("open('nowhere/file')", "error: [Errno 2] No such file or directory: 'nowhere/file'\n"),
        ("1 / 0", "error: division by zero\n"),
        (
            "import subprocess; subprocess.run(['false'], check=True)",
            "error: false: ended with status 1; what it said stands above\n",
        ),
    ],
)
def test_an_error_of_the_users_ends_a_stage_with_status_1_and_no_traceback(raising, errors):
    assert ended(raising) == (1, errors)


@pytest.mark.slow
def test_numbers_that_are_no_longer_finite_end_a_stage_with_a_status_of_their_own():
    """It is a result, of which a study makes an empty row; an error is none."""
    assert ended("raise ArithmeticError('the loss is not finite')") == (params.DIVERGED, "error: the loss is not finite\n")
    assert ended("import os; os.environ['RANK'] = '1'; raise ArithmeticError('the loss is not finite')") == (params.DIVERGED, "")


@pytest.mark.slow
def test_an_error_of_the_programs_keeps_its_traceback():
    status, errors = ended("[][0]")
    assert status == 1
    assert errors.startswith("Traceback")
    assert errors.endswith("IndexError: list index out of range\n")


def test_a_stage_gets_the_words_of_its_command_line_and_may_end_well(monkeypatch):
    words = []
    monkeypatch.setattr(sys, "argv", ["stage", "one", "two"])
    params.run(lambda *found: words.extend(found))
    assert words == ["one", "two"]


@pytest.mark.slow
def test_the_collector_of_a_stage_leaves_out_what_was_loaded_before_it_began():
    _, said = ended("import gc, sys; sys.exit(f'{gc.get_freeze_count()} {len(gc.get_objects())}')")
    frozen, left = map(int, said.split())
    assert frozen > 100 * left


def test_the_collector_is_off_while_a_stage_loads_and_on_when_it_begins(monkeypatch):
    found = []
    for name, off in (("stages.check", True), ("benchmarks.cuda", False)):
        monkeypatch.setattr(sys, "argv", ["-m"])
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", name])
        try:
            importlib.reload(stages)
            assert gc.isenabled() != off
            monkeypatch.setattr(sys, "argv", [name])
            params.run(lambda: found.append(gc.isenabled()))
        finally:
            gc.enable()
    assert found == [True, True]


@pytest.mark.slow
def test_what_the_check_loads_is_pytorch_and_nothing_else_that_takes_long():
    code = "import sys, stages.check; print(*set(sys.argv[1:]) & set(sys.modules))"
    words = [sys.executable, "-c", code, "pandas", "torchvision", "kornia", "sklearn", "matplotlib", "submitit"]
    assert subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "\n"


def test_an_error_without_words_still_says_that_it_is_one(monkeypatch):
    def main():
        raise ValueError

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit) as caught:
        params.run(main)
    assert str(caught.value).startswith("error: ")


def test_an_interrupted_stage_says_how_to_go_on(monkeypatch):
    def main():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["stage"])
    with pytest.raises(SystemExit, match="the same command goes on from there"):
        params.run(main)
