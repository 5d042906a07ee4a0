"""`python -m docs`: write docs/parameters.md, of every key of params.yaml, from the schemas, the default and the recipes.

What a key means stands in one place: the comment beside it in its schema, or, where that has none, beside it in recipes/default.yaml.
"""

import ast
import inspect
import sys
from functools import cache
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from mtt import tables
from mtt.files import write
from mtt.params import run
from recipes.__main__ import HERE, comment, merged
from stages.check import SCHEMAS

PAGE = Path(__file__).with_name("parameters.md")
PUBLISHED = ("cifar10-", "cifar100-", "tiny-imagenet-", "imagenet-")  # the recipes with settings of papers
HEAD = """# Parameters

All of params.yaml, as `make parameters` writes this page from the schemas at the head of `stages/*.py`, from `recipes/default.yaml` and from the recipes that have a paper's settings ({}, {} of them; the last column has their values where one of them is not the default). `make check` holds params.yaml to the schemas, and to what must hold between sections (`stages/check.py`). Every key must be there; `-S section.key=value` changes one for an experiment.
"""  # noqa: E501


def main():
    """Write the page."""
    write(PAGE, page())


def page():
    """The page, in Markdown. Raises ValueError for a key without a meaning."""
    names = sorted(path.stem for path in HERE.glob("*.yaml") if path.stem.startswith(PUBLISHED))
    default, papers = merged("default"), [merged(name) for name in names]
    text, alone = HEAD.format(", ".join(f"`{start}*`" for start in PUBLISHED), len(names)), []
    for key, schema in SCHEMAS.items():
        known = default[key], [paper[key] for paper in papers]
        found = list(rows(key, schema, TypeAdapter(schema).json_schema(), *known, comment(default, key)))
        if section(schema):
            text += "\n\n".join(filter(None, [f"\n## {key}", comment(default, key), table(found)]))
        else:
            alone += found
    return text + "\n## Lists\n\n" + table(alone)


def section(schema):
    """Whether a schema is that of a section, and not of one value."""
    return inspect.isclass(schema) and issubclass(schema, BaseModel)


def rows(key, schema, wanted, default, papers, meaning):
    """[key, meaning, values, default, papers' values] of a key, or of each key of a section."""
    if not section(schema):
        yield [f"`{key}`", meaning or lacking(key), values(wanted), shown(default), published(default, papers)]
        return
    for name, field in schema.model_fields.items():
        own, alias = field.annotation, field.alias or name
        below = {**wanted["properties"][alias], "$defs": wanted.get("$defs", {})}
        below |= below["$defs"].get(below.pop("$ref", "").rpartition("/")[2], {})
        beside = comments(schema).get(name) or comment(default, alias)
        yield from rows(f"{key}.{alias}", own, below, default[alias], [paper[alias] for paper in papers], beside)


def lacking(key):
    """Raise ValueError for a key that nothing explains."""
    raise ValueError(f"{key}: found no comment beside it; wanted its meaning in its schema or in recipes/default.yaml")


@cache
def comments(schema):
    """{field: the comment at the end of its line in the source} of a schema."""
    lines, node = source(schema.__module__)
    (own,) = [found for found in ast.walk(node) if isinstance(found, ast.ClassDef) and found.name == schema.__name__]
    fields = [line for line in own.body if isinstance(line, ast.AnnAssign)]
    return {field.target.id: lines[field.end_lineno - 1][field.end_col_offset :].strip().removeprefix("#").strip() for field in fields}


@cache
def source(module):
    """The lines of a module, and its tree."""
    text = inspect.getsource(sys.modules[module])
    return text.splitlines(), ast.parse(text)


def values(wanted):
    """What a key may be, in words, from its JSON schema."""
    if "anyOf" in wanted:
        return " or ".join(map(values, wanted["anyOf"]))
    if "const" in wanted or "enum" in wanted:
        return ", ".join(f"`{value}`" for value in wanted.get("enum", [wanted.get("const")]))
    if wanted["type"] == "array":
        return f"list of {values(wanted['items'])}"
    if wanted["type"] == "object":
        return f"by name: {values(wanted['additionalProperties'])}"
    names = {"integer": "whole number", "number": "number", "string": "path", "boolean": "`true`, `false`"}
    return names[wanted["type"]] + bounds(wanted)


def bounds(wanted):
    """The range of a number."""
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return "".join(f", {sign} {wanted[key]:g}" for key, sign in signs.items() if key in wanted)


def shown(value):
    """A value as params.yaml has it, in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(each)}" for key, each in value.items())
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def published(default, papers):
    """The papers' values, most where there are few, else from the least to the largest; nothing where all are the default."""
    each = list({shown(value): value for value in papers}.values())
    if each == [default]:
        return ""
    numbers = [value for value in each if isinstance(value, (int, float)) and not isinstance(value, bool)]
    others = [value for value in each if value not in numbers or isinstance(value, bool)]
    ordered = [shown(value) for value in sorted(numbers)] + sorted(map(shown, others))
    if len(numbers) > 6:
        ordered[: len(numbers)] = [f"{shown(min(numbers))} to {shown(max(numbers))}"]
    return ", ".join(ordered) if len(ordered) <= 6 else f"{len(ordered)} lists, as their sets have it"


def table(found):
    """Markdown."""
    return tables.markdown(["key", "meaning", "values", "default", "in papers' recipes"], found)


if __name__ == "__main__":
    run(main)
