# GNU make 3.81 or newer. `make` alone lists the targets; what they call is in tools/.

PYTHON ?= python3
VENV ?= .venv
SAM_VENV ?= .venv-sam
AUDIT_VENV ?= .venv-audit

# What `sam build` makes. RUNTIME and ARCHITECTURE must be those of the template's parameters.
RUNTIME ?= python3.13
ARCHITECTURE ?= arm64
# The services that boto3 can make clients for in a function; `all` makes the artifact 4 times as large.
BOTO3_SERVICES ?= dynamodb sqs sts
# true brings along what the template's PayloadKeyArn needs: the AWS Encryption SDK, and KMS for boto3.
ENCRYPTION ?= false

FUNCTION ?= Consumer
EVENT ?= events/good.json
# How a container reaches this machine's loopback. Docker Desktop: DOCKER_NETWORK=bridge and host.docker.internal.
DOCKER_NETWORK ?= host
HOST_FROM_CONTAINER ?= 127.0.0.1

python := "$(VENV)/bin/python"

# PYTHONOPTIMIZE would drop the assertions, PYTHONPATH and PYTHONHOME bring in other code.
unexport $(filter PYTHON%,$(.VARIABLES))

# Nothing run here may reach a real account, nor be sent to a proxy on its way to the local emulator.
offline := env $(foreach name,$(filter AWS_% KUMOFIRE_% POWERTOOLS_%,$(.VARIABLES)),-u $(name)) \
	AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_SESSION_TOKEN=test AWS_DEFAULT_REGION=us-east-1 \
	AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true \
	NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost
pytest = $(offline) SAM="$(abspath $(SAM_VENV))/bin/sam" $(python) -m pytest -n 2 --dist loadgroup -q $(PYTEST_ARGS)

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help python-3.11 venv sam-venv audit-venv test coverage lint format typecheck audit demo simulate bench build \
	deploy-local local-invoke lock clean build-Consumer build-Dispatcher

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

python-3.11:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: a Python 3.11 or newer is needed, and '$(PYTHON)' is: $$("$(PYTHON)" --version 2>&1);" \
			"name another one, for example: make PYTHON=python3.13" >&2; exit 1; }

venv: python-3.11 ## Make the virtual environment from the lock, where it is not up to date
	@"$(PYTHON)" -m tools.environment make "$(VENV)" requirements/dev.txt --project

sam-venv: python-3.11
	@"$(PYTHON)" -m tools.environment make "$(SAM_VENV)" requirements/sam.txt

audit-venv: python-3.11
	@"$(PYTHON)" -m tools.environment make "$(AUDIT_VENV)" requirements/audit.txt

test: lint typecheck sam-venv ## Lint, check types and run the tests (PYTEST_ARGS="-k lease" runs a part)
	@$(pytest)

coverage: venv sam-venv ## Run the tests, and list the lines and branches that no test reaches
	@$(pytest) --cov

lint: venv ## Check style, formatting, the direction of imports, and the template
	@$(python) -m ruff check
	@$(python) -m ruff format --check
	@"$(VENV)/bin/lint-imports" --no-logo
	@"$(VENV)/bin/cfn-lint" --append-rules cfn_lint_serverless.rules --template template.yaml

format: venv ## Fix what can be fixed, and format
	@$(python) -m ruff check --fix
	@$(python) -m ruff format

typecheck: venv ## Check types
	@$(python) -m mypy

audit: audit-venv ## Hold every lock against the database of known vulnerabilities
	@"$(AUDIT_VENV)/bin/python" -m tools.audit --pip-audit "$(AUDIT_VENV)/bin/pip-audit" $(AUDIT_ARGS) requirements/*.txt

demo: venv ## Run the demo on an embedded local AWS
	@$(offline) $(python) -m examples.demo

simulate: venv ## Play simulated histories (SEED=… replays one, RUNS=… plays that many, WORKERS=… at once)
	@$(offline) $(python) -m tests.simulation --workers $(or $(WORKERS),0) \
		$(if $(SEED),--seed $(SEED) --shrink) $(if $(RUNS),--runs $(RUNS))

bench: venv ## Measure speed and cost against others, and draw the plots of docs/
	@DYNAMODB_LOCAL="$(DYNAMODB_LOCAL)" $(python) -m benchmarks --docs docs $(BENCH_ARGS)
	@$(python) -m benchmarks.growth --docs docs

build: sam-venv ## Build what is deployed with the locked SAM CLI, into .aws-sam/
	@$(offline) SAM_CLI_TELEMETRY=0 "$(SAM_VENV)/bin/sam" build \
		--parameter-overrides Runtime=$(RUNTIME) Architecture=$(ARCHITECTURE)

deploy-local: venv build ## Deploy the build into a local AWS with the SAM CLI, and keep it running
	@$(offline) SAM="$(abspath $(SAM_VENV))/bin/sam" $(python) -m examples.deploy_local $(DEPLOY_ARGS)

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
build-Consumer build-Dispatcher: python-3.11
	@$(if $(ARTIFACTS_DIR),:,echo "error: call \`sam build\` or \`make build\`, not this target" >&2; exit 1)
	@"$(PYTHON)" -m tools.artifact "$(ARTIFACTS_DIR)" --runtime "$(RUNTIME)" --architecture "$(ARCHITECTURE)" \
		--services "$(BOTO3_SERVICES)" --encryption "$(ENCRYPTION)"

lock: python-3.11 ## Remake the locks in requirements/ (LOCK_ARGS=--upgrade for newer versions)
	@"$(PYTHON)" -m tools.lock $(LOCK_ARGS)

clean: python-3.11 ## Remove the environments, caches and builds
	@"$(PYTHON)" -m tools.environment remove "$(VENV)" "$(SAM_VENV)" "$(AUDIT_VENV)" $(wildcard .venv .venv-*)
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .aws-sam build dist
	@find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
