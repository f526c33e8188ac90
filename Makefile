# What README.md and CONTRIBUTING.md ask for. Every environment is set up once, and again only when
# a file that it is made from has changed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help env demo reach test test-jazzy matrix lint nano retrain-demo bench clean

VENV := .venv
JAZZY := .venv-jazzy
# The machine's own Python where it is 3.10 to 3.13, else the first such one.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
PYTHON310 ?= $(shell for p in python3.10 $(HOME)/.pyenv/versions/3.10*/bin/python; do \
	$$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))' 2>/dev/null \
	&& echo $$p && break; done)

INFERENCE := $(addprefix requirements/,inference.txt kilted.txt simulation.txt web.txt top.txt \
	constraints.txt)
TEST := $(INFERENCE) $(addprefix requirements/,rerun.txt training.txt test.txt tensorrt-rtx.txt \
	without_dependencies.txt)
JAZZY_TEST := $(addprefix requirements/,jazzy.txt numpy1.txt simulation.txt web.txt top.txt training.txt test.txt \
	tensorrt-rtx.txt without_dependencies.txt constraints-jazzy.txt)
stamp = $(1)/.ready-$(2)-$(shell cat setup.py $(3) | sha256sum | cut -c1-12)
INFERENCE_READY := $(call stamp,$(VENV),inference,$(INFERENCE))
TEST_READY := $(call stamp,$(VENV),test,$(TEST))
JAZZY_READY := $(call stamp,$(JAZZY),test,$(JAZZY_TEST))

# A file's tests stay in one process, which keeps what they share, and in their order.
WHOLE := -n 2 --dist loadfile --no-loadscope-reorder

# One short line for each package that pip takes up.
define install
	@echo "$(1): installing $(2)"
	@$(1)/bin/python -m pip install --disable-pip-version-check $(3) \
		| awk '/^Collecting/ { print "  " $$2; fflush() } /^Installing/ { print "  unpacking"; fflush() }'
endef
define install_commands
	@PYTHONWARNINGS=ignore $(1)/bin/python -m pip install -q --disable-pip-version-check \
		--no-deps --no-build-isolation -e .
endef
# Runs a command inside an environment: the Python wheels of ROS 2 do not announce themselves.
within = @export PATH="$(CURDIR)/$(1)/bin:$$PATH" AMENT_PREFIX_PATH="$(CURDIR)/$(1)";

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(INFERENCE_READY)  ## camera and grounding node on ROS 2; VIDEO= CAMERA= QUERY= choose; WEB=1: the page
	$(call within,$(VENV)) python -m molmo2_ros.ros.demo $${VIDEO:+--video "$$VIDEO"} \
		$${CAMERA:+--camera "$$CAMERA"} $${QUERY:+--query "$$QUERY"} $${WEB:+--web}

reach: $(INFERENCE_READY)  ## a simulated arm touches what is asked for; OBJECT= BELT= (m/s) choose
	$(call within,$(VENV)) python -m molmo2_ros.ros.reach_demo $${OBJECT:+--object "$$OBJECT"} \
		$${BELT:+--belt "$$BELT"}

env: $(TEST_READY)  ## the whole environment for tests, benchmarks and training, in .venv

test: $(TEST_READY)  ## the whole suite; PYTEST_ARGS= is handed on
	$(call within,$(VENV)) python -m pytest $(or $(PYTEST_ARGS),$(WHOLE))

test-jazzy: $(JAZZY_READY)  ## the suite on Python 3.10, ROS 2 Jazzy and NumPy 1.26, in .venv-jazzy
	$(call within,$(JAZZY)) python -m pytest $(or $(PYTEST_ARGS),$(WHOLE))

matrix: $(TEST_READY)  ## other corners: ROS, Python, NumPy; CORNERS= PART=nodes|rooms|whole choose
	$(call within,$(VENV)) python test/matrix.py $(or $(CORNERS),all) --part $(or $(PART),rooms) \
		--other $(VENV)/bin/python $(if $(PYTEST_ARGS),-- $(PYTEST_ARGS))

lint: $(TEST_READY)  ## style, types, spelling and the rules of the house
	$(call within,$(VENV)) python -m pytest -q test/test_lint.py test/test_architecture.py

nano: $(TEST_READY)  ## train molmo2-nano from nothing into engines/nano; goes on where it was stopped
	$(call within,$(VENV)) config=$(or $(CONFIG),training/configs/nano.yaml); \
		processes=$$(python -m molmo2_ros.training.nano.rank --config $$config); \
		torchrun --nproc-per-node $$processes -m molmo2_ros.training.nano.train \
		--config $$config --out runs/nano; \
		python -m molmo2_ros.training.nano.publish --run runs/nano --engine engines/nano

# OpenCV 5 keeps its people detector in the wheel with the extra modules, which would replace the
# small one: it lies beside the environment and is seen by the labeller alone.
retrain-demo: $(TEST_READY) runs/footage/vtest.avi $(VENV)/opencv-contrib/cv2  ## record, label, fine-tune, compare on real footage (half an hour)
	$(call within,$(VENV)) python benchmarks/bench_retrain.py $(RETRAIN_ARGS)

runs/footage/vtest.avi:
	benchmarks/footage/fetch.sh

$(VENV)/opencv-contrib/cv2: | $(TEST_READY)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps \
		--target $(VENV)/opencv-contrib \
		opencv-contrib-python-headless==$$(sed -n 's/^opencv-python-headless==//p' requirements/inference.txt)

bench: $(TEST_READY)  ## every benchmark but those that take an hour, one table each
	$(call within,$(VENV)) for file in $$(grep -l __main__ benchmarks/*.py \
		| grep -vE 'full_size|fuzz|random_checkpoint|retrain|soak'); do python $$file; done

clean:  ## remove the environments and what builds and tests leave behind
	rm -rf $(VENV) $(VENV)-* build install log *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.10 to 3.13 found; install one, or name it:" \
		"make PYTHON=/path/to/python3 ..." >&2; exit 1; }
	@echo "$(VENV): a new environment of $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { echo "Without ensurepip: apt-get install python3-venv" >&2; exit 1; }
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check pip==26.3

$(INFERENCE_READY): | $(VENV)/bin/python
	$(call install,$(VENV),what the nodes need,-c requirements/constraints.txt \
		$(addprefix -r ,$(filter-out %constraints.txt,$(INFERENCE))))
	$(call install_commands,$(VENV))
	@rm -f $(VENV)/.ready-inference-*; touch $@

$(TEST_READY): $(INFERENCE_READY)
	$(call install,$(VENV),what training and tests need,-c requirements/constraints.txt \
		$(addprefix -r ,$(filter-out %constraints.txt %without_dependencies.txt,$(TEST))))
	@$(VENV)/bin/python -m pip install -q --no-deps -r requirements/without_dependencies.txt
	@rm -f $(VENV)/.ready-test-*; touch $@

$(JAZZY)/bin/python:
	@test -n "$(PYTHON310)" || { echo "No Python 3.10 found; install one, or name it:" \
		"make PYTHON310=/path/to/python3.10 test-jazzy" >&2; exit 1; }
	@echo "$(JAZZY): a new environment of $$($(PYTHON310) --version)"
	@$(PYTHON310) -m venv $(JAZZY)
	@$(JAZZY)/bin/python -m pip install -q --disable-pip-version-check pip==26.3

$(JAZZY_READY): | $(JAZZY)/bin/python
	$(call install,$(JAZZY),the suite on Jazzy,-c requirements/constraints-jazzy.txt \
		$(addprefix -r ,$(filter-out %constraints-jazzy.txt %without_dependencies.txt,$(JAZZY_TEST))))
	@$(JAZZY)/bin/python -m pip install -q --no-deps -r requirements/without_dependencies.txt
	$(call install_commands,$(JAZZY))
	@rm -f $(JAZZY)/.ready-test-*; touch $@
