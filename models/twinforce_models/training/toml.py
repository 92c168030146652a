"""The text of a recipe as a TOML file, which `read_recipe` reads as the same recipe."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from twinforce_models.training.config import About, Recipe


def recipe_text(recipe: Recipe, about: About, comment: str) -> str:
    """Return the TOML file of a recipe and the text of its model card.

    Args:
        recipe: The recipe; fields at their defaults are left out.
        about: Text of the model card.
        comment: First line.
    """
    values = changed_values(recipe)
    parts = ("hyperparameters", "sampling", "stages")
    top = {key: value for key, value in values.items() if key not in parts}
    lines = [f"# {comment}", *_pairs(top)]
    for name in ("hyperparameters", "sampling"):
        if name in values:
            lines += ["", f"[{name}]", *_pairs(values[name])]
    for stage in values["stages"]:
        lines += ["", "[[stages]]", *_pairs(stage)]
    described = changed_values(about)
    sources, teacher = described.pop("training_data", ()), described.pop("teacher", None)
    lines += ["", "[about]", *_pairs(described)]
    for source in sources:
        lines += ["", "[[about.training_data]]", *_pairs(source)]
    if teacher is not None:
        lines += ["", "[about.teacher]", *_pairs(teacher)]
    return "\n".join(lines) + "\n"


def changed_values(part: Any) -> Any:
    """Return a dataclass as a dictionary without fields at their defaults."""
    if isinstance(part, tuple):
        return [changed_values(each) for each in part]
    if not hasattr(part, "__dataclass_fields__"):
        return part
    return {
        each.name: changed_values(getattr(part, each.name))
        for each in fields(part)
        if getattr(part, each.name) != each.default
    }


def _pairs(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield f"{key} = {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_pairs(value)) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    if isinstance(value, str):  # JSON's strings are TOML's, but for the character DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
