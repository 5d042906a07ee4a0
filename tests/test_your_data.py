"""docs/your-data.md, from the lines that write its images to the scores; and what it says of them."""

import os
import re
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from conftest import ROOT
from PIL import Image

from mtt import imageset
from stages import check, report
from stages.prepare import Prepare

PAGE = (ROOT / "docs/your-data.md").read_text()
TREE, RUN, CSV, AGAIN = re.findall(r"^```(?:python|sh)\n(.*?)^```", PAGE, re.S | re.M)
BACK = re.search("`(git checkout [^`]*)`", PAGE)[1]
SMALL = {
    "network.width": 4, "experts.count": 2, "distill.iterations": 2, "distill.syn_steps": 3, "distill.validate.every": 2,
    "distill.validate.networks": 1, "distill.validate.epochs": 2, "evaluate.networks": 1, "evaluate.epochs.ConvNet": 2,
    "evaluate.learning_rates": [0.01], "whole.networks": 1, "whole.epochs.ConvNet": 2, "whole.learning_rates": [0.01],
}  # fmt: skip


def shell(text, cwd):
    names = {f"GIT_{role}_{what}": "test" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    environment = {**os.environ, **names, "PATH": path, "PYTHONPATH": "", "MTT_WORK": ""}
    found = subprocess.run(["bash", "-ec", text], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stdout + found.stderr


def settings(command):
    """{key: value} of a command's -S."""
    return dict(word.strip("'").split("=", 1) for word in re.findall(r"-S ('[^']*'|\S+)", command))


@pytest.mark.slow
def test_the_commands_of_the_page_lead_from_photographs_to_scores(tmp_path):
    """All of them, in a fresh clone, with shorter runs of smaller networks; by folder and by CSV the sets and the scores are the same."""
    pytest.importorskip("skimage")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    shell(f"{sys.executable} - <<'END'\n{TREE}END", clone)
    assert [len(list((clone / "data/faces" / name).iterdir())) for name in ("face", "other")] == [100, 100]
    shorter = " ".join(f"-S '{key}={value}'" for key, value in SMALL.items())
    shell(f"{RUN.rstrip()} {shorter}", clone)
    found = imageset.load(clone / "data/distilled/set.safetensors")
    assert (found.classes, tuple(found.images.shape)) == (["face", "other"], (2, 1, 25, 25))
    counts = [len(imageset.load(clone / f"data/prepared/{part}.safetensors").images) for part in ("train", "validation", "test")]
    assert counts == [112, 28, 60]
    assert all(f"{word} {count}" in PAGE for word, count in zip(("on", "on", "on"), counts, strict=True))
    scores = (clone / "results/scores.csv").read_text()
    shell(f"{sys.executable} - <<'END'\n{CSV}END", clone)
    shell(AGAIN, clone)
    assert (clone / "results/scores.csv").read_text() == scores
    assert imageset.load(clone / "data/distilled/set.safetensors").name == "csv"
    shell(BACK, clone)
    assert not subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True).stdout
    assert imageset.load(clone / "data/distilled/set.safetensors").name == "digits"
    shell("dvc status --quiet", clone)


def test_the_settings_of_the_page_pass_the_check(make_run):
    run = make_run()
    run.values = yaml.safe_load((ROOT / "recipes/default.yaml").read_text())
    for key, value in {**settings(RUN), **settings(AGAIN)}.items():
        section, _, name = key.partition(".")
        run.set(**{section: {name: yaml.safe_load(value)} if name else yaml.safe_load(value)})
    check.main()


def test_the_table_of_the_page_is_that_of_its_rows():
    """results/faces.csv is the scores.csv that the command of the page left."""
    found = re.search("<!-- faces -->\n(.*?)<!-- /faces -->", PAGE, re.S)[1]
    assert found == report.markdown(pd.read_csv(ROOT / "results/faces.csv"))


def test_the_picture_of_the_page_is_of_two_images():
    with Image.open(ROOT / "docs/faces.png") as picture:
        assert picture.size[0] == pytest.approx(2 * picture.size[1], rel=0.1)


def test_the_page_and_the_raw_folder_name_every_set():
    sets = Prepare.model_fields["set"].annotation.__args__
    text = (ROOT / "data/raw/README.md").read_text()
    assert all(f"`{name}`" in text for name in sets)
    (line,) = re.findall(r"(?m)^  set: .*", (ROOT / "params.yaml").read_text())
    assert all(name in line for name in sets)
