import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from recipes import __main__ as recipes
from stages import check

NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_merges_and_passes_the_check(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes.write(name)
    check.main()
    values, changes = yaml.safe_load(Path("params.yaml").read_text()), yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text())
    assert values["prepare"]["set"] == changes["prepare"]["set"]
    assert values["distill"]["iterations"] == changes["distill"]["iterations"]


def test_an_unknown_recipe_or_key_is_refused():
    with pytest.raises(ValueError, match="found NAME=cifar11; wanted one of default, "):
        recipes.merged("cifar11")
    with pytest.raises(ValueError, match="recipes/x.yaml: distill.syn_stepz: unknown key"):
        recipes.update(recipes.merged("default"), {"distill": {"syn_stepz": 1}}, "recipes/x.yaml: ")


def test_the_committed_params_equal_the_default():
    committed = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert committed == (ROOT / "recipes/default.yaml").read_text()
