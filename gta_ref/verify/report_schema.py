"""The JSON of a report, as ``gta-ref verify --json`` writes it, described by a JSON Schema (draft 2020-12).

The version grows when a name goes or changes its meaning; names may be added without that.
"""

from __future__ import annotations

from typing import Any

from gta_ref.verify.cases import DTYPES
from gta_ref.verify.report import SCHEMA, SCHEMA_VERSION, STATUSES

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
NUMBER = {"type": ["number", "null"]}  # null: infinite, or not a number
TEXT_OR_NULL = {"type": ["string", "null"]}
TEXTS = {"type": "array", "items": TEXT}
INDEX = {"type": ["array", "null"], "items": COUNT}


def _object(required: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": required, "required": list(required)}


def _mapping(values: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": values}


FINDING = _object(
    {
        "name": TEXT,
        "kind": {"enum": ["ok", "missing", "shape", "dtype", "nonfinite", "value", "rms", "slope"]},
        "text": TEXT,
        "ratio": NUMBER,
        "index": INDEX,
    }
)
RESULT = _object(
    {
        "case": TEXT,
        "dtype": {"enum": [*DTYPES, ""]},  # empty: a dump that could not be read
        "status": {"enum": list(STATUSES)},
        "text": TEXT,
        "stage": TEXT_OR_NULL,  # the first wrong array
        "kind": TEXT_OR_NULL,
        "index": INDEX,
        "ratio": NUMBER,  # error ÷ budget
        "cause": TEXT_OR_NULL,
        "findings": {"type": "array", "items": FINDING},  # in the order of computation
        "unchecked": TEXTS,  # required gradients that were not checked
        "why_unchecked": TEXT_OR_NULL,
        "withheld": TEXTS,  # arrays that were not returned and not required
        "tried": _mapping({"type": "boolean"}),  # known cause → whether it explains the wrong numbers
        "quality": _mapping(NUMBER),  # array → its error ÷ that of a computation with float32 inside
        "seconds": NUMBER,
        "where": TEXT_OR_NULL,  # of an exception: file:line
        "traceback": TEXT_OR_NULL,
        "repro": TEXT_OR_NULL,  # the command that repeats a case which did not pass
    }
)
REPORT = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        {
            "schema": {"const": SCHEMA},
            "version": {"const": SCHEMA_VERSION},
            "gta_ref": TEXT,
            "run": {"type": "object"},  # the arguments of verify(); empty for dumps
            "summary": TEXT,
            "counts": _object(dict.fromkeys(STATUSES, COUNT)),
            "not_checked": TEXTS,
            "unchecked": _mapping(COUNT),  # reason → number of gradients
            "withheld": _mapping(_object({"cases": COUNT, "of": COUNT})),  # array → in how many cases not returned
            "exit_status": {"enum": [0, 1, 2, 3]},
            "blame": {
                "type": ["object", "null"],
                "properties": {"stage": TEXT, "cause": TEXT_OR_NULL, "explains": COUNT, "of": COUNT},
                "required": ["stage", "cause", "explains", "of"],
            },
            "results": {"type": "array", "items": RESULT},
        }
    ),
}
