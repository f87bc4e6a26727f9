"""The other side of llama_peers.py, run by the Python of an environment that holds llama-cpp-python and gguf.

    python llama_cpp_peer.py convert MODEL_FOLDER OUT.gguf f32|q8_0
    python llama_cpp_peer.py serve MODEL.gguf MOST_ROWS POSITIONS THREADS exact|default

serve: a JSON line {"prompts": [[ids]], "tokens": n} on standard input is answered by {"step_ms": […], "ids": [[…]]}:
all rows decoded together, greedy, by llama.cpp's own batch interface. default: as llama.cpp comes, its attention in
half precision; exact: all of it in float32. Knows nothing of the kit.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

Array = Any  # numpy's; this module is also read where numpy has no types


def interleaved(weight: Array, heads: int) -> Array:
    """Rows of a query or key projection in GGUF's order for Llama.

    transformers rotates the first half of a head against its second half, llama.cpp each even row against the odd
    one after it: of each head, rows 0, 1, … and d/2, d/2 + 1, … become 0, d/2, 1, d/2 + 1, ….
    """
    pairs = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def gguf_name(name: str) -> str:
    """transformers' name of a tensor in GGUF's words. Raises KeyError for one that GGUF's Llama has not."""
    fixed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    if name in fixed:
        return fixed[name]
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{parts[part]}.weight"


def convert(folder: Path, target: Path, kind: str) -> None:
    """Write a transformers folder as GGUF, all matrices in f32 or q8_0. Without a tokenizer: only ids go in and out."""
    import gguf  # type: ignore[import-not-found]
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    rope = config.get("rope_parameters") or {}
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta") or rope.get("rope_theta") or 10000.0)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in sorted(load_file(folder / "model.safetensors").items()):
        weight = tensor.astype(np.float32)
        if "q_proj" in name or "k_proj" in name:
            weight = interleaved(weight, heads if "q_proj" in name else kv_heads)
        if kind == "q8_0" and weight.ndim == 2:
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(weight, q8_0), raw_dtype=q8_0)
        else:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Peer:
    """A loaded model and its context."""

    def __init__(self, path: Path, rows: int, positions: int, threads: int, *, exact: bool) -> None:
        """rows: most of one batch; positions: of each row."""
        import llama_cpp  # type: ignore[import-not-found]

        self.api: Any = llama_cpp
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = rows * positions
        options.n_batch = options.n_ubatch = 512
        options.n_seq_max = rows
        options.n_threads = options.n_threads_batch = threads
        if exact:
            options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
            options.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.context:
            raise RuntimeError(f"llama.cpp does not load {path}")
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(512, 0, rows)

    def run(self, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        """Read each prompt, then decode all rows together. step_ms: of the steps after the first token."""
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)
        last = []
        for row, ids in enumerate(prompts):
            self._decode([(token, place, row) for place, token in enumerate(ids)])
            last.append(self._best(len(ids) - 1))
        made = [[token] for token in last]
        step_ms = []
        for step in range(tokens - 1):
            started = time.perf_counter()
            self._decode([(own[-1], len(ids) + step, row) for row, (ids, own) in enumerate(zip(prompts, made))])  # noqa: B905
            for row, own in enumerate(made):
                own.append(self._best(row))
            step_ms.append(1e3 * (time.perf_counter() - started))
        return {"step_ms": step_ms, "ids": made}

    def _decode(self, entries: list[tuple[int, int, int]]) -> None:
        """entries: token, position, row. Logits are kept for the last of each row."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for place, (token, position, row) in enumerate(entries):
            batch.token[place], batch.pos[place] = token, position
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, row
            batch.logits[place] = place + 1 == len(entries) or entries[place + 1][2] != row
        if self.api.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")

    def _best(self, place: int) -> int:
        logits = self.api.llama_get_logits_ith(self.context, place)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocabulary,)).argmax())


def serve(path: str, rows: str, positions: str, threads: str, precision: str) -> None:
    """See the module's docstring."""
    peer = Peer(Path(path), int(rows), int(positions), int(threads), exact=precision == "exact")
    print(json.dumps({"system": peer.api.llama_print_system_info().decode()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(peer.run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "convert":
        convert(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    else:
        serve(*sys.argv[2:])
