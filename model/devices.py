"""Accelerators by a word of their names, as their makers publish them. Needs no torch."""

from dataclasses import dataclass

from model.speed import Dtype


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator."""

    memory: float
    """Byte."""
    bfloat16: float
    """FLOP/s of dense products, tensor cores at work."""
    float32: float
    """The same without them: torch does not use TF32 unless told to."""

    def peak(self, dtype: Dtype) -> float:
        """FLOP/s by precision of the factors."""
        return self.bfloat16 if dtype == "bfloat16" else self.float32


DEVICES: dict[str, Device] = {
    # NVIDIA's data sheets; where they give figures "with sparsity", half of those. SXM if unnamed.
    "H200": Device(memory=141e9, bfloat16=989e12, float32=67e12),
    "H100": Device(memory=80e9, bfloat16=989e12, float32=67e12),
    "H100 PCIe": Device(memory=80e9, bfloat16=756e12, float32=51e12),
    "A100": Device(memory=80e9, bfloat16=312e12, float32=19.5e12),
    "L40S": Device(memory=48e9, bfloat16=362e12, float32=91.6e12),
    "L4": Device(memory=24e9, bfloat16=121e12, float32=30.3e12),
    # NVIDIA Ada GPU architecture, appendix A, sums kept in float32.
    "RTX 4090": Device(memory=24e9, bfloat16=165e12, float32=82.6e12),
}


def known(name: str) -> Device | None:
    """The device that `name` speaks of, by its longest word there is; None if it is unknown."""
    words = [word for word in DEVICES if word in name]
    return DEVICES[max(words, key=len)] if words else None
