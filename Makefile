# make demo: set everything up and run every verb on real images.   make test: set everything up and run the suite.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready
DATA ?= ../shared/data
SECONDS ?= 60

.PHONY: demo test lint docs bench fuzz clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[geo,zarr,train,dev,docs]"
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/demo.py --data $(DATA)

test: $(READY)
	$(BIN)/python -m pytest -n 2

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs: $(READY)
	$(BIN)/python docs/cli_page.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)
	$(BIN)/fiducial benchmark --data $(DATA)

fuzz: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[fuzz]"
	for target in images tables weights; do $(BIN)/python fuzz/$$target.py --seconds $(SECONDS) || exit 1; done

clean:
	rm -rf .venv demo site build *.egg-info
