"""Accelerators, the servers that hold them, storage and prices, as their makers state them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tonnage.dtypes import DTYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Interconnect:
    """The link between the GPUs of one server. `bytes_per_s` is per GPU and one direction."""

    kind: str
    bytes_per_s: float
    switched: bool  # NVLink, Infinity Fabric, ICI …: not a host bus


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """A price seen on a day. `usd` is per GPU-hour for rents, per piece for purchases.

    `default` marks the one price of its kind that stands for the part when none is given.
    """

    low_usd: float
    high_usd: float
    kind: str
    source: str
    date: str
    default: bool = False

    @property
    def mid_usd(self) -> float:
        """The middle of the range."""
        return (self.low_usd + self.high_usd) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """One accelerator. Rates are dense (no 2:4 sparsity) and per second; memory is in bytes.

    `dense_flop_per_s` maps a math dtype ("bf16", "fp8", "int8", "fp4") to the peak; a missing key
    means the silicon does not multiply in it. `board` is true for parts sold only on a baseboard
    of several (SXM, OAM), which are bought as whole servers. `host_bytes_per_s` is the bus to the
    host, one direction, which GPUs outside one NVLink domain also talk over. None means not known.
    """

    name: str
    title: str
    vendor: str
    architecture: str
    memory_bytes: float
    hbm_bytes_per_s: float
    dense_flop_per_s: Mapping[str, float]
    interconnect: Interconnect
    board: bool
    power_watts: float | None
    release_year: int | None = None
    usable_memory_bytes: float | None = None
    host_bytes_per_s: float | None = None
    nic_bytes_per_s: float | None = None
    rent_usd_per_hour: tuple[Price, ...] = ()
    purchase_usd: tuple[Price, ...] = ()
    aliases: tuple[str, ...] = ()
    source: str = ""
    date: str = ""
    notes: str = ""

    @property
    def reference_rent(self) -> Price | None:
        """The rent taken when none is given; None when the catalog has no price that fits."""
        return next((price for price in self.rent_usd_per_hour if price.default), None)

    @property
    def reference_purchase(self) -> Price | None:
        """The purchase price taken when none is given; None when the catalog has none that fits."""
        return next((price for price in self.purchase_usd if price.default), None)

    def lacks(self, dtype: str, *, for_kv: bool = False) -> bool:
        """Whether the GPU can neither multiply in `dtype` nor unpack it on the fly."""
        spec = DTYPES[dtype]
        if spec.weight_only and not for_kv:
            return False
        return spec.math not in self.dense_flop_per_s

    def math_dtype(self, weight_dtype: str) -> str:
        """The dtype whose peak bounds a product with weights in `weight_dtype`."""
        math = DTYPES[weight_dtype].math
        return math if math in self.dense_flop_per_s else "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """One server as its vendor sells it; `nvlink_domain_gpus` is how many GPUs share fast links.

    A domain may exceed the server (GB200 NVL72: a rack is sold and fails as trays of four, but its
    72 GPUs share one NVLink domain). `power_watts` is the vendor's maximum. `default_for_gpu` marks
    the server taken when only its GPU is named.
    """

    name: str
    title: str
    vendor: str
    gpu: str
    gpus: int
    nvlink_domain_gpus: int
    rack_units: float | None
    power_watts: float | None
    host_memory_bytes: float | None = None
    local_storage_bytes: float | None = None
    purchase_usd: tuple[Price, ...] = ()
    default_for_gpu: bool = False
    aliases: tuple[str, ...] = ()
    source: str = ""
    date: str = ""
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSpec:
    """A storage profile: capacity, speed, latency and what it takes in a rack."""

    name: str
    kind: str
    capacity_bytes: float
    usable_bytes: float
    read_bytes_per_s: float
    write_bytes_per_s: float
    read_iops: float
    write_iops: float
    read_block_bytes: float
    write_block_bytes: float
    read_latency_p50_s: float
    read_latency_p99_s: float
    write_latency_p50_s: float
    write_latency_p99_s: float
    rack_units: float
    power_watts: float
    aliases: tuple[str, ...] = ()
    source: str = ""
    date: str = ""
    notes: str = ""
