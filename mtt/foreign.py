"""What may come from elsewhere, read with care: JSON within bounds, every key once, every number finite, held to a schema.

Bounds come before allocation. No message repeats more of a file than a few words, and none breaks its line.
"""

import json
import math
import reprlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

LARGEST = 1 << 20  # bytes of JSON; parsed, they take up to 36 times as much memory (`{"":{"":{}}}` and the like)
DEEPEST = 32  # brackets within brackets


class Schema(BaseModel):
    """What a file must say; it may say more. As JSON has it: no conversion but of whole numbers where fractions are wanted."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def several(item, **bounds):
    """The type of a list, with `bounds` on its length. It fails at its first fault: a million of them would take a gigabyte to tell."""
    return Annotated[list[item], FailFast(), Field(**bounds)]


Word = Annotated[str, Field(pattern=r"^\P{C}+$", max_length=200)]  # nothing that breaks a line
Shape = several(Annotated[int, Field(ge=1, le=1 << 40)], max_length=8)


def parsed(text):
    """The mapping that JSON in UTF-8 holds. Raises ValueError for what is broken, too deep, has a key twice or a number not finite."""
    try:
        value = json.loads(text.decode(), object_pairs_hook=_each_once, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"no mapping but {reprlib.repr(value)}")
    _shallow(value, DEEPEST)
    return value


def _each_once(pairs):
    """An object's dict."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key that stands twice")
    return found


def _finite(word):
    """The float of a word."""
    if not math.isfinite(number := float(word)):
        raise ValueError(f"the number {word[:20]}")
    return number


def _shallow(value, deepest):
    if deepest == 0:
        raise ValueError("brackets nested too deep")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _shallow(inner, deepest - 1)


def held(place, schema, value):
    """`value`, parsed JSON, as `schema` has it. Raises ValueError, one line: `place`, the first key that is wrong, and what was wanted."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
    key, found = ".".join(map(str, fault["loc"])), reprlib.repr(fault["input"])
    raise ValueError(f"{place}: found {'no ' + key if fault['type'] == 'missing' else f'{key} = {found}'}; {fault['msg']}")
