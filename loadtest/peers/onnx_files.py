"""What onnx_export writes, by name. Which graph is faster depends on the shape, so that both are measured."""

from __future__ import annotations

PLAIN, FUSED, PLAIN_INT8, FUSED_INT8 = "model.onnx", "fused.onnx", "model-int8.onnx", "fused-int8.onnx"
FP32, INT8 = (PLAIN, FUSED), (PLAIN_INT8, FUSED_INT8)
WORDS = {PLAIN: "fp32", FUSED: "fp32, fused", PLAIN_INT8: "int8", FUSED_INT8: "int8, fused"}
DONE = "fusions.json"
"""What the optimiser fused; written last."""
