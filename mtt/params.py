"""params.yaml, read strictly: every key known, none missing, each of its own type; and the errors of a stage in one line."""

import sys
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class Section(BaseModel):
    """A section of params.yaml: no default, no unknown key, no conversion of one type into another."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Network(Section):
    """`network:`, the ConvNet of experts and students."""

    width: int = Field(ge=1)  # channels of each block
    depth: int = Field(ge=1, le=8)  # blocks; 3 for 28 and 32 px, 4 for 64, 5 for 128


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
        raise ValueError("\n".join(_line(path, section, fault) for fault in error.errors())) from None


def read_all(path="params.yaml"):
    """All of params.yaml, unchecked. Raises ValueError where it is missing or no mapping."""
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; `make recipe NAME=default` writes it") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: found {type(values).__name__}; wanted sections, as in recipes/default.yaml")
    return values


def _line(path, section, fault):
    """One pydantic fault as one line."""
    key, found = ".".join(map(str, [section, *fault["loc"]])), fault["input"]
    if fault["type"] == "missing":
        return f"{path}: {key}: missing"
    if fault["type"] == "extra_forbidden":
        return f"{path}: {key} = {found!r}: unknown key"
    hint = "; YAML reads it as a word: write 0.001 or 1.0e-3" if isinstance(found, str) and _is_number(found) else ""
    return f"{path}: {key} = {found!r}: {fault['msg']}{hint}"


def _is_number(word):
    try:
        float(word)
    except ValueError:
        return False
    return True


def run(main):
    """Call a stage's `main` with the paths of its command line; an error of the user's becomes one line and exit status 1."""
    try:
        main(*sys.argv[1:])
    except (ValueError, OSError, ArithmeticError) as error:
        sys.exit("\n".join(f"error: {line}" for line in str(error).splitlines()))
    except KeyboardInterrupt:
        sys.exit("interrupted; what was finished is kept, and the same command goes on from there")
