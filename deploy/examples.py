"""The curl lines that `serve` prints: what a running model takes, ready to paste. Knows nothing of processes."""

from __future__ import annotations

from deploy.local import ServedModel, Server
from model_configs import ROOT
from model_configs.schema import AnyModelConfig


def lines(server: Server, model: ServedModel, config: AnyModelConfig, *, has_images: bool) -> list[str]:
    """A model's URLs, and a call in each of its dialects."""
    token = server.client_key
    auth = f" -H 'Authorization: Bearer {token}'" if token else ""
    url = f"{server.url}/predictions/{model.name}"
    first = f"{model.name}  {url}"
    if config.model.handler == "embedding_handler.py":
        openai = f"{url}/{model.version}/v1"
        body = f'{{"input": ["hello", "world"], "model": "{model.name}"}}'
        return [
            first,
            f"{' ' * len(model.name)}  {openai}  (OpenAI base URL)\n",
            f"curl{auth} -H 'Content-Type: text/plain' -d 'hello' {url}",
            f"curl{auth} -H 'Content-Type: application/json' -d '{body}' {openai}/embeddings\n",
        ]
    if config.model.handler == "llama_handler.py":
        openai = f"{url}/{model.version}/v1"
        tgi = '{"inputs": "The with statement", "parameters": {"max_new_tokens": 40}, "stream": true}'
        chat = '{"messages": [{"role": "user", "content": "What is a generator?"}], "stream": true}'
        return [
            first,
            f"{' ' * len(model.name)}  {openai}  (OpenAI base URL)\n",
            f"curl -N{auth} -H 'Content-Type: text/plain' -d 'The with statement' {url}",
            f"curl -N{auth} -H 'Content-Type: application/json' -d '{tgi}' {url}",
            f"curl -N{auth} -H 'Content-Type: application/json' -d '{chat}' {openai}/chat/completions\n",
        ]
    if config.model.handler == "retrieval_handler.py":
        filtered = '{"query": "How does the with statement work?", "k": 2, "filters": {"source": "w*"}}'
        calls = [
            f"{first}\n",
            f"curl{auth} -H 'Content-Type: text/plain' -d 'How does the with statement work?' {url}",
            f"curl{auth} -H 'Content-Type: application/json' -d '{filtered}' {url}\n",
        ]
        if config.handler.answer:
            chat = '{"messages": [{"role": "user", "content": "How does the with statement work?"}], "stream": true}'
            end = f"{url}/{model.version}/v1/chat/completions"
            calls.append(f"curl -N{auth} -H 'Content-Type: application/json' -d '{chat}' {end}\n")
        return calls
    if has_images:
        return [f"{first}\n", f"curl{auth} -T {sample_file(config)} {url}\n"]
    return [f"{first}\n", f"curl{auth} -H 'Content-Type: text/plain' -d 'I like this.' {url}\n"]


def sample_file(config: AnyModelConfig) -> str:
    """The first of the model's payloads, from the project's root; a made-up name when it has none."""
    folder = ROOT / "loadtest" / "payloads" / (config.loadtest.payloads if config.loadtest else "")
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return str(files[0].relative_to(ROOT)) if files else "IMAGE.jpg"
