"""LlamaIndex's stock OpenAI class on TorchServe: documents into a vector index, and a question to it.

pip install llama-index-embeddings-openai
python examples/llamaindex_embeddings.py --url http://127.0.0.1:8080 --token "$(python kit.py token)"
"""

import argparse

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai import OpenAIEmbedding

DOCUMENTS = [
    "The with statement wraps a block in methods of a context manager, which close a file even after an exception.",
    "The break statement ends the nearest enclosing loop and skips its else clause.",
    "A function's default parameter values are evaluated once, when the function is defined.",
]
QUESTION = "How do I make sure that a file is closed?"


def embeddings(url: str, token: str) -> OpenAIEmbedding:
    """model_name, not model: LlamaIndex takes only OpenAI's own names for that."""
    return OpenAIEmbedding(model_name="minilm", api_base=f"{url}/predictions/minilm/1.0/v1", api_key=token)


def main() -> None:
    """Print the document that answers the question best."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--token", default="none")
    arguments = parser.parse_args()
    nodes = [TextNode(text=text) for text in DOCUMENTS]
    index = VectorStoreIndex(nodes, embed_model=embeddings(arguments.url, arguments.token))
    (best,) = index.as_retriever(similarity_top_k=1).retrieve(QUESTION)
    print(best.text)


if __name__ == "__main__":
    main()
