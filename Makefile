# Verbs. Everything that is missing is installed by scripts/setup into this folder.
BUILD := build
MODEL := .cache/model/SmolLM2-135M-Instruct.Q4_1.gguf

.PHONY: all build test demo evidence format check bench clean

all: build

build:
	scripts/setup
	cmake --preset cpu-release
	cmake --build $(BUILD)

# Builds everything and runs every test: under 10 minutes on two cores.
test:
	scripts/setup --tests
	cmake --preset cpu-release
	cmake --build $(BUILD)
	ctest --test-dir $(BUILD) --output-on-failure --parallel 2

# Calibrates, converts and compares a real model; demo/report.html has the result.
# FAST=1: fewer documents. FULL=1: more, and longer ones. MODEL_DIR=...: your own model.
demo:
	scripts/setup --model
	cmake --preset cpu-release
	cmake --build $(BUILD) --target loza
	$(BUILD)/loza demo --out demo --prose .cache/text/prose.txt --code .cache/text/code.txt \
	  $(if $(MODEL_DIR),--model $(MODEL_DIR),--gguf $(MODEL)) \
	  $(if $(FAST),--fast) $(if $(FULL),--full)

# Measures the method on SmolLM2 and on models/mla-7m, stage by stage, and writes evidence/report.html,
# and the tables of docs/evidence.md and README.md. DEVICE=cuda: with a build of preset cuda-hopper or
# cuda-release; GPUS=4: stages beside each other on four, a quarter of an hour on H200s.
# FAST=1: a small one on two cores, MODEL_DIR=...: your own model; these write a page alone, in
# evidence-fast and evidence-MODEL.
DEVICE := cpu
GPUS := 0
EVIDENCE := evidence$(if $(MODEL_DIR),-$(notdir $(MODEL_DIR:/=)))$(if $(FAST),-fast)
EVIDENCE_OPTIONS = --device $(DEVICE) --gpus $(GPUS) $(if $(FAST),--fast)
CUDA_BUILD = $(firstword $(wildcard build-cuda-hopper) build-cuda-release)
evidence: export LOZA = $(if $(filter cuda%,$(DEVICE)),$(CUDA_BUILD),$(BUILD))/loza
evidence:
	$(if $(FAST)$(filter cuda%,$(DEVICE)),,$(error on a CPU it would take days: FAST=1, or DEVICE=cuda))
	scripts/setup --tests --model
	test -e .cache/corpus/code.txt || .venv/bin/python scripts/collect_text .cache/corpus
	$(if $(filter cuda%,$(DEVICE)),,cmake --preset cpu-release && cmake --build $(BUILD) --target loza)
	$(if $(MODEL_DIR),,test -d .cache/evidence-model || $$LOZA import $(MODEL) .cache/evidence-model --dtype bf16)
	scripts/evidence run $(or $(MODEL_DIR),.cache/evidence-model) $(EVIDENCE) $(EVIDENCE_OPTIONS)
	$(if $(MODEL_DIR),,scripts/evidence run models/mla-7m $(EVIDENCE)/mla-7m $(EVIDENCE_OPTIONS) \
	  --prose .cache/corpus/prose-heldout.txt --code .cache/corpus/code-heldout.txt)
	scripts/evidence report $(EVIDENCE) $(if $(FAST)$(MODEL_DIR),--page-alone)

# Rewrites the sources in the house's format.
format:
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format -i

# What CI checks beside the tests.
check:
	scripts/setup --checks
	scripts/check_layers
	scripts/check_format

clean:
	rm -rf $(BUILD)
