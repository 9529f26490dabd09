"""Every float a noun carries says its unit, or that it has none, in the end of its name.

A count is an int and needs no unit. What a name may end in is the list below: adding to it is a
decision about the vocabulary of the whole tool.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "src" / "tonnage"
NOUNS = ("workload", "model", "hardware", "engine", "deployment", "evidence")

UNITS = (
    "s",
    "bytes",
    "bytes_per_s",
    "bytes_per_token",
    "bytes_per_value",
    "flop",
    "flop_per_s",
    "flop_per_token",
    "iops",
    "rack_units",
    "requests",
    "requests_per_s",
    "requests_per_s_mean",  # the statistic last: one load has both, and the JSON says so too
    "requests_per_s_peak",
    "rows",  # of a matrix product: tokens in a step
    "s_per_token",
    "tokens",
    "tokens_per_s",
    "usd",
    "usd_per_hour",
    "watts",
)
DIMENSIONLESS = (
    "confidence",  # a probability
    "cv",  # coefficient of variation: standard deviation / mean
    "factor",
    "fraction",  # of a whole, 0–1
    "headroom",  # DESIGN: multiplies the load by 1 + h
    "parameters",  # a count too large to be stated exactly
    "percentile",  # which one, 0–100
    "ratio",
    "share",  # of a population, 0–1
    "utilisation",  # 0–1
)
UNIT_STATED_BESIDE = {"DemandStep.value", "Interval.low", "Interval.high", "Rationale.value"}


def states_unit(name: str) -> bool:
    return any(name == end or name.endswith(f"_{end}") for end in (*UNITS, *DIMENSIONLESS))


def float_fields(source: str) -> Iterator[tuple[str, str]]:
    """Class and name of each dataclass field whose annotation holds a float, however deep."""
    for cls in ast.walk(ast.parse(source)):
        if isinstance(cls, ast.ClassDef) and any(map(_makes_dataclass, cls.decorator_list)):
            for statement in cls.body:
                if (
                    isinstance(statement, ast.AnnAssign)
                    and isinstance(statement.target, ast.Name)
                    and _holds_float(statement.annotation)
                ):
                    yield cls.name, statement.target.id


def _makes_dataclass(decorator: ast.expr) -> bool:
    return "dataclass" in ast.unparse(decorator)


def _holds_float(annotation: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id == "float" for part in ast.walk(annotation))


def unnamed_units(source: str) -> list[str]:
    fields = (f"{cls}.{name}" for cls, name in float_fields(source) if not states_unit(name))
    return [field for field in fields if field not in UNIT_STATED_BESIDE]


@pytest.mark.parametrize("noun", [noun for noun in NOUNS if (PACKAGE / f"{noun}.py").exists()])
def test_every_float_field_ends_in_a_unit(noun):
    assert unnamed_units((PACKAGE / f"{noun}.py").read_text()) == []


def test_the_nouns_do_carry_floats():
    assert ("GpuSpec", "memory_bytes") in set(float_fields((PACKAGE / "hardware.py").read_text()))


@pytest.mark.parametrize(
    ("field", "accepted"),
    [
        ("ttft_p95_s: float", True),
        ("latency: float", False),
        ("latency_ms: float", False),
        ("memory_gb: float | None = None", False),
        ("memory_bytes: float | None = None", True),
        ("dense: Mapping[str, float]", False),
        ("dense_flop_per_s: Mapping[str, float]", True),
        ("batch_size: int", True),
        ("glass: float", False),  # ends in the letter s, not in the unit
    ],
)
def test_a_unit_is_asked_of_floats_only(field, accepted):
    source = f"@dataclass(frozen=True)\nclass Noun:\n    {field}\n"
    assert unnamed_units(source) == ([] if accepted else [f"Noun.{field.split(':')[0]}"])
