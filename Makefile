# What one does with this tree. `make` alone tells.
FUZZTIME ?= 30s
SEEDS    ?= 20
DURATION ?= 3m
PARALLEL ?= 2
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null)

.PHONY: help build check test race fuzz bench chaos planted up down

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## the binary ./headrace
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o headrace ./cmd/headrace

check: ## formatting, vet, build of everything
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	go vet ./...
	go build ./...

test: ## all Go tests
	go test -timeout 15m ./...

race: ## all Go tests under the race detector
	go test -race -timeout 20m ./...

fuzz: ## every fuzz target for FUZZTIME (30s)
	@set -e; for pkg in $$(go list ./...); do \
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; done

bench: ## every benchmark once
	go test -run '^$$' -bench . -benchmem ./...

chaos: ## SEEDS (20) seeds of DURATION (3m) of breaking real processes; about five minutes each
	go run ./test/chaos -seeds $(SEEDS) -duration $(DURATION) -parallel $(PARALLEL)

planted: ## bugs planted on purpose, each of which the chaos runner must catch
	go run ./test/chaos -planted all -seed 100 -duration 1m -parallel $(PARALLEL)

up: ## three NATS servers, three edges and a load balancer on http://127.0.0.1:8000
	docker-compose up --build

down: ## stop and remove what `up` started, data included
	docker-compose down --volumes
