.DEFAULT_GOAL := help
PYTHON ?= python3
ENGINE ?= $(shell docker info >/dev/null 2>&1 && echo docker || echo podman)
OVERLAY ?= dev
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: $(shell sed -nE 's/^([a-z-]+):.*/\1/p' $(MAKEFILE_LIST))
help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 26

setup: .venv/ready  ## the environment in .venv, from requirements.lock
.venv/ready: requirements.lock pyproject.toml
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=$(CURDIR)/.venv .venv/bin/python -m uv pip sync --quiet --compile-bytecode requirements.lock
	# ours last: its `kfp` command takes the place of the stock one
	VIRTUAL_ENV=$(CURDIR)/.venv .venv/bin/python -m uv pip install --quiet --no-deps --editable .
	touch $@

demo: setup  ## the main job: all five stages on the embedded data, then what happened
	dvc repro
	clipflow summary

test: setup lint  ## the whole suite, lint and types
	OMP_NUM_THREADS=1 pytest -n logical --maxprocesses 8 --dist worksteal

lint: setup
	ruff check .
	ruff format --check .
	mypy

ui: setup  ## the MLflow UI over the local runs
	mlflow server --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///mlflow.db --artifacts-destination artifacts/mlflow

bench-science: setup  ## recipes against CLIP and their controls over five paired seeds (RECIPES=laclip,...)
	python tests/benchmarks/science.py --seeds 5 --steps 300 $(if $(RECIPES),--recipes $(RECIPES)) $(SCIENCE)

bench-train: setup  ## training throughput against open_clip's trainer
	python tests/benchmarks/train.py

bench-loss-memory: setup  ## time and memory of the contrastive loss against open_clip's
	python tests/benchmarks/loss_memory.py

bench-loader: setup  ## images per second of one loader process against open_clip's webdataset loader
	CLIPFLOW_WORKERS=0 OMP_NUM_THREADS=1 python tests/benchmarks/loader.py

bench-text-overhead: setup  ## a step that draws one of five texts against one of captions alone
	python tests/benchmarks/text_overhead.py

bench-phases: setup  ## a step on fewer tokens, as flip and clipa take it, against one on all of them
	python tests/benchmarks/phases.py

bench-plan: setup  ## seconds of a step on this CPU as `clipflow plan` estimates them against steps taken
	python tests/benchmarks/plan.py

bench-text-memory: setup  ## memory of a million captions with rewrites against Python lists
	python tests/benchmarks/text_memory.py

bench-rewrite-client: setup  ## requests per second of the server generator against the server's capacity
	OMP_NUM_THREADS=1 python tests/benchmarks/rewrite_client.py

bench-rewrite-hf: setup  ## rewrites per second of the hf generator against LaCLIP's loop
	python tests/benchmarks/rewrite_hf.py

bench-evaluate: setup  ## seconds of a zero-shot evaluation against CLIP_benchmark's
	python tests/benchmarks/evaluate.py

bench-ingest: setup  ## images per second and core against img2dataset, from one server on loopback
	python tests/benchmarks/ingest.py

bench-curation: setup  ## captions per second of MetaCLIP's curation at 500,000 entries
	OMP_NUM_THREADS=1 python tests/benchmarks/curation.py

bench-search: setup  ## milliseconds of a search among 100,000 images against NumPy's brute force
	python tests/benchmarks/search.py

drill-resume: setup  ## kill -9 pretrain at many moments; nothing may be lost
	PYTHONPATH=tests OMP_NUM_THREADS=1 python -m drills.resume --kills 60

drill-rewrite: setup  ## kill -9 rewrite at many moments, through a server that fails; nothing may be lost
	PYTHONPATH=tests OMP_NUM_THREADS=1 python -m drills.rewrite --kills 20 --times 20

bench-rewrite-overhead: setup  ## captions per second of all that surrounds the model in rewriting
	python tests/benchmarks/rewrite_overhead.py

drill-ingest: setup  ## kill -9 ingest at many moments, from a web server that is bad; nothing may be lost
	PYTHONPATH=tests OMP_NUM_THREADS=1 python -m drills.ingest --kills 100

drill-mlflow: setup  ## MLflow goes away while training logs; nothing may be lost
	PYTHONPATH=tests OMP_NUM_THREADS=1 python -m drills.mlflow

drill-store: setup  ## the object store refuses one request in ten; nothing may be lost
	PYTHONPATH=tests OMP_NUM_THREADS=1 python -m drills.store

drill-pods: setup  ## kill -9 a pod of every stage; nothing may be lost or registered twice
	PYTHONPATH=tests OMP_NUM_THREADS=1 python -m drills.pods

images:  ## clipflow-cpu:dev and clipflow-gpu:dev, by docker or podman (ENGINE=..., BUILD_FLAGS=...)
	sha=$$(git rev-parse HEAD) && test -z "$$(git status --porcelain)" || sha=$$sha-dirty; \
	for target in cpu gpu; do \
	  $(ENGINE) build $(BUILD_FLAGS) --file components/Dockerfile --target $$target --build-arg GIT_SHA=$$sha --tag clipflow-$$target:dev . || exit; \
	done
	@$(ENGINE) images --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -E '(^|/)clipflow-(cpu|gpu):dev '

push:  ## the images to REGISTRY=..., and their names by digest to images.json
	$(PYTHON) k8s/push.py $(ENGINE) dev $(REGISTRY) $(PUSH_FLAGS)

deploy:  ## apply OVERLAY=dev or prod to the cluster; jobs can't be changed, so they are made anew
	kubectl delete job -n clipflow mlflow-migrate store-bucket --ignore-not-found
	kubectl delete job -n $(if $(filter prod,$(OVERLAY)),clipflow,kubeflow) clipflow-scratch --ignore-not-found
	kubectl kustomize k8s/overlays/$(OVERLAY) $(if $(filter prod,$(OVERLAY)),| $(PYTHON) k8s/pin.py images.json) | kubectl apply --server-side -f -

test-containers: setup  ## stages, then the whole pipeline, in the images of `make images`
	CONTAINER_ENGINE=$(ENGINE) pytest tests/containers

test-services: setup  ## MLflow on Postgres and an object store, as the cluster runs them
	pytest tests/services

lock: setup  ## requirements.lock from pyproject.toml
	uv pip compile --quiet --universal --extra train --extra agreement --extra search --extra dev --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-annotate --no-header pyproject.toml --output-file requirements.lock

clean:  ## forget every output and run of this checkout; paid rewrites stay in artifacts/cache
	test ! -d artifacts || find artifacts -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +
	rm -rf mlflow.db mlflow.db.lock dvc.lock .dvc/cache .dvc/tmp
