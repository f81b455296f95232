"""The table of GPUs, and which card a name means."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import gpus, machine
from nanochat.gpus import find

NAMES = {
    "h100": "H100 SXM",
    "H100 SXM": "H100 SXM",
    "h100_sxm5_80gb": "H100 SXM",
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA B200": "B200",
    "NVIDIA B300 SXM6 AC": "B300",
    "NVIDIA GB200": "GB200",
    "a100": "A100 SXM",
    "a100-80gb": "A100 SXM",
    "NVIDIA A100-SXM4-80GB": "A100 SXM",
    "NVIDIA A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A100-PCIE-40GB": "A100 40GB",
    "NVIDIA A100 80GB PCIe": "A100 PCIe",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA L4": "L4",
    "NVIDIA L40": "L40",
    "NVIDIA L40S": "L40S",
    "rtx 4090": "RTX 4090",
    "RTX4090": "RTX 4090",
    "4090": "RTX 4090",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA GeForce RTX 3090 Ti": "RTX 3090 Ti",
    "NVIDIA GeForce RTX 5090": "RTX 5090",
    "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000",
    "Tesla T4": "T4",
    "Tesla V100-SXM2-16GB": "V100 SXM",
    "Tesla V100-PCIE-16GB": "V100 PCIe",
    "AMD Instinct MI300X": "MI300X",
}
OTHERS = (
    "", "gpu", "nvidia", "banana", "h1000", "100", "6000", "Quadro RTX 6000", "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4080 SUPER", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "8 x H100",
    "h" * 10**6,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_people_and_drivers(name: str) -> None:
    gpu = find(name)
    assert gpu and gpu.name == NAMES[name]


@pytest.mark.parametrize("name", OTHERS, ids=[str(n) for n in range(len(OTHERS))])
def test_another_card_is_not_taken_for_a_known_one(name: str) -> None:
    assert find(name) is None


@given(st.sampled_from([gpu.name for gpu in gpus.GPUS]), st.sampled_from(["", "NVIDIA "]), st.sampled_from(" -_/"))
def test_spelling_does_not_matter(name: str, before: str, between: str) -> None:
    for spelt in (name, name.lower(), name.upper()):
        gpu = find(before + spelt.replace(" ", between))
        assert gpu and gpu.name == name


@given(st.text(max_size=30))
def test_any_text_has_an_answer(name: str) -> None:
    gpu = find(name)
    assert gpu is None or gpu.name in [known.name for known in gpus.GPUS]


@pytest.mark.parametrize(
    ("name", "memory"), [("Tesla V100-SXM2-32GB", 32 << 30), ("h100 64 GB", 64 << 30), ("a100 80GB", 80 << 30)]
)
def test_a_memory_in_the_name_counts(name: str, memory: float) -> None:
    gpu = find(name)
    assert gpu and gpu.memory == memory


def test_an_unlikely_memory_does_not_count() -> None:
    gpu = find("NVIDIA GH200 480GB")
    assert gpu and gpu.memory < 100 << 30


def test_the_table_is_whole() -> None:
    assert len({gpu.name for gpu in gpus.GPUS}) == len(gpus.GPUS)
    for gpu in gpus.GPUS:
        assert find(gpu.name) == gpu, gpu.name
        assert 10e12 < gpu.peak < 1e16 and (not gpu.fp8_peak or gpu.fp8_peak > 1.9 * gpu.peak)
        assert 1e11 < gpu.bandwidth < 2e13 and 4e9 < gpu.memory < 1e12 and 0.05 < gpu.price < 20
        assert gpu.source and datetime.date.fromisoformat(gpu.date)
        # Cards without bfloat16 train in float32, and float8 starts at 8.9.
        assert (gpu.fp32_peak > 0) == (0 < gpu.capability < 8.0)
        assert not gpu.capability or (gpu.fp8_peak > 0) == (gpu.capability >= 8.9)
    every = " ".join(gpu.name for gpu in gpus.GPUS)
    assert all(name in every for name in ("H100", "B200", "A100", "RTX 4090", "L4", "T4", "V100", "MI300X"))


def test_the_peak_is_the_tables_for_a_known_card_and_measured_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def here(name: str, dtype: torch.dtype) -> float:
        monkeypatch.setattr(machine.Machine, "name", property(lambda self: name))
        return machine.peak_flops(machine.Machine(torch.device("cuda"), dtype, machine.Ranks()))

    monkeypatch.setattr(machine, "_measured_peak", lambda *args: 1.0)
    assert here("NVIDIA H100 80GB HBM3", torch.bfloat16) == 989e12
    assert here("NVIDIA H100 80GB HBM3", torch.float32) == 1.0
    assert here("NVIDIA H100 80GB HBM3 MIG 1g.10gb", torch.bfloat16) == 1.0
