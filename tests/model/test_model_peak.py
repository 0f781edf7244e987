"""The probe of a device's peak."""

import pytest
import torch

from model import peak
from model.devices import known
from model.peak import peak_flops


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_peak_is_found_again(dtype, monkeypatch):
    if dtype == "bfloat16":  # a CPU without units for it takes seconds a product of 1024
        monkeypatch.setitem(peak.SIZE, "cpu", 256)
    *_, second, first = sorted(peak_flops(dtype, seconds=0.1) for _ in range(6))
    assert 1e8 < first < 1e15
    # Other work on the machine only slows: the best two of six are the machine's own.
    assert second == pytest.approx(first, rel=0.5)


def test_a_known_gpu_has_its_data_sheets_figure(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak_flops("bfloat16", "cuda:0") == 989e12
    assert peak_flops("float32", "cuda:0") == 67e12


@pytest.mark.parametrize(
    ("name", "bfloat16"),
    [("NVIDIA L40S", 362e12), ("NVIDIA L4", 121e12), ("NVIDIA H100 PCIe", 756e12),
     ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12)],
)  # fmt: skip
def test_the_longest_word_names_the_device(name, bfloat16):
    assert known(name).bfloat16 == bfloat16


def test_an_unknown_device_is_not_taken_for_another():
    assert known("Tesla T4") is None
