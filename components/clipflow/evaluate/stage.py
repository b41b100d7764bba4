"""The evaluate stage: `checkpoint` on `benchmarks` -> `report`."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from clipflow import log, store, track
from clipflow.artifacts import checkpoint as checkpoint_artifact
from clipflow.artifacts import manifest
from clipflow.artifacts.benchmarks import Task
from clipflow.errors import ParamsError, did_you_mean
from clipflow.evaluate import (
    calibration,
    compose,
    compositional,
    parts,
    probe,
    retrieval,
    suites,
    zero_shot,
)
from clipflow.evaluate.compose import Beside
from clipflow.evaluate.embed import Embedder, Wanted
from clipflow.evaluate.metrics import Embeddings, Indices
from clipflow.evaluate.params import Params
from clipflow.evaluate.results import Classification, Outcome, answers
from clipflow.evaluate.scores import Scores
from clipflow.evaluate.subject import Subject, is_ours
from clipflow.evaluate.zero_shot import Classifier
from clipflow.model.pretrained import load

logger = logging.getLogger(__name__)


def run(
    params: Params,
    *,
    checkpoint: Path,
    benchmarks: Path,
    report: Path,
    task: str | None = None,
    pretrained: str | None = None,
) -> None:
    """Measure every task of `benchmarks` and of the suites; write metrics, tables and a page with pictures.

    They are also logged to the MLflow run that trained the checkpoint, or to a new one. `checkpoint` is a
    folder or, with `pretrained` where it needs weights, whatever `clipflow.model.pretrained` loads. With
    `task`, only that one is measured, and `report` becomes a part for `merge`. In several processes each
    embeds its share. Killed, the next run with the same params and code goes on with the first task that
    isn't measured. Raises ParamsError for a task that there is not, ArtifactError for what is damaged.
    """
    if is_ours(checkpoint):
        checkpoint_artifact.read(checkpoint)
        checkpoint_artifact.provenance(checkpoint)
    names = suites.names(params, benchmarks)
    chosen = [name for name in names if task in (None, name)]
    if not chosen:
        raise ParamsError(f"--task: there is no '{task}'; {did_you_mean(str(task), names)}")
    others = [other for name in chosen for other in params.out_of_distribution.get(name, [])]
    tasks = suites.find(params, benchmarks, [*chosen, *others])
    if task is None:
        track.connect()
    model = load(
        str(checkpoint), pretrained, batch_size=params.batch_size, precision=params.precision
    )
    embedder = Embedder.of(model)
    logger.info("%s on %s in %s: %s", checkpoint, model.device, model.precision, ", ".join(chosen))
    subject = Subject.of(
        checkpoint,
        digest=model.digest,
        num_parameters=model.num_parameters,
        logit_scale=model.logit_scale,
    )
    digest = suites.measured_on(params, benchmarks)
    wanted = {name: _wanted(params, tasks[name], tasks) for name in chosen}
    if task is None:
        measured = [_kept(params, embedder, wanted[name], digest) for name in chosen]
    else:
        measured = [report]
    known = [path.exists() and task is None for path in measured]
    for name, path, is_known in zip(chosen, measured, known, strict=True):
        if is_known:
            logger.info("%s: measured by an earlier try", name)
            continue
        embedder.embed(wanted[name])
        if log.is_main_process():
            outcome = measure(params, embedder, tasks[name], tasks)
            parts.write(path, params, outcome, subject, measured_on=digest)
            for one in wanted[name]:
                if one.corruption:  # many, and of no use to another evaluation
                    embedder.forget(one)
            if task is not None:
                found = sorted(outcome.metrics().items())
                logger.info("wrote %s: %s", path, ", ".join(f"{k} {v:.3f}" for k, v in found))
    if log.is_main_process() and task is None:
        results, _ = parts.read(
            measured, params, checkpoint=checkpoint, measured_on=digest, names=chosen
        )
        beside = Beside.find(params.champion, digest)
        compose.write(params, results, subject, beside, measured_on=digest, report=report)
        for path in measured:
            shutil.rmtree(path)


def measure(params: Params, embedder: Embedder, task: Task, tasks: Mapping[str, Task]) -> Outcome:
    """Measure one task; `tasks` has those whose images it is to be told from."""
    encode = partial(embedder.texts, what=f"{task.name}/texts")
    images, notes = embedder.images(Wanted(task, "test"))
    shown, scores = params.gallery_size, Scores.of(embedder.model.similarity)
    if task.kind == "compositional":
        return compositional.compare(task, encode, images, notes, num_shown=shown, scores=scores)
    if task.kind == "retrieval":
        captions = retrieval.captions(task, "test", notes)
        return retrieval.retrieve(
            task, encode, images, captions, recall_at=params.recall_at, num_shown=shown,
            seed=params.seed, scores=scores,
        )  # fmt: skip
    labels = zero_shot.labels(task, "test", notes)
    classifier = Classifier.of(task, encode, params.templates, scores)
    scale = embedder.model.logit_scale
    found = zero_shot.classify(
        task, classifier, images, labels, logit_scale=scale, num_mistakes=shown
    )
    for name in params.out_of_distribution.get(task.name, []):
        others, _ = embedder.images(Wanted(tasks[name], "test"))
        found.others[f"out_of_distribution/{task.name}/{name}/auroc"] = calibration.auroc(
            *(calibration.concept_match(classifier.ensemble(x)) for x in (images, others))
        )
    _corrupted(params, embedder, task, found, classifier, labels)
    if params.probe_c and "train" in task.splits:
        _probe(params, embedder, task, found, scores, images, labels)
    return found


def _corrupted(
    params: Params,
    embedder: Embedder,
    task: Task,
    found: Classification,
    classifier: Classifier,
    labels: Indices,
) -> None:
    """Zero-shot on images made worse."""
    for kind in params.robustness.corruptions:
        rights = []
        for severity in params.robustness.severities:
            wanted = Wanted(task, "test", kind, severity)
            worse, _ = embedder.images(wanted)
            rights.append(answers(classifier.ensemble(worse).argmax(axis=1) == labels))
        found.samples[f"robustness/{task.name}/{kind}/top1"] = np.mean(rights, axis=0)
        found.corrupted[kind] = [float(right.mean()) for right in rights]


def _probe(
    params: Params,
    embedder: Embedder,
    task: Task,
    found: Classification,
    scores: Scores,
    images: Embeddings,
    labels: Indices,
) -> None:
    """Linear probes with all training images, and with a few per class at the same regularisation."""
    train, notes = embedder.images(Wanted(task, "train"))
    train_labels = zero_shot.labels(task, "train", notes)
    train, images = scores.summary(train), scores.summary(images)
    data = (train, train_labels, images, labels)
    c = probe.choose(train, train_labels, params.probe_c, params.probe_halvings)
    found.samples[f"linear_probe/{task.name}/top1"] = answers(probe.answers(*data, c))
    few = params.few_shot
    for shots in few.shots:
        right = probe.few_shot(*data, c, shots=shots, draws=few.draws, seed=params.seed)
        samples = right.mean(axis=0, dtype=np.float32)
        found.samples[f"few_shot/{task.name}/top1_{shots}_shot"] = samples
        found.few_shot[str(shots)] = right.mean(axis=1).tolist()


def _wanted(params: Params, task: Task, tasks: Mapping[str, Task]) -> list[Wanted]:
    """All that measuring a task embeds of images."""
    found = [Wanted(task, "test")]
    if task.kind == "classification":
        if params.probe_c and "train" in task.splits:
            found.append(Wanted(task, "train"))
        found += [
            Wanted(task, "test", kind, severity)
            for kind in params.robustness.corruptions
            for severity in params.robustness.severities
        ]
        others = params.out_of_distribution.get(task.name, [])
        found += [Wanted(tasks[name], "test") for name in others if name in tasks]
    return found


def _kept(params: Params, embedder: Embedder, wanted: Sequence[Wanted], measured_on: str) -> Path:
    """Where a task's outcome lies until the report is there, named by all that determines it."""
    code = manifest.files_digest(Path(__file__).parent.rglob("*.py"))
    files = [str(embedder.file(one)) for one in wanted]
    what = json.dumps([params.model_dump(mode="json"), measured_on, code, files])
    return store.scratch() / "measured" / hashlib.sha256(what.encode()).hexdigest()[:32]
