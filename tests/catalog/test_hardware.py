"""What every packaged accelerator, server, storage profile and price must keep."""

import datetime as dt
import re

import pytest

from tonnage.catalog.loader import Catalog
from tonnage.catalog.rows import packaged_document

CATALOG = Catalog.load()
GPUS = sorted(CATALOG.gpus.values(), key=lambda gpu: gpu.name)
SERVERS = sorted(CATALOG.servers.values(), key=lambda server: server.name)
ROWS = [
    row
    for table in ("gpus", "servers", "storage", "prices")
    for row in packaged_document(table).rows(table)
]

ALWAYS_KNOWN = {
    "H100-SXM", "H100-PCIe", "H100-NVL", "H200-SXM", "H200-NVL", "A100-80GB-SXM", "A100-80GB-PCIe",
    "A100-40GB-SXM", "A100-40GB-PCIe", "B200", "B300", "GB200", "GB300", "GH200-96GB", "L4", "L40",
    "L40S", "A10", "A30", "A40", "T4", "V100-SXM-32GB", "RTX-4090", "RTX-5090", "RTX-6000-Ada",
    "RTX-PRO-6000", "MI210", "MI250X", "MI300X", "MI325X", "MI350X", "MI355X", "Gaudi2", "Gaudi3",
    "TPU-v5e", "TPU-v5p", "TPU-v6e", "Trainium2", "Inferentia2",
}  # fmt: skip
ARCHITECTURES = {
    "volta", "turing", "ampere", "ada", "hopper", "blackwell", "cdna2", "cdna3", "cdna4", "gaudi",
    "tpu", "neuron",
}  # fmt: skip
SPARSE_TFLOPS = {  # what the vendors print large, with 2:4 sparsity: 16 bits, 8 bits
    "H100-SXM": (1979, 3958),
    "H100-PCIe": (1513, 3026),
    "H100-NVL": (1671, 3341),
    "H200-NVL": (1671, 3341),
    "A100-80GB-SXM": (624, 1248),
    "L40S": (733, 1466),
    "L4": (242, 485),
    "B200": (4500, 9000),
    "RTX-5090": (419, 838),
    "RTX-6000-Ada": (728.5, 1457),
    "MI300X": (2614.9, 5229.8),
}


def by_name(values):
    return [pytest.param(value, id=value.name) for value in values]


def test_every_accelerator_of_the_list_is_there():
    assert len(ALWAYS_KNOWN) == 39
    assert set(CATALOG.gpus) >= ALWAYS_KNOWN


@pytest.mark.parametrize("gpu", by_name(GPUS))
def test_rates_are_dense(gpu):
    rates = gpu.dense_flop_per_s
    if "fp8" in rates:
        assert rates["bf16"] <= rates["fp8"] <= 2.05 * rates["bf16"]
    if "fp4" in rates:
        assert rates["fp8"] < rates["fp4"]


@pytest.mark.parametrize("name", sorted(SPARSE_TFLOPS))
def test_no_rate_is_the_sparse_one(name):
    bf16_tflops, eight_bit_tflops = SPARSE_TFLOPS[name]
    rates = CATALOG.gpu(name).dense_flop_per_s
    assert rates["bf16"] == pytest.approx(bf16_tflops * 1e12 / 2, rel=0.02)
    assert rates["int8"] <= eight_bit_tflops * 1e12 / 2 * 1.02 or name == "RTX-5090"


@pytest.mark.parametrize("gpu", by_name(GPUS))
def test_an_accelerator_is_described(gpu):
    assert gpu.architecture in ARCHITECTURES
    assert 150e9 <= gpu.hbm_bytes_per_s <= 10e12
    assert 16e9 <= gpu.memory_bytes <= 300e9
    assert 16e9 <= gpu.interconnect.bytes_per_s <= 900e9
    assert gpu.power_watts is not None or gpu.vendor in {"Google", "AWS"}
    if gpu.usable_memory_bytes is not None:
        assert gpu.usable_memory_bytes == pytest.approx(gpu.memory_bytes, rel=0.1)


@pytest.mark.parametrize("gpu", by_name(GPUS))
def test_only_linked_parts_have_a_link_faster_than_the_bus(gpu):
    if not gpu.interconnect.switched:
        assert gpu.interconnect.bytes_per_s == gpu.host_bytes_per_s
        assert not gpu.board


@pytest.mark.parametrize("gpu", by_name(GPUS))
def test_every_accelerator_has_a_default_server(gpu):
    server = CATALOG.default_server(gpu.name)
    assert server is not None
    assert server.gpu == gpu.name
    assert [s.name for s in SERVERS if s.gpu == gpu.name and s.default_for_gpu] == [server.name]


@pytest.mark.parametrize("server", by_name(SERVERS))
def test_a_server_holds_a_known_gpu_in_whole_link_domains(server):
    gpu = CATALOG.gpus[server.gpu]
    assert server.gpus % server.nvlink_domain_gpus == 0
    if not gpu.interconnect.switched:
        assert server.nvlink_domain_gpus == 1
    if server.power_watts is not None and gpu.power_watts is not None:
        assert server.power_watts > server.gpus * gpu.power_watts


@pytest.mark.parametrize(
    ("name", "gpus", "memory_bytes", "rack_units", "power_watts"),
    [
        ("DGX-A100", 8, 640e9, 6, 6500),
        ("DGX-H100", 8, 640e9, 8, 10_200),
        ("DGX-H200", 8, 1128e9, 8, 10_200),
        ("DGX-B200", 8, 1440e9, 10, 14_300),
        ("DGX-B300", 8, 2304e9, 10, 14_500),
        ("GB200-NVL72", 72, 72 * 186e9, 48, 132_000),
    ],
)
def test_the_systems_of_the_published_guides(name, gpus, memory_bytes, rack_units, power_watts):
    server = CATALOG.server(name)
    assert server.gpus == gpus == server.nvlink_domain_gpus
    assert server.gpus * CATALOG.gpus[server.gpu].memory_bytes == memory_bytes
    assert server.rack_units == rack_units
    assert server.power_watts == power_watts


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.table}-{row.name}") for row in ROWS])
def test_every_row_has_a_source_and_a_date(row):
    assert row.text("source").strip()
    assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])(-\d\d)?", row.text("date"))
    if row.text("date").count("-") == 2:
        dt.date.fromisoformat(row.text("date"))


@pytest.mark.parametrize("table", ["gpus", "servers", "storage", "prices"])
def test_every_abbreviated_source_is_spelled_out_and_used(table):
    document = packaged_document(table)
    used = {part for row in document.rows(table) for part in row.text("source").split("; ")}
    assert used == set(document.tables["sources"])


@pytest.mark.parametrize("gpu", by_name(GPUS))
def test_a_reference_price_is_never_spot_or_used(gpu):
    rent, purchase = gpu.reference_rent, gpu.reference_purchase
    assert rent is None or "spot," not in rent.kind
    assert purchase is None or "used" not in purchase.kind
    for prices in (gpu.rent_usd_per_hour, gpu.purchase_usd):
        assert sum(price.default for price in prices) <= 1
        assert [price.default for price in prices] == sorted(
            (price.default for price in prices), reverse=True
        )


def test_a_part_without_a_published_price_has_none():
    assert CATALOG.gpu("B300").rent_usd_per_hour == ()
    assert CATALOG.gpu("MI355X").purchase_usd == ()
    assert CATALOG.gpu("GB200").reference_rent is None  # a superchip's price halved
    assert CATALOG.gpu("A10").reference_rent is None  # another part's


@pytest.mark.parametrize("storage", by_name(CATALOG.storage_profiles.values()))
def test_storage_throughput_is_iops_times_block(storage):
    assert storage.read_iops * storage.read_block_bytes == pytest.approx(
        storage.read_bytes_per_s, rel=0.01
    )
    assert storage.write_iops * storage.write_block_bytes == pytest.approx(
        storage.write_bytes_per_s, rel=0.01
    )
    assert storage.usable_bytes < storage.capacity_bytes
    assert "Known wrong" in storage.notes
