"""What a TorchServe user has who follows the Inferentia2 article on a CPU: the comparison's other side, not the kit's.

TorchServe's own MicroBatching and TextIteratorStreamerBatch around transformers.generate, streamed by
send_intermediate_predict_response. Takes {"prompt", "max_new_tokens"}. Runs inside a worker, where there is nothing
of the kit.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from ts.handler_utils.hf_batch_streamer import TextIteratorStreamerBatch
from ts.handler_utils.micro_batching import MicroBatching
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.torch_handler.base_handler import BaseHandler


class StockLlamaHandler(BaseHandler):  # type: ignore[misc]
    """One worker's model."""

    def __init__(self) -> None:
        super().__init__()
        self.handle = MicroBatching(self)  # TorchServe takes `handle` before it calls initialize

    def initialize(self, context: Any) -> None:
        """Load model and tokenizer."""
        config = context.model_yaml_config
        folder = Path(context.system_properties["model_dir"]) / config["handler"]["model_checkpoint_dir"]
        self.context = context
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.generation_config.eos_token_id = None  # answers of the length that was asked for
        micro = config["micro_batching"]
        self.handle.micro_batch_size = micro["micro_batch_size"]
        self.handle.parallelism = micro["parallelism"]
        self.initialized = True

    def preprocess(self, requests: list[Any]) -> tuple[Any, int, int]:
        """Token ids of a micro-batch, its size, and the most new tokens that any of it asks for."""
        bodies = [request.get("data") or request.get("body") for request in requests]
        prompts = [body["prompt"] for body in bodies]
        empty = [""] * (self.handle.micro_batch_size - len(prompts))  # the streamer wants whole micro-batches
        inputs = self.tokenizer(prompts + empty, return_tensors="pt", padding=True, return_token_type_ids=False)
        return inputs, len(prompts), max(body["max_new_tokens"] for body in bodies)

    def inference(self, prepared: tuple[Any, int, int]) -> list[str]:
        """Generate in a thread, and send each piece of text when it comes."""
        inputs, count, new_tokens = prepared
        streamer = TextIteratorStreamerBatch(
            self.tokenizer, batch_size=self.handle.micro_batch_size, skip_prompt=True, skip_special_tokens=True
        )
        work = threading.Thread(
            target=self.model.generate,
            kwargs={**inputs, "streamer": streamer, "max_new_tokens": new_tokens, "do_sample": False},
        )
        work.start()
        # By place in the whole batch: by place in the micro-batch only the first of them would get the header that
        # ends its stream, and the other clients would wait for ever.
        start = self.handle.get_micro_batch_idx() * self.handle.micro_batch_size
        ids = {start + place: self.context.request_ids[start + place] for place in range(count)}
        for texts in streamer:
            chunks = dict(zip(ids, texts, strict=False))
            send_intermediate_predict_response(chunks, ids, "Intermediate Prediction success", 200, self.context)
        work.join()
        return [""] * count

    def postprocess(self, outputs: list[str]) -> list[str]:
        """The last part of every stream, which has nothing in it."""
        return outputs
