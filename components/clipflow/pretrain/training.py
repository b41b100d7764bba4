"""The training loop."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from clipflow import log, track
from clipflow.model.batch import Batch
from clipflow.model.between_steps import BeforeStep, BetweenSteps
from clipflow.model.towers import Towers
from clipflow.pretrain import phases
from clipflow.pretrain.average import Average
from clipflow.pretrain.loader import advice, loader
from clipflow.pretrain.meter import Meter
from clipflow.pretrain.optimiser import clip_gradients, set_learning_rate, step_unless
from clipflow.pretrain.params import Params
from clipflow.pretrain.processes import Agreement, worst
from clipflow.pretrain.resume import Due, Parts, Scratch, State, Stop
from clipflow.pretrain.samples import Samples
from clipflow.pretrain.watch import Watch

logger = logging.getLogger(__name__)


@dataclass
class Training:
    """One run, from wherever its state is to its last step."""

    params: Params
    accelerator: Accelerator
    samples: Samples
    towers: Towers
    model: nn.Module
    """The objective, replicated or sharded over the processes."""
    optimiser: torch.optim.AdamW
    average: Average | None
    state: State
    scratch: Scratch
    parts: Parts
    """What a saved state holds beside `state`."""
    mlflow_run: track.Run
    stop: Stop

    def run(self, batches: Iterable[Batch]) -> None:
        """Take every step; leave by SystemExit, with the state saved, if asked to stop.

        Raises ClipflowError, in all processes at the same step, if too many steps in a row are skipped.
        """
        params, state, accelerator, model = self.params, self.state, self.accelerator, self.model
        model.train()
        meter, watch = Meter(state.unlogged), Watch(params, state, self.samples)
        agreement, due = Agreement(accelerator.num_processes), Due(params)
        with log.counter(total=params.steps, what="training", unit="step") as bar:
            bar.update(state.step)
            for batch in meter.waiting(batches):
                self._before_step()
                self._seed()
                lr = set_learning_rate(self.optimiser, state.step, params)
                with accelerator.autocast():
                    losses = model(batch.to(accelerator.device))
                accelerator.backward(losses["loss"])
                norm = clip_gradients(model, params.clip_grad_norm)
                skip = worst((~(norm + losses["loss"].detach()).isfinite()).float())
                step_unless(self.optimiser, skip)
                self.optimiser.zero_grad()
                self.towers.clamp_scale()
                if self.average:
                    self.average.update()

                state.step += 1
                tokens = batch.texts.num_tokens / batch.texts.place.numel()
                values = {**losses, "grad_norm": norm, "tokens_per_text": tokens}
                meter.add(values, skip, len(batch.damaged))
                watch.see(batch, skip, losses["loss"], norm)
                bar.update()
                if state.step % params.log_every == 0 or state.step == params.steps:
                    row = {**meter.read(params.batch_size, accelerator), "lr": lr}
                    row |= phases.number(params, state.step - 1)
                    self._log(row)
                    bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                stop, save = agreement.ask(bool(self.stop), due(state.step))
                if (stop or save) and state.step < params.steps:
                    watch.catch_up()
                    state.unlogged = meter.unlogged()
                    self.scratch.save(state, self.parts)
                    due.saved()
                    if stop:
                        self._leave()
        watch.catch_up()
        if hint := advice(meter.total_waited_s / meter.total_s):
            logger.info("%s", hint)

    def _before_step(self) -> None:
        """Let the objective do what it has to do between two steps, if it has anything."""
        objective, accelerator = self.parts["model"], self.accelerator
        if isinstance(objective, BeforeStep):
            place = {"rank": accelerator.process_index, "world": accelerator.num_processes}
            start, size, seed = self.state.step, self.params.batch_size, self.params.seed

            def upcoming(steps: int) -> Iterator[Batch]:
                for batch in loader(
                    self.samples, self.params, self.towers, start=start, stop=start + steps, **place
                ):
                    yield batch.to(accelerator.device)

            with accelerator.autocast():
                objective.before_step(BetweenSteps(start, self.params.steps, size, seed, upcoming))

    def _seed(self) -> None:
        """Whatever a tower draws in this step is a function of seed, step and process."""
        place = f"{self.params.seed}/step/{self.state.step}/{self.accelerator.process_index}"
        torch.manual_seed(random.Random(place).getrandbits(63))

    def _log(self, row: dict[str, float]) -> None:
        self.state.history.append({"step": self.state.step, **row})
        self.mlflow_run.log({f"train/{name}": v for name, v in row.items()}, self.state.step)

    def _leave(self) -> None:
        self.accelerator.wait_for_everyone()  # the first to leave ends the others
        logger.warning("stopped after step %d; run it again to go on from there", self.state.step)
        sys.exit(128 + (self.stop.signal or 15))
