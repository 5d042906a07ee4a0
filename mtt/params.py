"""params.yaml, read strictly: every key known, none missing, each of its own type; and the errors of a stage in one line."""

import gc
import importlib
import os
import re
import reprlib
import sys
from collections import Counter
from functools import lru_cache
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mtt import errors

DIVERGED = 3  # the exit status where numbers are no longer finite, which is a result; that of any other error is 1
LARGEST = 1 << 15  # bytes; ours has 7 kB, and PyYAML and pydantic take up to 2 kB for each


class Section(BaseModel):
    """A section of params.yaml: no default, no unknown key, no conversion of one type into another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Network(Section):
    """`network:`, the ConvNet of experts and students."""

    width: int = Field(ge=1)  # channels of each block
    depth: int = Field(ge=1, le=8)  # blocks; 3 for 28 and 32 px, 4 for 64, 5 for 128, one more for twice that


class Augmentation(Section):
    """`augmentation:`, the same for experts, students and evaluation."""

    families: list[Literal["color", "crop", "cutout", "flip", "scale", "rotate"]]  # DSA's; digits are not flipped; [] is none


def read(section, schema, path="params.yaml"):
    """The value of one top-level key of params.yaml, checked against `schema` (a Section or any type).

    Raises ValueError, one line for each fault, naming file, key, value found and what was wanted.
    """
    values = read_all(path)
    if section not in values:
        raise ValueError(f"{path}: found no {section}; wanted it at the top level, as in recipes/default.yaml")
    try:
        return TypeAdapter(schema).validate_python(values[section])
    except ValidationError as error:
        lines = {}  # one for each key: a union has a fault for each of its types
        for fault in error.errors():
            key, what = _place(section, values[section], fault), _what(fault)
            lines[key] = f"{lines[key]}; or: {fault['msg']}" if key in lines else f"{path}: {key}{what}"
        raise ValueError("\n".join(lines.values())) from None


def read_all(path="params.yaml"):
    """All of params.yaml, unchecked. Raises ValueError where it is missing or no mapping."""
    try:
        with open(path, encoding="utf-8") as file:
            if (size := os.fstat(file.fileno()).st_size) > LARGEST:
                raise ValueError(f"found {size} bytes; wanted at most {LARGEST}")
            values = _parsed(file.read(), str(path))
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; run this in the repository, where `make recipe NAME=default` writes it") from None
    except RecursionError:
        raise ValueError(f"{path}: found brackets nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        found = "nothing" if values is None else type(values).__name__
        raise ValueError(f"{path}: found {found}; wanted sections, as in recipes/default.yaml")
    return values


@lru_cache(maxsize=8)
def _parsed(text, name):
    """The values of a YAML text, parsed once: a stage reads a dozen sections of it, and PyYAML is slow. Not to be changed."""
    loader = _Loader(text)
    loader.name = name
    return loader.get_single_data()


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice (YAML would take the last), one that would break a line of ours, and every alias.

    A few lines of aliases of aliases are a billion words once they are written out.
    """

    def compose_node(self, parent, index):
        """The next node, which is no alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"found an alias, line {self.peek_event().start_mark.line + 1}; wanted every value written out")
        return super().compose_node(parent, index)

    def construct_object(self, node, deep=False):
        """The value of a node, which is what its tag says."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:  # PyYAML lets all of them out
            found = f"found {reprlib.repr(node.value)}, line {node.start_mark.line + 1}"
            raise yaml.YAMLError(f"{found}; wanted {node.tag.split(':')[-1]} ({error})") from None

    def construct_mapping(self, node, deep=False):
        """The mapping of a node, each key once."""
        found = super().construct_mapping(node, deep)
        place = f"line {node.start_mark.line + 1}; wanted"
        if len(found) < len(node.value):
            keys = Counter(self.construct_object(key) for key, _ in node.value)
            raise yaml.YAMLError(f"found {', '.join(str(key) for key in keys if keys[key] > 1)} twice, {place} each key once")
        if odd := [key for key in found if isinstance(key, str) and not key.isprintable()]:
            raise yaml.YAMLError(f"found the key {odd[0]!r}, {place} words")
        return found


# YAML 1.2's form too, which DVC reads and writes: `-S distill.lr_lr=0.00002` leaves 2e-05 in params.yaml, in YAML 1.1 a word.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def _place(section, value, fault):
    """The key of a pydantic fault, dotted; what pydantic adds for the types of a union is left out."""
    keys = [section]
    for part in fault["loc"]:
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            keys.append(part)
            value = value[part]
        elif fault["type"] == "missing":
            keys.append(part)
    return ".".join(map(str, keys))


def _what(fault):
    """What is wrong, as the rest of the line after the key."""
    found = fault["input"]
    if fault["type"] == "missing":
        return ": missing"
    if fault["type"] == "extra_forbidden":
        return f" = {found!r}: unknown key"
    hint = "; in quotes it is a word: write it without" if isinstance(found, str) and _is_number(found) else ""
    return f" = {found!r}: {fault['msg']}{hint}"


def _is_number(word):
    try:
        float(word)
    except ValueError:
        return False
    return True


def run(main):
    """Call a stage's `main` with the paths of its command line; an error of the user's becomes one line and exit status 1 (or DIVERGED).

    The `main` that is called is the importable module's, not that of `__main__`, so that a job elsewhere finds its functions by name.
    """
    module = sys.modules["__main__"].__spec__ if main.__module__ == "__main__" else None
    if module:
        main = importlib.import_module(module.name).main
    gc.enable()  # it was off while the stage was loaded
    gc.freeze()  # what is loaded stays: the collector would go through all of PyTorch, at the end for a third of what loading it takes
    stage, words = main.__module__.removeprefix("stages."), sys.argv[1:]
    if wrong := errors.wrong_words(main, words):
        sys.exit(f"error: {wrong}")
    try:
        main(*words)
    except Exception as error:
        if not (lines := errors.lines(error, stage, words, read_all)):
            raise
        said = "\n".join(f"error: {line}" for line in lines)
        if type(error) is not ArithmeticError:  # which stages raise for this alone
            sys.exit(said)
        if os.environ.get("RANK", "0") == "0":  # all ranks have the same numbers
            print(said, file=sys.stderr)
        sys.exit(DIVERGED)
    except KeyboardInterrupt:
        sys.exit("interrupted; what was finished is kept, and the same command goes on from there")
