"""The check passes the packaged rows and finds each planted mistake."""

import datetime as dt

import pytest

from tonnage.catalog.check import check_catalog

TODAY = dt.date(2026, 11, 20)

GPU = """
[gpus.H999]
vendor = "NVIDIA"
architecture = "hopper"
memory_gb = 100
hbm_gb_per_s = 4000
dense_tflops = { bf16 = 1000, fp8 = 2000, fp4 = 4000 }
link = "NVLink 9"
link_gb_per_s = 500
link_switched = true
board = true
power_w = 1000
source = "our own measurement"
date = "2026-11-20"
"""
SERVER = """
[servers.box]
vendor = "us"
gpu = "H100-SXM"
gpus = 8
nvlink_domain_gpus = 8
power_kw = 10
default_for_gpu = true
source = "invoice"
date = "2026-10"
"""
STORAGE = """
[storage.disk]
kind = "NVMe"
capacity_tb = 10
usable_tb = 9
read_mb_per_s = 4096
write_mb_per_s = 4096
read_iops = 1_000_000
write_iops = 1_000_000
read_block_kib = 4
write_block_kib = 4
read_latency_p50_ms = 0.1
read_latency_p99_ms = 0.2
write_latency_p50_ms = 0.1
write_latency_p99_ms = 0.2
rack_units = 2
power_kw = 1
source = "invoice"
date = "2026-10"
"""
MODEL = """
[models."us/tiny"]
source = "ours"
date = "2026-10"
published_parameters = 201_024
[models."us/tiny".config]
model_type = "llama"
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
vocab_size = 1000
max_position_embeddings = 2048
"""
PRICE = """
[[prices]]
gpu = "L4"
rent_usd_per_gpu_hour = 1
default = true
source = "x"
date = "2026-10"
"""
SOUND = GPU + SERVER + STORAGE + MODEL + PRICE


def findings_in(tmp_path, text):
    file = tmp_path / "own.toml"
    file.write_text(text, encoding="utf-8")
    return [f for f in check_catalog([file], today=TODAY) if f.file == str(file)]


@pytest.mark.parametrize("file", ["gpus", "servers", "storage", "prices"])
def test_the_packaged_files_are_sound(file):
    found = [f for f in check_catalog(today=TODAY) if f.file.endswith(f"{file}.toml")]
    assert found == []


def test_sound_rows_are_passed(tmp_path):
    assert findings_in(tmp_path, SOUND) == []


@pytest.mark.parametrize(
    ("old", "new", "row", "severity", "words"),
    [
        ("fp8 = 2000", "fp8 = 4000", "gpus.H999", "error", "sparsity"),
        ("bf16 = 1000", "bf16 = 2500", "gpus.H999", "error", "FLOP per byte"),
        ("fp4 = 4000", "fp4 = 16000", "gpus.H999", "error", "fp4"),
        ("memory_gb = 100\n", "memory_gb = 100000\n", "gpus.H999", "error", "memory_gb"),
        ("hbm_gb_per_s = 4000", "hbm_gb_per_s = 4", "gpus.H999", "error", "hbm_gb_per_s"),
        ("hbm_gb_per_s = 4000", "hbm_gb_per_s = 1500", "gpus.H999", "error", "FLOP per byte"),
        ("power_w = 1000", "power_w = 1", "gpus.H999", "error", "power_w"),
        (
            "power_w = 1000",
            "power_w = 1000\nusable_memory_mib = 1000",
            "gpus.H999",
            "warning",
            "usable",
        ),
        ("link_gb_per_s = 500", "link_gb_per_s = 5000", "gpus.H999", "error", "link_gb_per_s"),
        ("memory_gb = 100\n", 'memory_gb = "100"\n', "gpus.H999", "error", "line 5: memory_gb"),
        ('date = "2026-11-20"', 'date = "2026-11-21"', "gpus.H999", "error", "after 2026-11-20"),
        ('date = "2026-11-20"', 'date = "20 Nov 2026"', "gpus.H999", "error", "ISO"),
        ('date = "2026-11-20"', 'date = "2026-13"', "gpus.H999", "error", "ISO"),
        ('source = "our own measurement"\n', "", "gpus.H999", "warning", "source"),
        ('gpu = "H100-SXM"', 'gpu = "H777"', "servers.box", "error", "H777"),
        ("power_kw = 10\n", "power_kw = 0.01\n", "servers.box", "error", "GPUs take"),
        ("nvlink_domain_gpus = 8", "nvlink_domain_gpus = 1", "servers.box", "warning", "baseboard"),
        (
            "read_mb_per_s = 4096",
            "read_mb_per_s = 4800",
            "storage.disk",
            "warning",
            "read_mb_per_s",
        ),
        (
            "write_mb_per_s = 4096",
            "write_mb_per_s = 1000",
            "storage.disk",
            "error",
            "write_mb_per_s",
        ),
        ("usable_tb = 9", "usable_tb = 11", "storage.disk", "error", "usable_tb"),
        ("read_latency_p99_ms = 0.2", "read_latency_p99_ms = 0.01", "storage.disk", "error", "p99"),
        ("201_024", "210_000", "models.us/tiny", "error", "published_parameters"),
        ("num_hidden_layers = 2\n", "", "models.us/tiny", "error", "num_hidden_layers"),
        ("vocab_size = 1000", "is_encoder_decoder = true", "models.us/tiny", "error", "ecoder"),
        ('gpu = "L4"', 'gpu = "L5"', "prices[1] (L5)", "error", "L5"),
    ],
)
def test_a_planted_mistake_is_found(tmp_path, *, old, new, row, severity, words):
    assert SOUND.count(old) >= 1
    found = findings_in(tmp_path, SOUND.replace(old, new, 1))
    assert any(f.row == row and f.severity == severity and words in f.message for f in found), found


def test_two_rows_with_one_name_are_found(tmp_path):
    twin = GPU.replace("H999", "H998") + 'aliases = ["h 999"]\n'
    (finding,) = findings_in(tmp_path, GPU + twin)
    assert finding.row == "gpus.H998"
    assert "H999" in finding.message


def test_two_default_servers_for_a_gpu_are_found(tmp_path):
    (finding,) = findings_in(
        tmp_path, SERVER + SERVER.replace("box", "box2").replace("H100-SXM", "h100")
    )
    assert (finding.severity, finding.row) == ("error", "servers.box2")
    assert "servers.box" in finding.message


def test_two_default_prices_for_a_gpu_are_found(tmp_path):
    (finding,) = findings_in(tmp_path, PRICE + PRICE)
    assert finding.severity == "error"
    assert finding.row == "prices[2] (L4)"


def test_a_source_that_is_not_spelled_out_is_found(tmp_path):
    text = '[sources]\nABC = "a page"\n' + GPU.replace("our own measurement", "ABC; XYZ")
    (finding,) = findings_in(tmp_path, text)
    assert "XYZ" in finding.message


def test_a_file_that_is_no_catalog_is_a_finding_and_the_rest_is_still_judged(tmp_path):
    broken, sound = tmp_path / "broken.toml", tmp_path / "own.toml"
    broken.write_text("[gpus", encoding="utf-8")
    sound.write_text(GPU.replace("fp8 = 2000", "fp8 = 4000"), encoding="utf-8")
    found = [
        f for f in check_catalog([broken, sound], today=TODAY) if f.file.startswith(str(tmp_path))
    ]
    assert {f.file for f in found} == {str(broken), str(sound)}


def test_the_packaged_catalog_is_dated_before_the_day_it_is_judged_on():
    found = check_catalog(today=dt.date(2020, 1, 1))
    assert any("after 2020-01-01" in f.message for f in found)
