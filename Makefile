# Everything a developer or CI runs. Each target makes the .venv and installs what it needs.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := $(shell find csrc proto -type f 2>/dev/null) pyproject.toml setup.py build_backend/backend.py
CXX_FILES = $(shell git ls-files 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.h' 'csrc/*.cuh')

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench pages gallery proto format clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## make .venv and install whylight into it, with its native operators

# torch comes first, so that the build backend finds it and does not fetch a second one to build against.
$(INSTALLED): $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet 'torch>=2.11' 'torchvision>=0.26'
	$(BIN)/python -m pip install --quiet --editable '.[server,demo,dev]'
	touch $@

demo: $(INSTALLED) ## start the server, explain real photos, write the pictures to demo/
	$(BIN)/python examples/demo.py

# One file to a process at a time, with a thread each; what may depend on threads is then run with all of them. Clients of
# Triton and KServe have environments of their own; where no index has them, their tests are skipped and say so.
test: $(INSTALLED) ## run the tests
	-scripts/check_open_inference_clients.sh --only-install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
	$(BIN)/python -m pytest tests/subject

check: $(INSTALLED) ## run every linter, type checker and generated-page check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(if $(CXX_FILES),$(BIN)/clang-format --dry-run --Werror $(CXX_FILES))
	$(BIN)/python scripts/generate_configuration_page.py --check
	$(BIN)/python scripts/generate_metrics_page.py --check
	$(BIN)/python scripts/generate_methods_page.py --check

bench: $(INSTALLED) ## measure every attribution method against its peers; Grad-CAM too when served; over an hour
	$(BIN)/python benchmarks/grad_cam.py
	$(BIN)/python benchmarks/methods.py

pages: $(INSTALLED) ## write the generated pages
	$(BIN)/python scripts/generate_configuration_page.py
	$(BIN)/python scripts/generate_metrics_page.py
	$(BIN)/python scripts/generate_methods_page.py

gallery: $(INSTALLED) ## draw every method on the same photos, then write the pages; minutes, if anything changed
	$(BIN)/python scripts/make_gallery.py
	$(BIN)/python scripts/generate_methods_page.py

proto: $(INSTALLED) ## generate the Python code of the .proto files beside the sources
	$(BIN)/python setup.py --quiet build_protos --inplace

format: $(INSTALLED) ## format everything
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write
	$(BIN)/clang-format -i $(CXX_FILES)

clean: ## remove everything that can be made again
	rm -rf .venv build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find server plugins \( -name '*_pb2*.py*' -o -name '*.binpb' -o -name '_C*.so' \) -delete
