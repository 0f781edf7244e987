"""The probe of a device's peak."""

import pytest
import torch

from model.peak import PUBLISHED, peak_flops


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_product_we_time_ourselves_is_far_above_the_peak(dtype):
    peak = peak_flops(dtype, seconds=0.3)
    assert 1e8 < peak < 1e15
    assert peak_flops(dtype, seconds=0.3) == pytest.approx(peak, rel=0.5)


def test_a_known_gpu_has_its_data_sheets_figure(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak_flops("bfloat16", "cuda:0") == PUBLISHED["H200", "bfloat16"] == 989e12
