"""Look-ups however a name is written, the user's files on top, and what is said of mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tonnage.catalog.loader import Catalog, user_catalog_paths
from tonnage.errors import InputError, InputErrors, TonnageError

CATALOG = Catalog.load()

OWN_GPU = """
[gpus.H999]
vendor = "NVIDIA"
architecture = "hopper"
memory_gb = 100
usable_memory_mib = 1024
hbm_gb_per_s = 4000
dense_tflops = { bf16 = 1000, fp8 = 2000 }
link = "NVLink 9"
link_gb_per_s = 500
link_switched = true
board = true
aliases = ["house card"]
"""
OWN_SERVER = """
[servers.house-box]
vendor = "us"
gpu = "H100 SXM"
gpus = 8
nvlink_domain_gpus = 8
rack_units = 6
power_kw = 9.5
default_for_gpu = true
"""
OWN_PRICES = """
[[prices]]
gpu = "L4"
purchase_usd = 1

[[prices]]
kind = "new"
gpu = "L5"
purchase_usd = 1
"""


def overlay(folder: Path, text: str, name: str = "own.toml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("H100-SXM", "H100-SXM"),
        ("h100_sxm", "H100-SXM"),
        (" h100 SXM ", "H100-SXM"),
        ("H100", "H100-SXM"),
        ("h200", "H200-SXM"),
        ("A100", "A100-80GB-SXM"),
        ("a100-80-pcie", "A100-80GB-PCIe"),
        ("B200-SXM", "B200"),
        ("RTX PRO 6000", "RTX-PRO-6000"),
        ("rtx-pro-6000-bw", "RTX-PRO-6000"),
        ("gh200-96", "GH200-96GB"),
        ("mi300x", "MI300X"),
    ],
)
def test_a_gpu_is_found_however_its_name_is_written(written, name):
    assert CATALOG.gpu(written).name == name


@given(
    name=st.sampled_from(sorted(CATALOG.gpus)), filler=st.sampled_from(["", " ", "_", "-", "  "])
)
def test_case_and_separators_never_matter(name, filler):
    assert CATALOG.gpu(filler.join(name).swapcase()).name == name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("dgx300", "DGX-B300"),
        ("dgx-b300", "DGX-B300"),
        ("DGX B200", "DGX-B200"),
        ("xe9680", "XE9680-H100"),
    ],
)
def test_a_server_is_found_by_its_aliases(written, name):
    assert CATALOG.server(written).name == name


def test_a_storage_profile_is_found_by_the_name_its_source_gave_it():
    assert CATALOG.storage("profile_default").name == "local-nvme"


def test_units_are_si():
    gpu = CATALOG.gpu("H100-SXM")
    assert gpu.memory_bytes == 80e9
    assert gpu.usable_memory_bytes == 81559 * 2**20
    assert gpu.hbm_bytes_per_s == 3.35e12
    assert gpu.dense_flop_per_s["bf16"] == 989e12
    assert gpu.interconnect.bytes_per_s == 450e9
    assert gpu.nic_bytes_per_s == 50e9
    assert gpu.power_watts == 700
    server = CATALOG.server("DGX-B200")
    assert server.power_watts == 14_300
    assert server.local_storage_bytes == pytest.approx(30.72e12)
    storage = CATALOG.storage("local-nvme")
    assert storage.read_bytes_per_s == 3500 * 2**20
    assert storage.read_latency_p99_s == pytest.approx(150e-6)


def test_the_default_server_holds_the_gpu():
    server = CATALOG.default_server("h100")
    assert server is not None
    assert server.name == "DGX-H100"
    assert server.gpu == "H100-SXM"


@pytest.mark.parametrize(
    ("look_up", "name", "nearest", "listing"),
    [
        (CATALOG.gpu, "H100-SMX", "H100-SXM", "tonnage catalog list gpus"),
        (CATALOG.server, "DGX-H1000", "DGX-H100", "tonnage catalog list servers"),
        (CATALOG.storage, "local nvm", "local-nvme", "tonnage catalog list storage"),
        (CATALOG.model, "gpt-oss-120", "openai/gpt-oss-120b", "tonnage catalog list models"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_and_the_list(look_up, name, nearest, listing):
    with pytest.raises(TonnageError) as caught:
        look_up(name)
    assert name in caught.value.message
    assert nearest in caught.value.hint
    assert listing in caught.value.hint


def test_an_abbreviated_source_is_spelled_out():
    assert "ai-dynamo/aiconfigurator" in CATALOG.gpu("L4").source
    assert "[" not in CATALOG.gpu("L4").source


# ---- models


def test_a_model_is_found_with_and_without_its_maker():
    assert CATALOG.model("openai/gpt-oss-120b") is CATALOG.model("gpt-oss-120b")


def test_a_model_is_read_from_a_file_and_from_its_folder(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(TINY_CONFIG, encoding="utf-8")
    by_file = CATALOG.model(str(folder / "config.json"))
    by_folder = CATALOG.model(str(folder))
    assert by_file.parameters == by_folder.parameters
    assert by_folder.name == "tiny"


TINY_CONFIG = """{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128,
 "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
 "max_position_embeddings": 2048, "tie_word_embeddings": true}"""


def test_a_file_that_is_not_there_is_said():
    with pytest.raises(TonnageError, match=r"nowhere\.json"):
        CATALOG.model("nowhere.json")


def test_an_unknown_hub_id_is_answered_with_the_nearest_name_and_the_way_out(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TonnageError) as caught:
        CATALOG.model("openai/gpt-oss-12b")
    assert "openai/gpt-oss-12b" in caught.value.message
    assert "openai/gpt-oss-120b" in caught.value.hint
    assert "config.json" in caught.value.hint


def test_an_overlay_adds_a_model(tmp_path):
    text = """
[models."us/house-model"]
aliases = ["house"]
[models."us/house-model".config]
model_type = "llama"
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
vocab_size = 1000
max_position_embeddings = 2048
"""
    catalog = Catalog.load([overlay(tmp_path, text)])
    assert catalog.model("house").vocab_size == 1000
    assert "us/house-model" in catalog.model_names


# ---- overlays


def test_an_overlay_adds_a_gpu(tmp_path):
    file = overlay(tmp_path, OWN_GPU)
    catalog = Catalog.load([file])
    assert len(catalog.gpus) == len(CATALOG.gpus) + 1
    gpu = catalog.gpu("House Card")
    assert gpu.name == gpu.title == "H999"
    assert gpu.source == str(file)
    assert gpu.usable_memory_bytes == 2**30
    assert gpu.power_watts is None
    assert gpu.reference_rent is None


def test_an_overlay_replaces_the_whole_row_of_that_name(tmp_path):
    catalog = Catalog.load([overlay(tmp_path, OWN_GPU.replace("H999", '"h100 sxm"', 1))])
    gpu = catalog.gpu("H100-SXM")
    assert len(catalog.gpus) == len(CATALOG.gpus)
    assert gpu.name == "H100-SXM"
    assert gpu.memory_bytes == 100e9
    assert gpu.nic_bytes_per_s is None
    assert gpu.rent_usd_per_hour == CATALOG.gpu("H100-SXM").rent_usd_per_hour
    with pytest.raises(TonnageError):
        catalog.gpu("H100")  # its alias went with the row


def test_an_alias_of_an_overlay_goes_before_one_of_ours(tmp_path):
    text = OWN_GPU.replace("H999", "T4").replace("house card", "H100")
    catalog = Catalog.load([overlay(tmp_path, text)])
    assert catalog.gpu("H100").name == "T4"
    assert catalog.gpu("H100-SXM").name == "H100-SXM"


def test_a_users_default_server_goes_before_ours(tmp_path):
    catalog = Catalog.load([overlay(tmp_path, OWN_SERVER)])
    server = catalog.default_server("H100")
    assert server is not None
    assert server.name == "house-box"
    assert server.gpu == "H100-SXM"
    assert catalog.server("DGX-H100").gpus == 8


def test_a_server_may_hold_a_gpu_of_another_overlay(tmp_path):
    box = OWN_SERVER.replace("H100 SXM", "house card")
    catalog = Catalog.load([overlay(tmp_path, box, "a.toml"), overlay(tmp_path, OWN_GPU, "b.toml")])
    assert catalog.server("house-box").gpu == "H999"


def test_a_later_overlay_goes_before_an_earlier_one(tmp_path):
    first = overlay(tmp_path, OWN_GPU, "a.toml")
    second = overlay(tmp_path, OWN_GPU.replace("= 100\n", "= 200\n"), "b.toml")
    assert Catalog.load([first, second]).gpu("H999").memory_bytes == 200e9
    assert Catalog.load([second, first]).gpu("H999").memory_bytes == 100e9


def test_a_users_only_price_is_the_reference_and_replaces_ours_of_that_kind(tmp_path):
    text = '[[prices]]\ngpu = "L40S"\nrent_usd_per_gpu_hour = 1.1\n'
    catalog = Catalog.load([overlay(tmp_path, text)])
    (price,) = catalog.gpu("L40S").rent_usd_per_hour
    assert (price.low_usd, price.high_usd, price.mid_usd) == (1.1, 1.1, 1.1)
    assert catalog.gpu("L40S").reference_rent == price
    assert catalog.gpu("L40S").purchase_usd == CATALOG.gpu("L40S").purchase_usd
    assert catalog.gpu("L4").rent_usd_per_hour == CATALOG.gpu("L4").rent_usd_per_hour


def test_loading_an_overlay_leaves_other_catalogs_alone(tmp_path):
    Catalog.load([overlay(tmp_path, OWN_GPU)])
    assert "H999" not in Catalog.load().gpus


@pytest.mark.parametrize(
    ("text", "line", "key", "remedy"),
    [
        (
            OWN_GPU.replace("memory_gb = 100", 'memory_gb = "100 GB"', 1),
            5,
            "memory_gb",
            "without a unit",
        ),
        (OWN_GPU.replace("memory_gb = 100", "memory = 100", 1), 5, "memory", "memory_gb"),
        (OWN_GPU.replace("memory_gb = 100\n", "", 1), 2, "memory_gb", "memory_gb = a number"),
        (OWN_GPU.replace("= 4000", "= -1"), 7, "hbm_gb_per_s", "Leave the key out"),
        (OWN_GPU.replace("= 4000", "= nan"), 7, "hbm_gb_per_s", "a number"),
        (OWN_GPU.replace("bf16 = 1000", "fp16 = 1000"), 8, "dense_tflops", "bf16"),
        (OWN_GPU.replace("fp8 = 2000", "fp9 = 2000"), 8, "dense_tflops", "fp8"),
        (OWN_GPU.replace("board = true", 'board = "yes"'), 12, "board", "true or"),
        (OWN_GPU.replace('["house card"]', '"house card"'), 13, "aliases", "["),
        (OWN_SERVER.replace("H100 SXM", "H100 SMX"), 4, "gpu", "H100-SXM"),
        (OWN_SERVER.replace("gpus = 8\n", "gpus = 7.5\n", 1), 5, "gpus", "whole number"),
        (
            OWN_SERVER.replace("domain_gpus = 8", "domain_gpus = 3"),
            6,
            "nvlink_domain_gpus",
            "host bus",
        ),
        (OWN_GPU + '[gpus.H998]\nvendor = "x"\n', 14, "architecture", "architecture ="),
        (
            OWN_PRICES,
            8,
            "gpu",
            "L4",
        ),
        ('[[prices]]\ngpu = "L4"\npurchase_usd = [2, 1]\n', 3, "purchase_usd", "Swap"),
        ('[[prices]]\ngpu = "L4"\n', 1, None, "purchase_usd = [low, high]"),
        (
            '[[prices]]\nserver = "DGX-H100"\nrent_usd_per_gpu_hour = 1\n',
            3,
            "rent_usd_per_gpu_hour",
            "per GPU",
        ),
        ("[[prices]]\npurchase_usd = 1\n", 1, "gpu", "server ="),
        ('[prices]\ngpu = "L4"\n', 1, "prices", "[[prices]]"),
        ("[gpu.H999]\nmemory_gb = 1\n", 1, "gpu", "gpus"),
        ("[gpus.H999\n", 1, None, "toml.io"),
        ('[storage.s]\nkind = "nvme"\n', 1, "capacity_tb", "capacity_tb ="),
        ('[models."a/b"]\nlicence = "x"\n', 1, "config", "config.json"),
        ('[models."a/b"]\nconfig = { model_type = "llama" }\n', 2, "config", ""),
    ],
)
def test_a_mistake_is_told_with_file_line_key_and_remedy(tmp_path, text, line, key, remedy):
    file = overlay(tmp_path, text)
    with pytest.raises(InputError) as caught:
        Catalog.load([file])
    error = caught.value
    assert (error.file, error.line, error.key) == (str(file), line, key)
    assert remedy in str(error)
    assert str(error).startswith(f"{file}:{line}:")


def test_several_mistakes_are_told_at_once(tmp_path):
    text = OWN_GPU.replace("memory_gb = 100", "memory = 1", 1) + OWN_SERVER.replace("H100", "H1OO")
    with pytest.raises(InputErrors) as caught:
        Catalog.load([overlay(tmp_path, text)])
    assert {error.key for error in caught.value.errors} == {"memory", "gpu"}


def test_an_overlay_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Catalog.load([tmp_path / "none.toml"])


# ---- where a user's files lie


def test_the_users_folder_comes_before_the_environment(tmp_path):
    folder = tmp_path / ".config" / "tonnage" / "catalog"
    folder.mkdir(parents=True)
    b, a = overlay(folder, "", "b.toml"), overlay(folder, "", "a.toml")
    named, among = overlay(tmp_path, "", "named.toml"), tmp_path / "more"
    among.mkdir()
    listed = overlay(among, "", "listed.toml")
    environ = {"HOME": str(tmp_path), "TONNAGE_CATALOG": f"{named}:{among}"}
    assert user_catalog_paths(environ) == (a, b, named, listed)
    assert user_catalog_paths({"XDG_CONFIG_HOME": str(tmp_path / ".config")}) == (a, b)
    assert user_catalog_paths({}) == ()


def test_a_path_of_the_environment_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="TONNAGE_CATALOG"):
        user_catalog_paths({"TONNAGE_CATALOG": str(tmp_path / "none.toml")})


# ---- cold start


def test_a_gpu_is_looked_up_without_reading_models_nor_importing_anything_heavy():
    script = (
        "import sys; from tonnage.catalog.loader import Catalog; Catalog.load().gpu('H100');"
        "from tonnage.catalog.rows import packaged_document as p;"
        "heavy = {'numpy', 'pydantic', 'yaml', 'tonnage.catalog.huggingface'} & set(sys.modules);"
        "assert not heavy, heavy; assert p.cache_info().currsize == 3, p.cache_info()"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
