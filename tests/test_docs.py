"""The pages lead where they say, name what is in the code, and the page that is made is as it is made."""

import ast
import re

import pytest
from conftest import ROOT

from docs import __main__ as parameters
from mtt.params import Section

PAGES = sorted([ROOT / "README.md", ROOT / "RESULTS.md", ROOT / "LOG.md", ROOT / "data/raw/README.md", *ROOT.glob("docs/*.md")])
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def words(path):
    """A page without its blocks and code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S))


def anchors(path):
    """What a link into a page may name: GitHub's names of its titles."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_to_a_title_in_it(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", words(ROOT / name)):
        if not re.match(r"[a-z]+:", link):
            file, _, anchor = link.partition("#")
            target = ((ROOT / name).parent / file).resolve() if file else ROOT / name
            assert target.is_relative_to(ROOT), link
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def defined(path):
    """The names that a module defines: functions, classes, and what these define."""

    def inside(node, before=""):
        for child in getattr(node, "body", []):
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                yield before + child.name
                yield from inside(child, f"{before}{child.name}.")

    return set(inside(ast.parse(path.read_text())))


@pytest.mark.parametrize("name", NAMES)
def test_every_function_that_a_page_names_is_in_its_file(name):
    """As in `mtt/unroll.py: match`."""
    for file, function in re.findall(r"`((?:mtt|stages|studies|benchmarks)/\w+\.py): ([\w.]+)`", (ROOT / name).read_text()):
        assert function in defined(ROOT / file), f"{file}: {function}"


def test_the_page_of_the_method_names_where_its_equations_live():
    named = re.findall(r"`(?:mtt|stages)/\w+\.py: [\w.]+`", (ROOT / "docs/method.md").read_text())
    assert len(named) > 20


def test_the_page_of_parameters_is_what_the_command_writes():
    """`make parameters`"""
    assert parameters.PAGE.read_text() == parameters.page()


def test_a_parameter_without_a_meaning_is_refused(monkeypatch):
    monkeypatch.setattr(parameters, "comments", lambda schema: {})
    monkeypatch.setattr(parameters, "comment", lambda mapping, key: "")
    with pytest.raises(ValueError, match="prepare.raw: found no comment beside it"):
        parameters.page()


def test_every_key_of_params_yaml_has_a_row():
    def keys(values, before=""):
        for key, value in values.items():
            schema = isinstance(value, dict) and key != "epochs"
            yield from keys(value, f"{before}{key}.") if schema else [before + key]

    rows = set(re.findall(r"^\| `([\w.]+)` \|", parameters.PAGE.read_text(), re.M))
    assert rows == set(keys(parameters.merged("default")))
    assert issubclass(parameters.SCHEMAS["distill"], Section)
