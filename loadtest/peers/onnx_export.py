"""A BERT as ONNX, four times: python -m loadtest.peers.onnx_export MODEL_FOLDER TARGET_FOLDER, by a Python with onnx.

model.onnx as torch exports it, ONNX Runtime optimises it when it loads it; fused.onnx with its transformer optimiser's
fused attention; and of both, dynamic int8: weights by channel, activations by tensor. Which is faster depends on the
shape. The TorchScript exporter with eager attention gives the graph that the optimiser knows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel

from loadtest.peers import onnx_files

NAMES = ("input_ids", "attention_mask", "token_type_ids")
OPSET = 17


class Hidden(nn.Module):
    """The last hidden state alone, and inputs by position."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """[B, L] each to [B, L, D]."""
        inputs = dict(zip(NAMES, (input_ids, attention_mask, token_type_ids), strict=True))
        hidden: Tensor = self.encoder(**inputs).last_hidden_state
        return hidden


def main(model_folder: str, target_folder: str) -> None:
    """See the module's docstring."""
    import onnx  # type: ignore[import-not-found,unused-ignore]
    from onnxruntime.quantization import (  # type: ignore[import-not-found,unused-ignore]
        QuantType,
        quantize_dynamic,
    )
    from onnxruntime.transformers import optimizer  # type: ignore[import-not-found,unused-ignore]

    target = Path(target_folder)
    target.mkdir(parents=True, exist_ok=True)
    config = json.loads((Path(model_folder) / "config.json").read_text())
    encoder = AutoModel.from_pretrained(model_folder, attn_implementation="eager", local_files_only=True).eval()
    ids = torch.randint(1000, 2000, (3, 9))
    plain, fused, plain_int8, fused_int8 = (target / name for name in (*onnx_files.FP32, *onnx_files.INT8))
    with torch.no_grad():
        torch.onnx.export(
            Hidden(encoder),
            (ids, torch.ones_like(ids), torch.zeros_like(ids)),
            str(plain),
            input_names=list(NAMES),
            output_names=["last_hidden_state"],
            dynamic_axes={name: {0: "batch", 1: "length"} for name in (*NAMES, "last_hidden_state")},
            opset_version=OPSET,
            dynamo=False,
        )
    graph = optimizer.optimize_model(
        str(plain),
        model_type="bert",
        num_heads=config["num_attention_heads"],
        hidden_size=config["hidden_size"],
        opt_level=0,
    )
    graph.save_model_to_file(str(fused))
    for source, quantised in ((plain, plain_int8), (fused, fused_int8)):
        # The types behind ONNX Runtime's own operators are not found by onnx.
        types = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(
            str(source), str(quantised), weight_type=QuantType.QInt8, per_channel=True, extra_options=types
        )
    (target / onnx_files.DONE).write_text(json.dumps(graph.get_fused_operator_statistics()) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
