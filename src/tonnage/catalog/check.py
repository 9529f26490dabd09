"""Catalog files -> Findings: rows that cannot be read, or that say what cannot be.

The laws a row must keep whatever its source: it names that source and a day not in the future,
its rates are dense, its figures lie where such parts lie, and what it refers to exists.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tonnage.catalog import Finding
from tonnage.catalog.loader import (
    Catalog,
    faults,
    gpu_from_row,
    model_from_row,
    priced,
    server_from_row,
    storage_from_row,
)
from tonnage.catalog.rows import TABLES, Document, Row, folded, overlay_document
from tonnage.errors import InputError, TonnageError
from tonnage.hardware import GpuSpec, ServerSpec, StorageSpec

# Accelerators sold from 2017 to 2026 lie within these with a factor of two to spare at each end.
MEMORY_BYTES = (8e9, 600e9)
HBM_BYTES_PER_S = (150e9, 20e12)
FLOP_PER_HBM_BYTE = (60, 600)  # 16-bit: TPU v6e 574, L40S 419, H100 295; a sparse Ada part 840
LINK_BYTES_PER_S = (8e9, 2e12)
GPU_WATTS = (40, 3000)

RATE_TO_BF16 = 0.06  # how far the ratio of two dense rates may be from 1 or 2: Trainium2 has 1.95
FP4_TO_FP8 = (1.9, 4.1)  # Blackwell Ultra 3, GeForce with fp32 accumulation 4
SERVER_TO_GPU_WATTS = 0.85  # a server below its own GPUs' power is in the wrong unit

STORAGE_ODD_SHARE = 0.10
STORAGE_WRONG_SHARE = 0.25
PARAMETERS_SHARE = 0.01

_ISO_MONTH_OR_DAY = re.compile(r"\d{4}-\d{2}(-\d{2})?")


def check_catalog(catalog_paths: Sequence[Path] = (), *, today: dt.date) -> list[Finding]:
    """What is wrong with the packaged catalog and with the user's files on top of it.

    `today` is the day after which no source can be dated.
    """
    findings: list[Finding] = []
    documents: list[Document] = []
    for path in catalog_paths:
        try:
            documents.append(overlay_document(path))
        except InputError as error:
            findings.append(_unreadable(path, "", error))
    catalog = Catalog(overlays=tuple(documents))
    for table in TABLES:
        for document in catalog.documents(table):
            unreadable = list(faults(catalog, document, table))
            findings += [
                _unreadable(document.path, _label(row) if row else table, fault)
                for row, fault in unreadable
            ]
            if any(row is None for row, _ in unreadable):
                continue
            bad = {row.name for row, _ in unreadable if row}
            rows = [row for row in document.rows(table) if row.name not in bad]
            for row in rows:
                findings += _provenance(row, today)
                findings += _figures(catalog, row)
            findings += _clashes(rows)
            findings += _several_defaults(catalog, rows)
    return findings


def _figures(catalog: Catalog, row: Row) -> Iterator[Finding]:
    """The laws of the table that `row` stands in."""
    judge = _Judge(row)
    if row.table == "gpus":
        return judge.gpu(gpu_from_row(row.name, row))
    if row.table == "servers":
        server = server_from_row(row.name, row, gpu_index=catalog.index("gpus"))
        try:
            gpu = catalog.gpu(server.gpu)
        except TonnageError:
            return iter(())  # its own row is a finding already
        return judge.server(server, gpu)
    if row.table == "storage":
        return judge.storage(storage_from_row(row.name, row))
    if row.table == "models":
        return judge.model()
    return iter(())


@dataclass(frozen=True, slots=True)
class _Judge:
    """Says what is implausible in the noun that one row makes."""

    row: Row

    def error(self, message: str) -> Finding:
        return Finding(
            severity="error",
            file=str(self.row.document.path),
            row=_label(self.row),
            message=message,
        )

    def warning(self, message: str) -> Finding:
        return Finding(
            severity="warning",
            file=str(self.row.document.path),
            row=_label(self.row),
            message=message,
        )

    def within(
        self, key: str, value: float, bounds: tuple[float, float], unit: str
    ) -> Iterator[Finding]:
        low, high = bounds
        if not low <= value <= high:
            yield self.error(f"{key}: {value:g} {unit} is outside {low:g} to {high:g}: which unit?")

    def gpu(self, gpu: GpuSpec) -> Iterator[Finding]:
        rates = gpu.dense_flop_per_s
        yield from self.within("memory_gb", gpu.memory_bytes, MEMORY_BYTES, "bytes")
        yield from self.within("hbm_gb_per_s", gpu.hbm_bytes_per_s, HBM_BYTES_PER_S, "bytes/s")
        link = gpu.interconnect.bytes_per_s
        yield from self.within("link_gb_per_s", link, LINK_BYTES_PER_S, "bytes/s")
        if gpu.power_watts is not None:
            yield from self.within("power_w", gpu.power_watts, GPU_WATTS, "W")
        intensity = rates["bf16"] / gpu.hbm_bytes_per_s
        yield from self.within("dense_tflops.bf16", intensity, FLOP_PER_HBM_BYTE, "FLOP per byte")
        if "fp8" in rates:
            ratio = rates["fp8"] / rates["bf16"]
            if min(abs(ratio - 1), abs(ratio - 2)) > RATE_TO_BF16:
                yield self.error(
                    f"dense_tflops: fp8 is {ratio:.2f} times bf16; dense rates are 1 or 2 times: "
                    "is one of them with sparsity?"
                )
        if "fp8" in rates and "fp4" in rates:
            ratio = rates["fp4"] / rates["fp8"]
            if not FP4_TO_FP8[0] <= ratio <= FP4_TO_FP8[1]:
                yield self.error(f"dense_tflops: fp4 is {ratio:.2f} times fp8: with sparsity?")
        usable = gpu.usable_memory_bytes
        if usable is not None and abs(usable / gpu.memory_bytes - 1) > STORAGE_ODD_SHARE:
            yield self.warning(f"usable_memory_mib is {usable / gpu.memory_bytes:.2f} of memory_gb")

    def server(self, server: ServerSpec, gpu: GpuSpec) -> Iterator[Finding]:
        if server.power_watts is not None and gpu.power_watts is not None:
            of_gpus = server.gpus * gpu.power_watts
            if server.power_watts < SERVER_TO_GPU_WATTS * of_gpus:
                yield self.error(
                    f"power_kw: {server.power_watts:g} W is less than its GPUs take, {of_gpus:g} W"
                )
        if gpu.board and server.nvlink_domain_gpus == 1 < server.gpus:
            yield self.warning(
                f"nvlink_domain_gpus is 1, but {gpu.name} is sold on a linked baseboard"
            )

    def storage(self, storage: StorageSpec) -> Iterator[Finding]:
        if storage.usable_bytes > storage.capacity_bytes:
            yield self.error("usable_tb is more than capacity_tb")
        for way, per_s, iops, block, p50_s, p99_s in (
            (
                "read",
                storage.read_bytes_per_s,
                storage.read_iops,
                storage.read_block_bytes,
                storage.read_latency_p50_s,
                storage.read_latency_p99_s,
            ),
            (
                "write",
                storage.write_bytes_per_s,
                storage.write_iops,
                storage.write_block_bytes,
                storage.write_latency_p50_s,
                storage.write_latency_p99_s,
            ),
        ):
            apart = abs(iops * block / per_s - 1)
            if apart > STORAGE_ODD_SHARE:
                found = (
                    f"{way}_mb_per_s is {per_s / 1e6:g} MB/s, but IOPS x block is "
                    f"{iops * block / 1e6:g} MB/s ({apart:.0%} apart)"
                )
                yield self.error(found) if apart > STORAGE_WRONG_SHARE else self.warning(found)
            if p99_s < p50_s:
                yield self.error(f"{way}_latency_p99_ms is below {way}_latency_p50_ms")

    def model(self) -> Iterator[Finding]:
        model = model_from_row(self.row.name, self.row)
        published = model.published_parameters
        if published is not None:
            apart = abs(model.parameters / published - 1)
            if apart > PARAMETERS_SHARE:
                yield self.error(
                    f"published_parameters is {published:g}, but its config makes "
                    f"{model.parameters:g} ({apart:.1%} apart)"
                )


def _provenance(row: Row, today: dt.date) -> Iterator[Finding]:
    """A row names its source and an ISO date that has been; a user's row may leave both out."""
    judge = _Judge(row)
    abbreviations = row.document.tables.get("sources", {})
    source = row.text("source", "")
    if not source:
        yield (
            judge.error("source is missing")
            if row.document.packaged
            else judge.warning("source is missing")
        )
    for part in filter(None, source.split("; ")) if abbreviations else ():
        if re.fullmatch(r"[A-Z0-9-]+", part) and part not in abbreviations:
            yield judge.error(f'source: "{part}" is not in [sources]')
    date = row.text("date", "")
    if not date:
        yield (
            judge.error("date is missing")
            if row.document.packaged
            else judge.warning("date is missing")
        )
        return
    day = _day(date)
    if day is None:
        yield judge.error(f'date: "{date}" is not an ISO date: write 2026-08-21 or 2026-08')
    elif day > today:
        yield judge.error(f'date: "{date}" is after {today.isoformat()}')


def _day(date: str) -> dt.date | None:
    """The first day that `date` (a day or a month) can mean, None when it is no ISO date."""
    if not _ISO_MONTH_OR_DAY.fullmatch(date):
        return None
    try:
        return dt.date.fromisoformat(date if date.count("-") > 1 else f"{date}-01")
    except ValueError:
        return None


def _clashes(rows: Sequence[Row]) -> Iterator[Finding]:
    """A name or alias that two rows of one file answer to, or one row twice."""
    owners: dict[str, str] = {}
    for row in rows:
        if row.table == "prices":
            return
        for name in (row.name, *row.names("aliases")):
            owner = owners.setdefault(folded(name), row.name)
            if owner != row.name:
                yield _Judge(row).error(f'aliases: "{name}" is also a name of {owner}')


def _several_defaults(catalog: Catalog, rows: Sequence[Row]) -> Iterator[Finding]:
    """A second default server for a GPU, or a second default price of one kind, in one file."""
    first: dict[object, str] = {}
    for row in rows:
        subject: object
        if row.table == "servers" and row.flag("default_for_gpu", default=False):
            subject = server_from_row(row.name, row, gpu_index=catalog.index("gpus")).gpu
            what = f"default_for_gpu: {subject} has a default server already"
        elif row.table == "prices" and row.flag("default", default=False):
            subject = priced(row, catalog.index)
            what = f"default: {subject[1]} has a default {subject[2]} already"
        else:
            continue
        owner = first.setdefault(subject, row.name)
        if owner != row.name:
            yield _Judge(row).error(f"{what}, {_label(row, owner)}")


def _label(row: Row, name: str | None = None) -> str:
    """How a row is called in a report: gpus.H100-SXM, prices[3] (H100-SXM)."""
    if row.table != "prices":
        return f"{row.table}.{name or row.name}"
    values: Mapping[str, object] = row.values
    return f"prices[{name or row.name}] ({values.get('gpu') or values.get('server') or '?'})"


def _unreadable(path: Path, row: str, fault: InputError) -> Finding:
    line = "" if fault.line is None else f"line {fault.line}:"
    message = " ".join(filter(None, (line, fault.key, fault.message, fault.hint)))
    return Finding(severity="error", file=str(path), row=row, message=message)
