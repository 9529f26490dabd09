"""A number format's name -> bits per stored value and the arithmetic it runs in.

Weights and KV cache are stored in a dtype; matrix products run in a *math* dtype, which is the
same one when the GPU multiplies in it, and bf16 when the weights are only stored small
("weight-only": unpacked on the fly).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Dtype:
    """One number format. `bits_per_value` includes its scales; `math` is a GPU's peak-rate key."""

    name: str
    bits_per_value: float
    math: str
    weight_only: bool  # may be stored small and multiplied in bf16 on a GPU without `math`

    @property
    def bytes_per_value(self) -> float:
        """Bytes of one stored value, scales included."""
        return self.bits_per_value / 8


DTYPES: dict[str, Dtype] = {
    dtype.name: dtype
    for dtype in (
        Dtype(name="fp32", bits_per_value=32, math="bf16", weight_only=True),
        Dtype(name="bf16", bits_per_value=16, math="bf16", weight_only=False),
        Dtype(name="fp16", bits_per_value=16, math="bf16", weight_only=False),
        # 128x128 blocks with one 32-bit scale each: 32/16384 bit (DeepSeek-V3 report, 3.3)
        Dtype(name="fp8", bits_per_value=8 + 32 / 128**2, math="fp8", weight_only=False),
        Dtype(name="int8", bits_per_value=8, math="int8", weight_only=False),
        # AWQ / GPTQ: groups of 128 share a 16-bit scale and a 4-bit zero point
        Dtype(name="int4", bits_per_value=4 + 20 / 128, math="bf16", weight_only=True),
        # OCP Microscaling v1.0: 32 values share one 8-bit scale
        Dtype(name="mxfp4", bits_per_value=4 + 8 / 32, math="fp4", weight_only=True),
        # NVIDIA NVFP4: 16 values share one 8-bit scale
        Dtype(name="nvfp4", bits_per_value=4 + 8 / 16, math="fp4", weight_only=True),
    )
}

KV_DTYPES = ("bf16", "fp16", "fp8", "int8")  # what serving engines store a KV cache in
KV_BYTES_PER_VALUE: dict[str, float] = {"bf16": 2, "fp16": 2, "fp8": 1, "int8": 1}
