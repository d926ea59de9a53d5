"""The expressions of ARM templates, as far as an exported template needs them.

`[parameters('vnet')]`, `[concat(…)]`, `[resourceId('Microsoft.Network/…', …)]` and a few more are resolved; what only
a deployment knows, such as `reference(…)`, is refused. Source: "Template functions in ARM templates".
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*(?:'((?:[^']|'')*)'|(-?\d+)|([A-Za-z_][\w.]*)|([()\[\],.]))")

_WITH_DEFAULTS = "use `az group export` with `--include-parameter-default-value` or `--skip-all-params`"
_DEPLOYED = "deploy the template and import what `az` prints of the resources"


class ExpressionError(ValueError):
    """An expression that cannot be resolved; the message says why and what to do."""


class Template:
    """The names that the expressions of one template may use; `prefix` begins the ids of its resources."""

    def __init__(self, data: Mapping[str, Any], prefix: str) -> None:
        self._parameters = _by_lower_case(data.get("parameters"))
        self._variables = _by_lower_case(data.get("variables"))
        self._prefix = prefix
        self._resolving: list[str] = []

    def resolve(self, value: Any) -> Any:
        """The value that an expression stands for; anything else as it is. Raises ExpressionError."""
        if not isinstance(value, str) or not (value.startswith("[") and value.endswith("]")):
            return value
        if value.startswith("[["):
            return value[1:]
        tokens = _tokens(value[1:-1])
        result = self._expression(tokens)
        if tokens:
            raise ExpressionError(f"cannot be read from {tokens[0][1]!r} on; write the value itself")
        return result

    def resource_id(self, *arguments: Any) -> str:
        """The id of a resource: `[subscription, [group,]] type, name, name …`."""
        places = [place for place, text in enumerate(arguments) if isinstance(text, str) and "/" in text]
        if not places or not all(isinstance(text, str) for text in arguments):
            raise ExpressionError("resourceId needs a type, such as 'Microsoft.Network/loadBalancers', and names")
        scope, kind, names = arguments[: places[0]], arguments[places[0]], arguments[places[0] + 1 :]
        namespace, *types = kind.strip("/").split("/")
        if len(names) == 1:
            names = tuple(names[0].split("/"))
        if len(types) != len(names):
            raise ExpressionError(f"resourceId has {len(names)} names for {kind}, which takes {len(types)}")
        prefix = self._prefix
        if len(scope) == 2:
            prefix = f"/subscriptions/{scope[0]}/resourceGroups/{scope[1]}"
        pairs = "/".join(f"{one}/{name}" for one, name in zip(types, names, strict=True))
        return f"{prefix}/providers/{namespace}/{pairs}"

    def _expression(self, tokens: list[tuple[str, str]]) -> Any:
        kind, text = _next(tokens)
        if kind == "text":
            return text
        if kind == "number":
            return int(text)
        if kind != "name":
            raise ExpressionError(f"cannot be read at {text!r}; write the value itself")
        _expect(tokens, "(")
        arguments: list[Any] = []
        function = self._functions().get(text.lower())
        if function is None:
            raise ExpressionError(f"{text}(…) is known only to a deployment; {_DEPLOYED}")
        while tokens and tokens[0][1] != ")":
            arguments.append(self._expression(tokens))
            if tokens and tokens[0] == ("sign", ","):
                tokens.pop(0)
        _expect(tokens, ")")
        try:
            value = function(*arguments)
            while tokens and tokens[0] in (("sign", "."), ("sign", "[")):
                value = self._member(value, tokens)
        except (TypeError, KeyError, IndexError):
            raise ExpressionError(f"{text}(…) cannot be worked out; write the value itself") from None
        return value

    def _member(self, value: Any, tokens: list[tuple[str, str]]) -> Any:
        if tokens.pop(0)[1] == ".":
            for key in _next(tokens)[1].split("."):
                value = _by_lower_case(value)[key.lower()]
            return self.resolve(value)
        index = self._expression(tokens)
        _expect(tokens, "]")
        return self.resolve(value[index] if isinstance(index, int) else _by_lower_case(value)[index.lower()])

    def _functions(self) -> Mapping[str, Callable[..., Any]]:
        return {
            "parameters": self._parameter,
            "variables": self._variable,
            "concat": _concat,
            "format": lambda text, *values: text.format(*values),
            "resourceid": self.resource_id,
            "string": str,
            "tolower": str.lower,
            "toupper": str.upper,
            "resourcegroup": lambda: {"id": self._prefix, "location": None},
        }

    def _parameter(self, name: str) -> Any:
        parameter = self._parameters.get(name.lower())
        if not isinstance(parameter, Mapping):
            raise ExpressionError(f"the template has no parameter {name}; write the value itself")
        if "defaultValue" not in parameter:
            raise ExpressionError(f"parameter {name} has no defaultValue; {_WITH_DEFAULTS}")
        return self._once(f"parameter {name}", parameter["defaultValue"])

    def _variable(self, name: str) -> Any:
        if name.lower() not in self._variables:
            raise ExpressionError(f"the template has no variable {name}; write the value itself")
        return self._once(f"variable {name}", self._variables[name.lower()])

    def _once(self, what: str, value: Any) -> Any:
        if what in self._resolving:
            raise ExpressionError(f"{what} refers to itself; write the value itself")
        self._resolving.append(what)
        try:
            return self.resolve(value)
        finally:
            self._resolving.pop()


def _concat(*values: Any) -> Any:
    if all(isinstance(value, list) for value in values):
        return [item for value in values for item in value]
    return "".join(str(value) for value in values)


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, place = [], 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ExpressionError(f"cannot be read from {text[place:][:20]!r} on; write the value itself")
        for kind, found in zip(("text", "number", "name", "sign"), match.groups(), strict=True):
            if found is not None:
                tokens.append((kind, found.replace("''", "'") if kind == "text" else found))
        place = match.end()
    return tokens


def _next(tokens: list[tuple[str, str]]) -> tuple[str, str]:
    if not tokens:
        raise ExpressionError("ends too early; write the value itself")
    return tokens.pop(0)


def _expect(tokens: list[tuple[str, str]], sign: str) -> None:
    if _next(tokens) != ("sign", sign):
        raise ExpressionError(f"lacks a {sign!r}; write the value itself")


def _by_lower_case(data: Any) -> dict[str, Any]:
    """Names in templates know no case."""
    return {key.lower(): value for key, value in data.items()} if isinstance(data, Mapping) else {}
