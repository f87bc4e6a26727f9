"""What bench_peers compares this kit's embeddings with: other servers and runtimes, each by a Python of its own.

Modules that end in _side, _server or _export and the stock handler run there, where there may be nothing of the kit.
"""
