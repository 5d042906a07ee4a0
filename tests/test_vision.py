import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtt import vision

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

# A torchvision that fails while $FAULT is set, until nms is declared; its part counts how often it was imported.
STUB = {
    "__init__.py": """
import os, torch
import torchvision.part
if os.environ["FAULT"] and not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError(os.environ["FAULT"])
""",
    "part.py": "import sys\nsys.imported = getattr(sys, 'imported', 0) + 1\n",
}

# Import mtt.vision three times afresh, in one process (torch is slow to start): the sick case last, for it declares operators.
OUTCOMES = """
import json, os, sys, torch

def outcome(fault):
    os.environ["FAULT"], sys.imported, error = fault, 0, None
    for name in [name for name in sys.modules if name.startswith(("torchvision", "mtt"))]:
        del sys.modules[name]
    try:
        from mtt.vision import torchvision
    except RuntimeError as raised:
        error = str(raised)
    declared = [hasattr(torch.ops.torchvision, name) for name in ("nms", "qnms")]
    return {"error": error, "declared": declared, "imported": sys.imported}

faults = {"other": "no space left", "healthy": "", "sick": "operator torchvision::nms does not exist"}
print(json.dumps({name: outcome(fault) for name, fault in faults.items()}))
"""


def printed(code, **environment):
    """What `code` prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stub")
    (folder / "torchvision").mkdir()
    for name, text in STUB.items():
        (folder / "torchvision" / name).write_text(text)
    return json.loads(printed(OUTCOMES, PYTHONPATH=str(folder)))


def test_torchvision_works_in_a_fresh_process():
    """Whatever torch it stands beside: what the project uses of it can be called."""
    code = "import torch; from mtt.vision import torchvision as t; print(tuple(t.utils.make_grid(torch.zeros(2, 1, 4, 4)).shape))"
    assert printed(code) == "(3, 8, 14)\n"


def test_an_error_of_another_kind_is_not_swallowed(outcomes):
    assert outcomes["other"] == {"error": "no space left", "declared": [False, False], "imported": 1}


def test_a_healthy_torchvision_is_imported_once_and_nothing_is_declared(outcomes):
    assert outcomes["healthy"] == {"error": None, "declared": [False, False], "imported": 1}


def test_beside_a_cpu_only_torch_the_operators_are_declared_and_all_of_torchvision_imported_again(outcomes):
    assert outcomes["sick"] == {"error": None, "declared": [True, True], "imported": 2}


def test_torchvision_is_imported_where_it_is_first_used_and_not_before():
    """A second or more of every process: the check of the parameters, and a distillation until it draws its pictures."""
    code = (
        "import sys, stages.check; print('torchvision' in sys.modules, 'stages.distill' in sys.modules, 'stages.evaluate' in sys.modules)"
    )
    assert printed(code) == "False True True\n"
    with pytest.raises(AttributeError, match="'mtt.vision' has no attribute 'torchaudio'"):
        vision.torchaudio  # noqa: B018
