"""The catalog -> Reports that list a kind of thing, or show one thing with its source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from tonnage import units
from tonnage.catalog import Finding
from tonnage.engine import EngineProfile
from tonnage.hardware import GpuSpec, Price, ServerSpec, StorageSpec
from tonnage.model import ModelSpec
from tonnage.report import Block, Cell, Column, Headline, Prose, Report, Section, Table
from tonnage.report.figures import UNKNOWN, format_figure, plural
from tonnage.report.json import Json, with_explanations

Thing = GpuSpec | ServerSpec | StorageSpec | ModelSpec | EngineProfile

_TERA = 1e12


def report_things(kind: str, things: Sequence[Thing]) -> Report:
    """One table of `kind` ("gpus", "models", "servers", "storage", "engines")."""
    table = _TABLES[kind](things)
    return Report(
        title="",
        subtitle=(),
        headline=Headline(label="", answer=""),
        sections=(Section(id=kind, title=f"{len(things)} {_TITLES[kind]}", blocks=(table,)),),
        data=with_explanations({kind: [thing_data(each) for each in things]}, {}),
    )


def report_thing(thing: Thing) -> Report:
    """Everything the catalog knows of one thing."""
    facts = {key: value for key, value in thing_data(thing).items() if value or value is False}
    rows = tuple((Cell(key), Cell(_fact(key, value))) for key, value in facts.items())
    table = Table(columns=(Column("fact"), Column("value", prose=True)), rows=rows)
    blocks: list[Block] = [table]
    missing = [key for key, value in thing_data(thing).items() if value is None]
    if missing and not isinstance(thing, ModelSpec):  # there, None is "has none"
        blocks.append(Prose(f"Not known: {', '.join(missing)}.", "quiet"))
    return Report(
        title=getattr(thing, "title", "") or thing.name,
        subtitle=(),
        headline=Headline(label="", answer=""),
        sections=(Section(id="thing", title=thing.name, blocks=tuple(blocks)),),
        data=with_explanations(thing_data(thing), {}),
    )


def report_findings(findings: Sequence[Finding]) -> Report:
    """What a check of the catalog found."""
    errors = sum(each.severity == "error" for each in findings)
    warnings = len(findings) - errors
    rows = tuple(
        (
            Cell(each.severity, "bad" if each.severity == "error" else ""),
            Cell(each.row),
            Cell(each.message),
        )
        for each in sorted(findings, key=lambda each: each.severity)
    )
    table = Table(columns=(Column(""), Column("row"), Column("finding", prose=True)), rows=rows)
    return Report(
        title="",
        subtitle=(),
        headline=Headline(
            label="Catalog",
            answer=f"{plural(errors, 'error')}, {plural(warnings, 'warning')}",
            tone="bad" if errors else "good",
        ),
        sections=(Section(id="findings", title="", blocks=(table,)),) if findings else (),
        data={
            "errors": errors,
            "warnings": warnings,
            "findings": [asdict(each) for each in findings],
        },
    )


def thing_data(thing: Thing) -> Json:
    """The facts of one thing in SI units."""
    if isinstance(thing, ModelSpec):
        return {
            "name": thing.name,
            "family": thing.family,
            "parameters": thing.parameters,
            "active_parameters": thing.active_parameters,
            "published_parameters": thing.published_parameters,
            "layers": thing.layers,
            "heads": thing.heads,
            "kv_heads": thing.kv_heads,
            "hidden_size": thing.hidden_size,
            "vocab_size": thing.vocab_size,
            "window_tokens": thing.window_tokens,
            "max_context_tokens": thing.max_context_tokens,
            "native_weight_dtype": thing.native_weight_dtype,
            "weights_bytes": thing.weights_bytes(),
            "kv_bytes_per_token_bf16": thing.kv_bytes_per_token("bf16"),
            "aliases": list(thing.aliases),
            "source": thing.source,
            "notes": thing.notes,
        }
    data: Json = asdict(thing)
    return data


def _fact(key: str, value: object) -> str:
    """One fact as people read it: its unit is the end of its name."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        if "low_usd" in value:
            return _seen_price(value)
        unit = key if key.endswith("_per_s") else ""
        return ", ".join(f"{name} {_fact(unit or name, each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return "\n".join(_fact(key, each) for each in value)
    if isinstance(value, float):
        if key == "memory_bytes":
            return f"{units.format_bytes(value, binary=False)} ({units.format_bytes(value)})"
        if key.endswith("bytes_per_s"):
            return f"{units.format_bytes(value, binary=False)}/s"
        if key.endswith("flop_per_s"):
            return f"{units.format_number(value / _TERA)} TFLOP/s"
        for unit in ("bytes", "watts", "fraction", "s"):
            if key.endswith(f"_{unit}") and not key.endswith("_per_s"):
                return format_figure(value, unit)
    if key.endswith("year"):
        return str(value)
    return units.format_number(value) if isinstance(value, int | float) else str(value)


def _seen_price(price: Mapping[str, object]) -> str:
    low, high = (f"{price[end]:,g}" for end in ("low_usd", "high_usd"))
    usd = f"{low} usd" if low == high else f"{low} – {high} usd"
    return f"{usd}, {price['kind']}; {price['source']} ({price['date']})"


def _price(prices: Sequence[Price]) -> Cell:
    if not prices:
        return Cell(UNKNOWN)
    return Cell(units.format_usd(prices[0].mid_usd), "", prices[0].mid_usd)


def _gpus(things: Sequence[Thing]) -> Table:
    columns = ("memory", "bandwidth", "bf16", "fp8", "fp4", "link", "power", "usd/h")
    rows = []
    for gpu in things:
        assert isinstance(gpu, GpuSpec)  # noqa: S101 — the table of GPUs lists GPUs
        flop = gpu.dense_flop_per_s
        rows.append(
            (
                Cell(gpu.name),
                Cell(units.format_bytes(gpu.memory_bytes, binary=False), "", gpu.memory_bytes),
                Cell(f"{units.format_bytes(gpu.hbm_bytes_per_s, binary=False)}/s"),
                *(
                    Cell(units.format_number(flop[math] / _TERA) if math in flop else UNKNOWN)
                    for math in ("bf16", "fp8", "fp4")
                ),
                Cell(gpu.interconnect.kind),
                Cell(units.format_watts(gpu.power_watts), "", gpu.power_watts),
                _price(gpu.rent_usd_per_hour),
            )
        )
    return Table(
        title="bf16, fp8 and fp4 in dense TFLOP/s; usd/h is the catalog's rent of one GPU",
        columns=(
            Column("name"),
            *(
                Column(each, prose=True) if each == "link" else Column(each, "right")
                for each in columns
            ),
        ),
        rows=tuple(rows),
    )


def _servers(things: Sequence[Thing]) -> Table:
    rows = []
    for server in things:
        assert isinstance(server, ServerSpec)  # noqa: S101 — the table of servers lists servers
        rows.append(
            (
                Cell(server.name),
                Cell(f"{server.gpus} × {server.gpu}"),
                Cell(units.format_number(server.nvlink_domain_gpus), "", server.nvlink_domain_gpus),
                Cell(units.format_number(server.rack_units), "", server.rack_units),
                Cell(units.format_watts(server.power_watts), "", server.power_watts),
                Cell(server.title),
            )
        )
    return Table(
        columns=(
            Column("name"),
            Column("GPUs"),
            Column("link domain", "right"),
            Column("rack units", "right"),
            Column("power", "right"),
            Column("title", prose=True),
        ),
        rows=tuple(rows),
    )


def _models(things: Sequence[Thing]) -> Table:
    rows = []
    for model in things:
        assert isinstance(model, ModelSpec)  # noqa: S101 — the table of models lists models
        kv = model.kv_bytes_per_token("bf16")
        rows.append(
            (
                Cell(model.name),
                Cell(_billions(model.parameters), "", model.parameters),
                Cell(_billions(model.active_parameters), "", model.active_parameters),
                Cell(model.native_weight_dtype),
                Cell(units.format_bytes(model.weights_bytes())),
                Cell(units.format_bytes(kv), "", kv),
                Cell(units.format_number(model.max_context_tokens), "", model.max_context_tokens),
            )
        )
    return Table(
        title="dtype: as published; KV/token: in 16 bits, while every window is still growing",
        columns=(
            Column("name"),
            Column("parameters", "right"),
            Column("active", "right"),
            Column("dtype"),
            Column("weights", "right"),
            Column("KV/token", "right"),
            Column("context", "right"),
        ),
        rows=tuple(rows),
    )


def _billions(count: int) -> str:
    return f"{units.format_number(count / 1e9)} B"


def _storage(things: Sequence[Thing]) -> Table:
    rows = []
    for storage in things:
        assert isinstance(storage, StorageSpec)  # noqa: S101 — the table of storage lists storage
        rows.append(
            (
                Cell(storage.name),
                Cell(storage.kind),
                Cell(units.format_bytes(storage.usable_bytes, binary=False)),
                Cell(f"{units.format_bytes(storage.read_bytes_per_s, binary=False)}/s"),
                Cell(f"{units.format_bytes(storage.write_bytes_per_s, binary=False)}/s"),
                Cell(units.format_number(storage.read_iops)),
                Cell(units.format_time(storage.read_latency_p99_s)),
            )
        )
    return Table(
        columns=(
            Column("name"),
            Column("kind"),
            *(
                Column(each, "right")
                for each in ("usable", "read", "write", "read IOPS", "read latency p99")
            ),
        ),
        rows=tuple(rows),
    )


def _engines(things: Sequence[Thing]) -> Table:
    def limits(engine: EngineProfile, gpu_memory_bytes: float) -> str:
        return " / ".join(map(units.format_number, engine.limits_on(gpu_memory_bytes)))

    rows = []
    for engine in things:
        assert isinstance(engine, EngineProfile)  # noqa: S101 — the table of engines lists engines
        rows.append(
            (
                Cell(engine.name),
                Cell(engine.versions),
                Cell(units.format_fraction(engine.memory_fraction)),
                *(Cell(limits(engine, memory)) for memory in (0, engine.large_gpu_bytes)),
                Cell(units.format_bytes(engine.large_gpu_bytes).replace(".00", "")),
                Cell(units.format_time(engine.step_overhead_s)),
                Cell(engine.kv_rule),
            )
        )
    return Table(
        title="limits: sequences / tokens per step; a GPU with so much memory or more is large",
        turns=True,
        columns=(
            Column("name"),
            Column("versions"),
            *(
                Column(each, "right")
                for each in ("memory", "limits", "on large GPUs", "large from", "step overhead")
            ),
            Column("windowed layers"),
        ),
        rows=tuple(rows),
    )


_TABLES = {
    "gpus": _gpus,
    "servers": _servers,
    "models": _models,
    "storage": _storage,
    "engines": _engines,
}
_TITLES = {
    "gpus": "accelerators",
    "servers": "servers",
    "models": "models",
    "storage": "storage profiles",
    "engines": "engines",
}
