"""The training loop."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from clipflow import log, track
from clipflow.model.towers import Towers
from clipflow.pretrain import processes
from clipflow.pretrain.loader import Batch
from clipflow.pretrain.meter import Meter
from clipflow.pretrain.optimiser import learning_rate
from clipflow.pretrain.params import Params
from clipflow.pretrain.resume import Scratch, State, Stop

logger = logging.getLogger(__name__)


@dataclass
class Training:
    """One run, from wherever its state is to its last step."""

    params: Params
    accelerator: Accelerator
    towers: Towers
    objective: nn.Module
    optimiser: torch.optim.Optimizer
    state: State
    scratch: Scratch
    mlflow_run: track.Run
    stop: Stop

    def run(self, batches: Iterable[Batch]) -> None:
        """Take every step; leave by SystemExit, with the state saved, if asked to stop."""
        params, state, accelerator = self.params, self.state, self.accelerator
        model, optimiser = accelerator.prepare(self.objective, self.optimiser)
        model.train()
        meter = Meter(state.unlogged, state.num_unlogged)
        with log.progress(
            range(params.steps), total=params.steps, what="training", unit="step"
        ) as bar:
            bar.update(state.step)
            for batch in meter.waiting(batches):
                self._seed()
                lr = self._set_learning_rate()
                with accelerator.autocast():
                    losses = model(*batch.to(accelerator.device))
                accelerator.backward(losses["loss"])
                optimiser.step()
                optimiser.zero_grad()
                self.towers.clamp_scale()

                state.step += 1
                meter.add(losses)
                bar.update()
                if state.step % params.log_every == 0 or state.step == params.steps:
                    row = {**meter.read(state.step, params.batch_size, accelerator), "lr": lr}
                    self._log(row)
                    bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                if state.step < params.steps:
                    self._save_or_stop(meter)

    def _seed(self) -> None:
        """Whatever a tower draws in this step is a function of seed, step and process."""
        place = f"{self.params.seed}/step/{self.state.step}/{self.accelerator.process_index}"
        torch.manual_seed(random.Random(place).getrandbits(63))

    def _set_learning_rate(self) -> float:
        lr = learning_rate(self.state.step, self.params)
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        return lr

    def _log(self, row: dict[str, float]) -> None:
        self.state.history.append({"step": self.state.step, **row})
        self.mlflow_run.log({f"train/{name}": v for name, v in row.items()}, self.state.step)

    def _save_or_stop(self, meter: Meter) -> None:
        stopping = processes.agree(bool(self.stop), self.accelerator, self.state.step)
        if not stopping and self.state.step % self.params.checkpoint_every:
            return
        self.state.unlogged, self.state.num_unlogged = meter.unlogged(), meter.num_steps
        if self.accelerator.is_main_process:
            self.scratch.save(self.state, self.objective, self.optimiser)
        if stopping:
            self.accelerator.wait_for_everyone()  # the first to leave ends the others
            logger.warning(
                "stopped after step %d; run it again to go on from there", self.state.step
            )
            sys.exit(128 + (self.stop.signal or 15))
