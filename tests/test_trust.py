"""No source unpickles anything but tensors, and no YAML makes objects."""

import ast

import pytest
from conftest import ROOT

PICKLES = {"pickle", "_pickle", "cPickle", "pickletools", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
UNSAFE = {"yaml." + name for name in ("unsafe_load", "unsafe_load_all", "full_load", "full_load_all")}
UNSAFE |= {f"yaml.{c}{name}" for c in ("", "C") for name in ("Loader", "UnsafeLoader", "FullLoader")}
UNSAFE |= {"torch.jit.load", "torch.hub.load", "torch.serialization.add_safe_globals", "torch.serialization.safe_globals"}
SOURCES = sorted(path for folder in ROOT.iterdir() if folder.is_dir() and folder.name[0] != "." for path in folder.rglob("*.py"))


def keyword(call, name, place=None):
    """The source of an argument of a call, by name or by place; empty where it is not given."""
    found = [word.value for word in call.keywords if word.arg == name]
    found += call.args[place : place + 1] if place else []
    return ast.unparse(found[0]) if found else ""


SAFE = {  # calls that are safe in one way
    "torch.load": lambda call: keyword(call, "weights_only") == "True",
    "torch.serialization.load": lambda call: keyword(call, "weights_only") == "True",
    "yaml.load": lambda call: keyword(call, "Loader", 1) in ("yaml.SafeLoader", "yaml.CSafeLoader", "SafeLoader"),
    "yaml.load_all": lambda call: keyword(call, "Loader", 1) in ("yaml.SafeLoader", "yaml.CSafeLoader", "SafeLoader"),
}


def imports(tree):
    """{name in the source: what it stands for}."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = alias.name if alias.asname else alias.name.split(".")[0]
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def dotted(node, known):
    """What a name stands for, such as numpy.load; empty where it was not imported."""
    if isinstance(node, ast.Name):
        return known.get(node.id, "")
    if isinstance(node, ast.Attribute) and (inner := dotted(node.value, known)):
        return f"{inner}.{node.attr}"
    return ""


def modules(node):
    """The top names of what a node imports."""
    names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    return {name.split(".")[0] for name in [*names, *([node.module or ""] if isinstance(node, ast.ImportFrom) else [])]}


def dangers(text):
    """The lines of a source that could run what a file says, as `line: source`."""
    tree = ast.parse(text)
    known, calls, found = imports(tree), {}, []
    for node in ast.walk(tree):
        bad = bool(modules(node) & PICKLES)
        if isinstance(node, ast.Call):
            calls[node.func] = node
            bad |= keyword(node, "allow_pickle") not in ("", "False") or keyword(node, "typ") == "'unsafe'"
        if isinstance(node, (ast.Name, ast.Attribute)):
            name = dotted(node, known)
            bad |= name in UNSAFE or name.split(".")[-1] in ("read_pickle", "to_pickle") or name.split(".")[0] in PICKLES
            bad |= name in SAFE and not (node in calls and SAFE[name](calls[node]))
        if bad:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_a_file_says(path):
    assert dangers(path.read_text()) == []


def test_pickles_of_tensors_are_read_in_two_places_only():
    """Where files of the original code come in, and where the benchmarks read the plain way's format, which they wrote themselves."""
    found = {str(path.relative_to(ROOT)) for path in SOURCES if "torch.load(" in path.read_text() and path.parent.name != "tests"}
    assert found == {"mtt/original.py", "benchmarks/plain.py"}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as harmless",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch\ntorch.load(path, weights_only=flag)",
        "from torch import load as read\nread(path)",
        "import torch\nread = torch.load",
        "import torch as t\nlist(map(t.load, paths))",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import numpy as np\nnp.load(path, allow_pickle=flag)",
        "import pandas as pd\npd.read_pickle(path)",
        "import torch\ntorch.serialization.add_safe_globals([set])",
        "import yaml\nyaml.load(text)",
        "import yaml\nyaml.load(text, yaml.Loader)",
        "import yaml\nyaml.load(text, Loader=yaml.UnsafeLoader)",
        "import yaml\nyaml.unsafe_load(text)",
        "from yaml import full_load\nfull_load(text)",
        "import yaml\nclass Mine(yaml.FullLoader): pass",
        "from ruamel.yaml import YAML\nYAML(typ='unsafe')",
    ],
)
def test_the_walk_finds_what_is_dangerous(text):
    assert dangers(text)


@pytest.mark.parametrize(
    "text",
    [
        "import torch\ntorch.load(path, 'cpu', weights_only=True)",
        "import numpy as np\nnp.load(path)\nnp.load(path, allow_pickle=False)",
        "import yaml\nyaml.safe_load(text)\nyaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml\nclass Mine(yaml.SafeLoader): pass",
        "import json\njson.load(file)",
    ],
)
def test_the_walk_lets_pass_what_is_safe(text):
    assert dangers(text) == []
