"""Which other models the methods of some work ask, as the schemas of their options tell; knows no worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.struct_pb2 import Struct, Value

from whylight.options import SERVED_MODEL_FORMAT
from whylight.v1 import catalog_pb2
from whylight.worker.v1 import worker_pb2


class SecondModels:
    """The options of methods whose value is the name of a served model (decision 10), by the names of the methods."""

    def __init__(self, methods: Iterable[catalog_pb2.Method] = ()) -> None:
        found = ((method.name, tuple(_options(method.options_schema))) for method in methods)
        self._options = {name: options for name, options in found if options}

    def of(self, spec: worker_pb2.PlanSpec) -> tuple[str, ...]:
        """Return the names that the options of a spec give, in order, but for that of its own model."""
        names = set()
        for call in spec.methods:
            for option, default in self._options.get(call.name, ()):
                given = call.options.fields.get(option)
                names.add(given.string_value if given is not None else default)
        return tuple(sorted(names - {"", spec.model}))


def _options(schema: Struct) -> Iterator[tuple[str, str]]:
    """Yield each option that names a model, with its default, which is empty where there is none."""
    if "properties" not in schema.fields:
        return
    for option, value in schema.fields["properties"].struct_value.fields.items():
        fields = value.struct_value.fields
        alternatives = fields["anyOf"].list_value.values if "anyOf" in fields else ()
        if any(map(_names_a_model, (value, *alternatives))):
            yield option, fields["default"].string_value if "default" in fields else ""


def _names_a_model(schema: Value) -> bool:
    fields = schema.struct_value.fields
    return "format" in fields and fields["format"].string_value == SERVED_MODEL_FORMAT
