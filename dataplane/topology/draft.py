"""A topology that may be partly wrong, for the rules that look at several objects at once.

Rules must still find an overlap of NAT IPs when some other key is misspelt, so they do not read
validated objects but drafts: views of one object's data that give each field its checked value,
or None where it is missing or wrong (which the object's own validation reports).
"""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, NamedTuple, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

Path = tuple[int | str, ...]
"""Where in the document: keys and list indices from the top."""


def path_text(path: Path) -> str:
    """The path as messages show it: `private_endpoints[0].ip`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class Finding(NamedTuple):
    """One fault: where it is, what is wrong and what to do, and the value that is there."""

    path: Path
    message: str
    value: Any = None


class Draft:
    """One object of the document at `path`: raw data, or a validated model."""

    def __init__(self, model: type[BaseModel], data: object, path: Path = ()) -> None:
        self.model = model
        self.path = path
        self._data = data

    def at(self, name: str) -> Path:
        """The path of a key of this object."""
        return (*self.path, name)

    def has(self, name: str) -> bool:
        """True when the key is there, whatever its value."""
        if isinstance(self._data, BaseModel):
            return name in self._data.model_fields_set
        return isinstance(self._data, Mapping) and name in self._data

    def field(self, name: str) -> Any:
        """The checked value of a field, its default when the key is absent, None when it cannot be used."""
        if isinstance(self._data, BaseModel):
            return getattr(self._data, name)
        if not self.has(name):
            info = self.model.model_fields[name]
            return (
                None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
            )
        return _checked(_adapter_of_field(self.model, name), self._raw(name))

    def items(self, name: str) -> list[tuple[Path, Any]]:
        """The usable items of a list of values, each with its path."""
        raw = self._raw(name)
        if isinstance(self._data, BaseModel) or not self.has(name):
            return [((*self.path, name, index), item) for index, item in enumerate(self.field(name) or ())]
        adapter = _adapter_of_item(self.model, name)
        checked = [
            ((*self.path, name, index), _checked(adapter, item)) for index, item in enumerate(_as_list(raw))
        ]
        return [(path, item) for path, item in checked if item is not None]

    def count(self, name: str) -> int:
        """How many items a list has, usable or not."""
        return len(_as_list(self._raw(name)))

    def is_list(self, name: str) -> bool:
        """True when the key holds a list."""
        return isinstance(self._raw(name), list | tuple)

    def child(self, name: str) -> "Draft":
        """The object under a key; an empty one where there is none."""
        return Draft(_model_in(self.model, name), self._raw(name), self.at(name))

    def children(self, name: str) -> list["Draft"]:
        """The objects of a list of objects."""
        model = _model_in(self.model, name)
        return [
            Draft(model, item, (*self.path, name, index))
            for index, item in enumerate(_as_list(self._raw(name)))
        ]

    def _raw(self, name: str) -> Any:
        if isinstance(self._data, BaseModel):
            return getattr(self._data, name)
        return self._data.get(name) if isinstance(self._data, Mapping) else None


def model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """The model of the object at a path below a model; None when something else is there."""
    current: type[BaseModel] | None = model
    for step in path:
        if isinstance(step, int):
            continue
        if current is None or step not in current.model_fields:
            return None
        current = _find_model(current.model_fields[step].annotation)
    return current


def _as_list(raw: object) -> list[Any] | tuple[Any, ...]:
    return raw if isinstance(raw, list | tuple) else ()


def _checked(adapter: TypeAdapter[Any], raw: object) -> Any:
    try:
        return adapter.validate_python(raw)
    except ValidationError:
        return None


@cache
def _adapter_of_field(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    info = model.model_fields[name]
    annotation: Any = info.annotation
    return TypeAdapter(Annotated[(annotation, *info.metadata)] if info.metadata else annotation)


@cache
def _adapter_of_item(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_args(model.model_fields[name].annotation)[0])


@cache
def _model_in(model: type[BaseModel], name: str) -> type[BaseModel]:
    found = _find_model(model.model_fields[name].annotation)
    assert found is not None, f"{model.__name__}.{name} holds no object"
    return found


def _find_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _find_model(argument)
        if found is not None:
            return found
    return None
