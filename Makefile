# GNU make 3.81 or newer. `make` alone lists the targets.

PYTHON ?= python3
PYTHONS ?= python3.11 python3.13
VENV ?= .venv
SAM_VENV ?= .venv-sam
AUDIT_VENV ?= .venv-audit
AUDIT_ARGS ?=
PYTEST_ARGS ?=
LOCK_ARGS ?=
DYNAMODB_LOCAL ?=
BENCH_ARGS ?=
UV_VERSION := 0.13.9
$(foreach name,PYTHON VENV SAM_VENV AUDIT_VENV,$(if $(strip $($(name))),,$(error $(name) is set but empty)))

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv test test-all lint format typecheck audit demo simulate bench build deploy-local local-invoke lock \
	clean build-Consumer build-Dispatcher

# What `sam build` makes. RUNTIME and ARCHITECTURE must be those of the template's parameters.
RUNTIME ?= python3.13
ARCHITECTURE ?= arm64
# The services that boto3 can make clients for in a function; `all` makes the artifact 4 times as large.
BOTO3_SERVICES ?= dynamodb sqs sts
# true brings along what the template's PayloadKeyArn needs: the AWS Encryption SDK, and KMS for boto3.
ENCRYPTION ?= false

# Where your jobs are, which must be the template's JobsModule. Its package is shipped, and those that PACKAGES names.
JOBS_MODULE ?= handler.jobs:jobs
PACKAGES ?=
# The build starts both functions to see that they start; false leaves this out.
CHECK_JOBS ?= true

# The interpreter's name is part of the stamps, so naming another one makes the environment anew.
interpreter := $(subst /,-,$(PYTHON))
locked := $(VENV)/.locked-$(interpreter)
ready := $(VENV)/.ready-$(interpreter)
python := $(VENV)/bin/python
sam := $(SAM_VENV)/.locked
pip_audit := $(AUDIT_VENV)/.locked

FUNCTION ?= Consumer
EVENT ?= events/good.json
# How a container reaches this machine's loopback. Docker Desktop: DOCKER_NETWORK=bridge and host.docker.internal.
DOCKER_NETWORK ?= host
HOST_FROM_CONTAINER ?= 127.0.0.1

# PYTHONOPTIMIZE would drop the assertions, PYTHONPATH and PYTHONHOME bring in other code.
unexport $(filter PYTHON%,$(.VARIABLES))

# Of pip's settings those that say where packages come from stay; those that say what to do with them go.
pip_sources := PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX PIP_TRUSTED_HOST PIP_KEYRING_PROVIDER \
	PIP_CERT PIP_CLIENT_CERT PIP_PROXY PIP_TIMEOUT PIP_DEFAULT_TIMEOUT PIP_RETRIES PIP_CACHE_DIR PIP_NO_CACHE_DIR \
	PIP_CONFIG_FILE
pip_env := env $(foreach name,$(filter-out $(pip_sources),$(filter PIP_%,$(.VARIABLES))),-u $(name)) \
	PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1

# Nothing run here may reach a real account, nor be sent to a proxy on its way to the local emulator.
offline := env \
	$(foreach name,$(filter AWS_% KUMOFIRE_% POWERTOOLS_%,$(.VARIABLES)),-u $(name)) \
	AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_SESSION_TOKEN=test AWS_DEFAULT_REGION=us-east-1 \
	AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true \
	NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=$(PYTHON)  VENV=$(VENV)  PYTEST_ARGS=\"$(PYTEST_ARGS)\""

# $(call require_python,interpreter): stop with a clear message unless it runs and is new enough.
define require_python
found=$$("$(1)" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || { \
	echo "error: '$(1)' does not run; name a Python 3.11 or newer, for example: make PYTHON=python3.13" >&2; exit 1; }; \
"$(1)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo "error: '$(1)' is Python $$found, and 3.11 or newer is needed, for example: make PYTHON=python3.13" >&2; exit 1; }
endef

# $(call remove_venv,folder): remove a virtual environment, and refuse to remove anything else.
define remove_venv
if [ -e "$(1)" ] && [ ! -f "$(1)/pyvenv.cfg" ] && [ -n "$$(ls -A "$(1)")" ]; then \
	echo "error: '$(1)' is not a virtual environment; move it away or choose another folder with VENV=…" >&2; exit 1; \
fi; rm -rf "$(1)"
endef

# $(call make_tool_venv,folder,lock): make the virtual environment of a tool that is not installed with the others.
define make_tool_venv
$(call require_python,$(PYTHON)); \
$(call remove_venv,$(1)); \
echo "making $(1) with Python $$found from $(2)"; \
"$(PYTHON)" -m venv "$(1)" && \
$(pip_env) "$(1)/bin/python" -m pip install -qq --no-compile --require-hashes --no-deps -r $(2)
endef

venv: $(ready) ## Make the virtual environment from the lock

$(locked): requirements-dev.txt
	@$(call require_python,$(PYTHON)); \
	$(call remove_venv,$(VENV)); \
	echo "making $(VENV) with Python $$found from requirements-dev.txt (about half a minute)"; \
	"$(PYTHON)" -m venv "$(VENV)"
	@$(pip_env) "$(python)" -m pip install -qq --no-compile --require-hashes --no-deps -r requirements-dev.txt
	@touch "$@"

# The build backend comes from the lock too, so nothing is fetched here.
$(ready): $(locked) pyproject.toml
	@$(pip_env) "$(python)" -m pip install -qq --no-index --no-deps --no-build-isolation -e .
	@touch "$@"

$(sam): requirements-sam.txt
	@$(call make_tool_venv,$(SAM_VENV),requirements-sam.txt)
	@touch "$@"

$(pip_audit): requirements-audit.txt
	@$(call make_tool_venv,$(AUDIT_VENV),requirements-audit.txt)
	@touch "$@"

test: lint typecheck $(sam) ## Lint, check types and run the tests
	@$(offline) SAM="$(abspath $(SAM_VENV))/bin/sam" "$(python)" -m pytest -n 2 --dist loadgroup -q $(PYTEST_ARGS)

test-all: ## Run `make test` under each of PYTHONS
	@for interpreter in $(PYTHONS); do \
		echo "== $$interpreter"; \
		$(MAKE) test PYTHON="$$interpreter" VENV=".venv-$${interpreter##*/}" || exit 1; \
	done

lint: $(ready) ## Check style, formatting and the template
	@"$(python)" -m ruff check
	@"$(python)" -m ruff format --check
	@"$(VENV)/bin/cfn-lint" --append-rules cfn_lint_serverless.rules --template template.yaml

format: $(ready) ## Fix what can be fixed, and format
	@"$(python)" -m ruff check --fix
	@"$(python)" -m ruff format

typecheck: $(ready) ## Check types
	@"$(python)" -m mypy

audit-tool: $(pip_audit)

audit: audit-tool ## Hold every lock against the database of known vulnerabilities
	@"$(AUDIT_VENV)/bin/python" .ci/audit.py --pip-audit "$(AUDIT_VENV)/bin/pip-audit" $(AUDIT_ARGS) \
		$(wildcard requirements*.txt)

demo: $(ready) ## Run the demo on an embedded local AWS
	@$(offline) "$(python)" -m examples.demo

simulate: $(ready) ## Play simulated histories (SEED=… replays one, RUNS=… plays that many, WORKERS=… at once)
	@$(offline) "$(python)" -m tests.simulation --workers $(or $(WORKERS),0) \
		$(if $(SEED),--seed $(SEED) --shrink) $(if $(RUNS),--runs $(RUNS))

bench: $(ready) ## Measure speed and cost against others, and draw the plots of docs/
	@DYNAMODB_LOCAL="$(DYNAMODB_LOCAL)" "$(python)" -m benchmarks --docs docs $(BENCH_ARGS)
	@"$(python)" -m benchmarks.growth --docs docs

build: $(sam) ## Build what is deployed with the locked SAM CLI, into .aws-sam/
	@$(offline) SAM_CLI_TELEMETRY=0 "$(SAM_VENV)/bin/sam" build \
		--parameter-overrides Runtime=$(RUNTIME) Architecture=$(ARCHITECTURE)

deploy-local: $(ready) build ## Deploy the build into a local AWS with the SAM CLI, and keep it running
	@$(offline) SAM="$(abspath $(SAM_VENV))/bin/sam" "$(python)" -m examples.deploy_local \
		--parameter-overrides Runtime=$(RUNTIME) Architecture=$(ARCHITECTURE) JobsModule=$(JOBS_MODULE) $(DEPLOY_ARGS)

local-invoke: ## Invoke a function in a container, on the local AWS of `make deploy-local` (EVENT=, FUNCTION=)
	@for name in AWS_ENDPOINT_URL KUMOFIRE_TABLE KUMOFIRE_QUEUE_URL; do \
		printenv $$name >/dev/null || { \
			echo "error: $$name is not set; export what \`make deploy-local\` prints in another terminal" >&2; exit 1; }; \
	done
	@$(MAKE) build
	@# A function gets only the variables that its template names.
	@awk -v url="$(call from_container,$(AWS_ENDPOINT_URL))" '{ print } /^ *Variables:$$/ \
		{ indent = $$0; sub(/Variables:/, "  AWS_ENDPOINT_URL: ", indent); print indent url }' \
		.aws-sam/build/template.yaml > .aws-sam/build/local.yaml
	@printf '{"Parameters": {"KUMOFIRE_TABLE": "%s", "KUMOFIRE_QUEUE_URL": "%s"}}\n' \
		"$(KUMOFIRE_TABLE)" "$(call from_container,$(KUMOFIRE_QUEUE_URL))" > .aws-sam/build/local.json
	@$(offline) SAM_CLI_TELEMETRY=0 "$(SAM_VENV)/bin/sam" local invoke $(FUNCTION) --event "$(EVENT)" \
		--template .aws-sam/build/local.yaml --env-vars .aws-sam/build/local.json --docker-network $(DOCKER_NETWORK)

from_container = $(subst 127.0.0.1,$(HOST_FROM_CONTAINER),$(1))

# Called by `sam build`, which says where the artifact goes.
build-Consumer build-Dispatcher:
	@$(if $(ARTIFACTS_DIR),:,echo "error: call \`sam build\` or \`make build\`, not this target" >&2; exit 1)
	@$(call require_python,$(PYTHON))
	@$(pip_env) "$(PYTHON)" .sam/artifact.py "$(ARTIFACTS_DIR)" \
		--runtime "$(RUNTIME)" --architecture "$(ARCHITECTURE)" --services "$(BOTO3_SERVICES)" \
		--encryption "$(ENCRYPTION)" --jobs "$(JOBS_MODULE)" --packages "$(PACKAGES)" --check-jobs "$(CHECK_JOBS)"

lock: ## Remake the requirements files (LOCK_ARGS=--upgrade for newer versions)
	@$(call require_python,$(PYTHON)); \
	$(call remove_venv,.venv-lock); \
	"$(PYTHON)" -m venv .venv-lock
	@$(pip_env) .venv-lock/bin/python -m pip install -qq uv==$(UV_VERSION)
	@$(call compile,pyproject.toml --extra dev) --output-file requirements-dev.txt
	@$(call compile,pyproject.toml --extra lambda) --constraint requirements-dev.txt --output-file requirements.txt
	@$(call compile,pyproject.toml --extra lambda --extra encryption) --constraint requirements-dev.txt \
		--output-file requirements-encryption.txt
	@$(call compile,--group sam) --output-file requirements-sam.txt
	@$(call compile,--group audit) --output-file requirements-audit.txt
	@rm -rf .venv-lock
	@echo "up to date: $(wildcard requirements*.txt)"

# What is deployed is what was tested: the runtime locks take their versions from the one for development.
compile = .venv-lock/bin/uv pip compile $(1) --quiet --universal --python-version 3.11 \
	--python .venv-lock/bin/python --no-python-downloads --generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" $(LOCK_ARGS)

clean: ## Remove the environments, caches and builds
	@for venv in "$(VENV)" "$(SAM_VENV)" "$(AUDIT_VENV)" .venv .venv-*; do $(call remove_venv,$$venv); done
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .aws-sam build dist
	@find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
