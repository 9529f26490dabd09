"""GPUs, servers and prices a study allows -> the candidates of the search."""

from __future__ import annotations

from collections.abc import Mapping

from tonnage.evidence import Evidence
from tonnage.fleet import Candidate, StatedInput
from tonnage.hardware import GpuSpec, ServerSpec
from tonnage.study.demand import Ledger
from tonnage.study.document import HardwareSection, format_key
from tonnage.study.mistakes import Finding
from tonnage.study.names import Names


def find_candidates(
    hardware: HardwareSection, names: Names, ledger: Ledger
) -> tuple[tuple[Candidate, ...], list[StatedInput]]:
    """The candidates, and the catalog's prices they rest on.

    Named servers are bought whole, and so are parts sold on a baseboard, in the server they are
    usually sold in; cards are rented one by one; `buy` overrules both. A GPU that a named server
    holds is considered in that server only.
    """
    prices = _stated_prices(hardware, names)
    chosen = _in_named_servers(hardware, names)
    in_servers = {gpu.name for gpu, _, _ in chosen}
    for gpu in _gpus(hardware, names, ledger):
        if gpu.name in in_servers:
            continue
        server = names.catalog.default_server(gpu.name)
        if server is None and hardware.buy == "servers" and hardware.gpus is not None:
            names.findings.append(
                Finding(
                    ("hardware", "buy"),
                    f"is servers, but the catalog has none for {gpu.name}.",
                    "Describe one in hardware.catalog, or buy gpus.",
                )
            )
        whole = gpu.board if hardware.buy is None else hardware.buy == "servers"
        chosen.append((gpu, server, whole and server is not None))
    told = [_candidate(gpu, server, prices, names, whole=whole) for gpu, server, whole in chosen]
    listed = {price.key: price for _, price in told if price is not None}
    return tuple(candidate for candidate, _ in told), list(listed.values())


def _in_named_servers(
    hardware: HardwareSection, names: Names
) -> list[tuple[GpuSpec, ServerSpec | None, bool]]:
    chosen: dict[str, tuple[GpuSpec, ServerSpec | None, bool]] = {}
    for index, name in enumerate(hardware.servers or ()):
        key = ("hardware", "servers", index)
        server = names.look_up(key, names.catalog.server, name)
        gpu = names.look_up(key, names.catalog.gpu, server.gpu) if server is not None else None
        if server is not None and gpu is not None:
            chosen[server.name] = (gpu, server, hardware.buy != "gpus")
    return list(chosen.values())


def _gpus(hardware: HardwareSection, names: Names, ledger: Ledger) -> list[GpuSpec]:
    if hardware.gpus is None and hardware.servers is not None:
        return []
    if hardware.gpus is None:
        ledger.assume(("hardware", "gpus"), "all", note="every GPU of the catalog")
    if hardware.gpus in {None, ("all",)}:
        return list(names.catalog.gpus.values())
    found: dict[str, GpuSpec] = {}
    for index, name in enumerate(hardware.gpus or ()):
        gpu = names.look_up(("hardware", "gpus", index), names.catalog.gpu, name)
        if gpu is not None:
            found[gpu.name] = gpu
    return list(found.values())


def _stated_prices(hardware: HardwareSection, names: Names) -> dict[str, float]:
    prices: dict[str, float] = {}
    for name, price in (hardware.prices or {}).items():
        gpu = names.look_up(("hardware", "prices", name), names.catalog.gpu, name)
        if gpu is not None:
            prices[gpu.name] = price
    return prices


def _candidate(
    gpu: GpuSpec,
    server: ServerSpec | None,
    prices: Mapping[str, float],
    names: Names,
    *,
    whole: bool,
) -> tuple[Candidate, StatedInput | None]:
    """One candidate, and the catalog's price when that is what it costs."""
    stated, listed = prices.get(gpu.name), gpu.reference_rent
    usd_per_gpu_hour, note, told = (
        stated,
        "stated" if stated is not None else "no price known",
        None,
    )
    if stated is None and listed is not None:
        usd_per_gpu_hour = listed.mid_usd
        note = f"{listed.kind}, {listed.source}, {listed.date}"
        told = StatedInput(
            key=format_key(("hardware", "prices", gpu.name)),
            text=f"{listed.mid_usd:.2f} usd/h",
            evidence=Evidence.DATASHEET,
            value=listed.mid_usd,
            unit="usd/h",
            note=note,
        )
    candidate = Candidate(
        gpu=gpu,
        server=server,
        calibration=names.catalog.calibration(gpu),
        whole_servers=whole,
        usd_per_gpu_hour=usd_per_gpu_hour,
        price_note=note,
    )
    return candidate, told
