"""LangChain's stock OpenAI class on TorchServe: documents into a vector store, and a question to it.

pip install langchain-openai
python examples/langchain_embeddings.py --url http://127.0.0.1:8080 --token "$(python kit.py token)"
"""

import argparse

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

DOCUMENTS = [
    "The with statement wraps a block in methods of a context manager, which close a file even after an exception.",
    "The break statement ends the nearest enclosing loop and skips its else clause.",
    "A function's default parameter values are evaluated once, when the function is defined.",
]
QUESTION = "How do I make sure that a file is closed?"


def embeddings(url: str, token: str) -> OpenAIEmbeddings:
    """check_embedding_ctx_length=False: send text; LangChain would send OpenAI's own token ids."""
    base_url = f"{url}/predictions/minilm/1.0/v1"
    return OpenAIEmbeddings(base_url=base_url, api_key=token, model="minilm", check_embedding_ctx_length=False)


def main() -> None:
    """Print the document that answers the question best."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--token", default="none")
    arguments = parser.parse_args()
    store = InMemoryVectorStore.from_texts(DOCUMENTS, embeddings(arguments.url, arguments.token))
    (best,) = store.similarity_search(QUESTION, k=1)
    print(best.page_content)


if __name__ == "__main__":
    main()
