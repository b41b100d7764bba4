"""Where pretrain runs on a cluster: how many nodes, of which kind, with how much of what."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Pod(BaseModel):
    """What a pod asks for."""

    model_config = ConfigDict(frozen=True)

    accelerators: int
    cpu: str
    memory: str
    node_selector: dict[str, str]


class Placement(BaseModel):
    """The nodes that train. On one node the task's pod trains; with several it starts a TrainJob."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_nodes: int = Field(ge=1)
    """Nodes, each with one pod."""
    accelerator: str
    """Resource name of the accelerators, such as `nvidia.com/gpu`."""
    accelerators_per_node: int = Field(ge=0)
    """Accelerators of each node, one process each; 0 trains on the CPU."""
    cpu: str
    """CPUs that each node's pod is given at least, such as `8`: for the trainer and its readers."""
    memory: str
    """Memory of each node's pod, such as `64Gi`."""
    node_selector: dict[str, str]
    """Labels of the pool's nodes."""
    tolerations: list[dict[str, Any]]
    """Taints of the pool's nodes that the pods put up with."""
    image: str
    """Image of the TrainJob's pods."""

    @property
    def pod(self) -> Pod:
        """What the task's own pod asks for."""
        if self.num_nodes == 1:
            return Pod(
                accelerators=self.accelerators_per_node,
                cpu=self.cpu,
                memory=self.memory,
                node_selector=self.node_selector,
            )
        return Pod(accelerators=0, cpu="1", memory="2Gi", node_selector={})
