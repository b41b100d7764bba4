"""Two processes that shard the weights hold half of them, of their gradients and of their moments each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.fsdp import FSDPModule

from clipflow.model.batch import Batch
from clipflow.model.contrastive import Contrastive
from clipflow.model.texts import Texts
from clipflow.pretrain import stage
from clipflow.pretrain.optimiser import adamw
from clipflow.pretrain.params import Params
from clipflow.pretrain.sharding import own, shard, whole_weights

ARCHITECTURE = "ViT-S-32-alt"


def work(rank: int, params: Params, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    towers = stage.build(params)
    before = {name: value.clone() for name, value in towers.clip.state_dict().items()}
    objective = Contrastive(towers)
    total = sum(p.numel() for p in objective.parameters())
    shard(objective, "cpu")
    optimiser = adamw(objective, towers, params)
    tokens = torch.randint(1, 400, (4, 8))
    images = torch.randint(0, 255, (4, 224, 224, 3), dtype=torch.uint8)
    objective(Batch(images, Texts([tokens], torch.arange(4)[:, None], 32)))["loss"].backward()
    optimiser.param_groups[0]["lr"] = 0.0
    optimiser.step()
    held = {
        "weights": [own(p) for p in objective.parameters()],
        "gradients": [own(p.grad) for p in objective.parameters() if p.grad is not None],
        "moments": [own(state["exp_avg"]) for state in optimiser.state.values()],
    }
    shares = {name: sum(t.numel() for t in tensors) / total for name, tensors in held.items()}
    num_units = sum(isinstance(part, FSDPModule) for part in objective.modules())
    whole = whole_weights(towers.clip)
    if rank == 0:
        equal = all(whole[n].shape == value.shape for n, value in before.items())
        torch.save((shares, num_units, equal), f"{folder}/found.pt")
    dist.destroy_process_group()


def test_each_process_holds_its_half(tmp_path: Path, stage_params: Any) -> None:
    params = stage_params("pretrain", architecture=ARCHITECTURE)
    mp.start_processes(work, (params, str(tmp_path)), nprocs=2, start_method="fork")
    shares, num_units, has_all = torch.load(tmp_path / "found.pt")
    assert all(0.49 < share < 0.51 for share in shares.values()), shares
    assert num_units == 12 + 8 + 1 or num_units > 12, num_units
    assert has_all
