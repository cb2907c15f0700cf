"""One training step, on whatever device Lightning Fabric finds: forward, backward, update."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, nn

from collapselab.data import DataSplits
from collapselab.distributed import leave_process_group_at_exit
from collapselab.errors import InputError
from collapselab.randomness import preserved_random_states
from collapselab.records.recipe import Recipe
from collapselab.training.building import loss_function, make_optimizer
from collapselab.training.outputs import ClassScores
from collapselab.training.state import HostState
from collapselab.training.within_class import WithinClassCosine
from collapselab.user_code import user_code

# torch's advice for capturing a backward pass: libraries choose and load their kernels in the first ones.
_WARM_UP = 3


def make_fabric(recipe: Recipe) -> Any:
    """Return Lightning Fabric on one device, or on those of all processes that `torchrun` started.

    Raises:
        InputError: WORLD_SIZE promises other processes, but none was started.
        ImportError: it is not installed; the message names the extra.
    """
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise ImportError("training needs Lightning Fabric: pip install 'collapselab[train]'") from error
    # Not "auto": it takes the GPU of a Mac, which lacks the float64 that sums of losses need.
    accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Fabric(accelerator=accelerator, devices=1, precision=recipe.precision)
    if "RANK" not in os.environ:
        # Fabric would start the others itself, each a copy of this whole program.
        raise InputError(f"WORLD_SIZE is {world}, but RANK is not set; start processes with torchrun")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    fabric = Fabric(
        accelerator=accelerator,
        devices=here,
        num_nodes=world // here,
        strategy="ddp",
        precision=recipe.precision,
    )
    fabric.launch()
    leave_process_group_at_exit()
    return fabric


class Engine:
    """A network, its optimiser and the step that improves it.

    Convolutional networks are stored channels-last, which is a tenth faster on the CPU (docs/benchmarks.md). On a GPU,
    forward and backward pass are captured once per batch size and replayed: hundreds of kernel launches would otherwise
    dominate the time of a small network.

    Attributes:
        layout: memory format of batches of images.
        model: the network itself, to measure and to save.
        optimizer: wrapped by Fabric, to save.
    """

    def __init__(self, recipe: Recipe, fabric: Any, model: nn.Module, data: DataSplits) -> None:
        self.fabric, self.model = fabric, model
        self._loss = loss_function(recipe)
        on_gpu = fabric.device.type == "cuda"
        self._class_scores = ClassScores(data.num_classes)
        is_convolutional = any(isinstance(part, nn.Conv2d) for part in model.modules())
        has_images = len(data.input_shape) == 3 and is_convolutional
        self.layout = torch.channels_last if has_images else torch.preserve_format
        model.to(fabric.device)
        if has_images:
            model.to(memory_format=self.layout)
        _build_lazy_parts(model, data)
        self._penalty = WithinClassCosine(recipe, model, data.num_classes)
        optimizer = make_optimizer(recipe, model, fabric.device)
        self._module, self.optimizer = fabric.setup(model, optimizer)
        # A backward pass in which processes communicate cannot be captured so simply.
        self._captures = on_gpu and fabric.world_size == 1
        self._graphs: dict[int, _Graph] = {}

    def step(self, inputs: Tensor, labels: Tensor, learning_rate: float, weight: float = 1.0) -> Tensor:
        """Do one update.

        Args:
            inputs, labels: this process's share of the batch.
            learning_rate: of this update.
            weight: of this process's mean loss in the mean over processes.

        Returns:
            The mean loss before the update, on the device: reading it waits for the step.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._captures:
            graph = self._graphs.get(len(inputs))
            if graph is None:
                graph = self._graphs[len(inputs)] = _Graph(self, inputs, labels)
                self._captures = graph.is_exact
        if self._captures:
            loss = self._graphs[len(inputs)].run(inputs, labels)
        else:
            self.optimizer.zero_grad()
            loss = self.backward(inputs, labels, weight)
        self.optimizer.step()
        return loss

    def backward(self, inputs: Tensor, labels: Tensor, weight: float = 1.0) -> Tensor:
        """Write the gradient of the mean loss and the penalty into the parameters; return the loss alone.

        Raises:
            InputError: the network fails, returns no class scores, or scores that do not depend on its parameters.
        """
        with self._penalty.listening():
            loss = self._loss(self._class_scores(self._module, inputs, labels), labels)
        if not loss.requires_grad:
            raise InputError(
                "training: the model's outputs do not depend on parameters that are trained; remove no_grad or detach, or "
                "set requires_grad"
            )
        total = self._penalty.added_to(loss, labels)
        with user_code("training, backward pass", "correct the model"):
            self.fabric.backward(total if weight == 1.0 else total * weight)
        return loss.detach()

    def training_mode(self) -> None:
        self._module.train()


def _build_lazy_parts(model: nn.Module, data: DataSplits) -> None:
    """Run a network whose lazy modules have no parameters yet: the optimiser needs all."""
    if any(nn.parameter.is_lazy(parameter) for parameter in model.parameters()):
        training = model.training
        model.eval()
        with preserved_random_states(), torch.no_grad(), user_code("training", "check the model"):
            model(data.train.first(2))
        model.train(training)


class _Graph:
    """Forward and backward pass for one batch size, captured as a CUDA graph.

    Each replay writes gradients where the capture put them and hands them to the optimiser.

    Attributes:
        is_exact: whether a replay does all that a step does. It does not if Python code of the network draws numbers on
            the CPU, counts in attributes or replaces buffers; there is no graph then.
    """

    def __init__(self, engine: Engine, inputs: Tensor, labels: Tensor) -> None:
        self._inputs, self._labels = inputs.clone(), labels.clone()
        self._parameters = [parameter for parameter in engine.model.parameters() if parameter.requires_grad]
        buffers = {name: buffer.clone() for name, buffer in engine.model.named_buffers()}
        random_state, host = torch.cuda.get_rng_state(), HostState(engine.model)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                engine.optimizer.zero_grad(set_to_none=True)
                engine.backward(self._inputs, self._labels)
        torch.cuda.current_stream().wait_stream(stream)
        engine.optimizer.zero_grad(set_to_none=True)
        self.is_exact = not host.put_back()
        if self.is_exact:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._loss = engine.backward(self._inputs, self._labels)
            self._gradients = [parameter.grad for parameter in self._parameters]
        # Undo what warming up did to running means and random states.
        for name, buffer in engine.model.named_buffers():
            buffer.copy_(buffers[name])
        torch.cuda.set_rng_state(random_state)

    def run(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss, with gradients in the parameters. The next call overwrites the result."""
        self._inputs.copy_(inputs)
        self._labels.copy_(labels)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss
