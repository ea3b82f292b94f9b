"""From nested mappings to the dataclasses of a recipe: every name and type is checked, and a mistake is named."""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

import yaml


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the key and the remedy."""


def apply_override(sections: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in the nested mapping."""
    path, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"{override!r} is not of the form section.key=value, such as training.lr=3e-4")
    *parents, key = path.split(".")
    target = sections
    for parent in parents:
        target = target.setdefault(parent, {})
        if not isinstance(target, dict):
            raise RecipeError(f"{override!r}: {parent} is a single value, it has no keys")
    try:
        target[key] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"{override!r}: the value is not YAML: {error}") from error


def refuse_unknown(mapping: Mapping[str, Any], known: Iterable[str], path: str) -> None:
    """Raise for the first key that is not known, with the nearest right name."""
    known = list(known)
    for key in mapping:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise RecipeError(f"unknown key {path}{key}; did you mean {path}{nearest}? Known: {', '.join(known)}")


def build_section(cls: type, mapping: Any, path: str) -> Any:
    """Make the dataclass `cls` of a mapping, checking names and types all the way down."""
    if not isinstance(mapping, Mapping):
        raise RecipeError(f"{path.rstrip('.')} must be a mapping of keys, not {mapping!r}")
    refuse_unknown(mapping, [item.name for item in fields(cls)], path)
    hints = typing.get_type_hints(cls)
    values = {key: _convert(value, hints[key], f"{path}{key}") for key, value in mapping.items()}
    required = [item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING]
    for key in required:
        if key not in values:
            raise RecipeError(f"the recipe lacks {path}{key}")
    return cls(**values)


def _convert(value: Any, hint: Any, path: str) -> Any:
    """Check `value` against a type hint; YAML's integers and `3e-4` (a string to YAML 1.1) count as floats."""
    origin = typing.get_origin(hint)
    if is_dataclass(hint):
        return build_section(hint, value, f"{path}.")
    if origin in (types.UnionType, typing.Union):
        for option in typing.get_args(hint):
            try:
                return _convert(value, option, path)
            except RecipeError:
                if typing.get_origin(option) is typing.Literal and isinstance(value, str):
                    raise  # it names the nearest
                continue
    elif origin is typing.Literal:
        # YAML 1.1 reads a bare `no` as false.
        value = "no" if value is False and "no" in typing.get_args(hint) else value
        if value in typing.get_args(hint):
            return value
        nearest = difflib.get_close_matches(str(value), typing.get_args(hint), n=1, cutoff=0.0)[0]
        options = ", ".join(typing.get_args(hint))
        raise RecipeError(f"{path} is {value!r}; did you mean {nearest}? It takes one of {options}")
    elif origin is list:
        if isinstance(value, list):
            return [_convert(item, typing.get_args(hint)[0], f"{path}[{i}]") for i, item in enumerate(value)]
    elif origin is dict:
        if isinstance(value, Mapping):
            return dict(value)
    elif hint is float:
        if not isinstance(value, bool):
            try:
                return float(value)
            except (TypeError, ValueError):
                pass
    elif isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise RecipeError(f"{path} is {value!r}, but takes {_describe(hint)}")


def _describe(hint: Any) -> str:
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return ", ".join(typing.get_args(hint))
    names = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}
    return names.get(hint, str(hint))
