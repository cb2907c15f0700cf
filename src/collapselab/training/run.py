"""Start or resume the run of a recipe, or read it if it is finished."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch

from collapselab.data import DataSplits
from collapselab.data.streamed import StreamedSplit
from collapselab.errors import InputError
from collapselab.numerics import cpu_threads
from collapselab.randomness import preserved_random_states, seed_all, seeded
from collapselab.records.completeness import check_finished
from collapselab.records.recipe import Recipe
from collapselab.records.run_folder import RunFolder
from collapselab.records.run_record import RunRecord, SampleFacts, Slot
from collapselab.storage import provenance
from collapselab.training.building import load_data
from collapselab.training.engine import make_fabric
from collapselab.training.final_reference import final_reference_rows
from collapselab.training.launching import Work, launched, processes_started
from collapselab.training.progress import StepCallback
from collapselab.training.resuming import check_samples, check_state, same_recipe, sample_facts
from collapselab.training.stopping import RunInterrupted, Stopper
from collapselab.training.trainer import Trainer

# Far from the seeds that users give.
_SEED_STRIDE = 0x9E3779B97F4A7C15


def run_recipe(
    recipe: Recipe,
    folder: RunFolder,
    on_step: StepCallback | None = None,
    *,
    copies: Mapping[str, Path] | None = None,
    data: DataSplits | None = None,
    stopper: Stopper | None = None,
    workers: int | None = None,
) -> RunRecord:
    """Train and measure; resume a run that was stopped; do nothing for a finished one.

    Args:
        recipe: what to do. A folder holds one recipe's run.
        folder: where it is stored.
        on_step: called after steps, at most ten times a second, and before every measurement.
        copies: paths of named data sets on this machine.
        data: what `load_data` gives for this recipe, where the caller has it already.
        stopper: says when to stop before the end; default on Ctrl-C and SIGTERM alone.
        workers: processes that decode images which do not fit in memory; default: one per processor but one, at most 8.
            The result does not depend on it.

    Returns:
        The record of the finished run.

    Raises:
        InputError: the folder holds another recipe's run or one of other samples, or cannot be written.
        FolderInUse: another process trains there.
        RunInterrupted: stopped from outside. The state is saved.
        ImportError: the training engine is not installed; the message names the extra.
    """
    stopper, recipe = stopper or Stopper(), _with_processes(recipe)
    record = folder.read_run()
    if record is not None:
        recipe = same_recipe(record, recipe, folder)
        if record.is_finished:
            check_finished(folder, record)
            with suppress(OSError):  # a process killed right behind its last step left some
                folder.drop_working_files()
            return record
    if recipe.devices > processes_started():
        with stopper.listening():
            options = {"copies": copies, "data": data, "workers": workers}
            launched(Work(run_recipe, recipe, folder.path, options), on_step or (lambda *_: None), stopper)
        record = folder.read_run()
        assert record is not None, "the processes have written it"
        return record
    if recipe.num_threads is None:
        recipe = recipe.model_copy(update={"num_threads": torch.get_num_threads()})
    with cpu_threads(recipe.num_threads), seeded(recipe.seed), stopper.listening(), ExitStack() as held:
        fabric = make_fabric(recipe)
        data = data or load_data(recipe, copies, workers)
        if fabric.global_rank == 0:
            folder.create()
            held.enter_context(folder.exclusive())
        return _run(recipe, folder, data, fabric, on_step or (lambda *_: None), stopper)


def _with_processes(recipe: Recipe) -> Recipe:
    """Return the recipe with as many devices as `torchrun` started processes.

    Raises:
        InputError: the recipe says another number, or its batches cannot be shared by so many.
    """
    world = processes_started()
    if world == 1 or recipe.devices == world:
        return recipe
    if recipe.devices > 1:
        raise InputError(f"devices={recipe.devices}: torchrun has started {world} processes; give {world}")
    return recipe.with_changes({"devices": world})


def _run(
    recipe: Recipe, folder: RunFolder, data: DataSplits, fabric: Any, on_step: StepCallback, stopper: Stopper
) -> RunRecord:
    """Do what is left of a run in a folder that is locked."""
    facts, is_writer = sample_facts(data), fabric.global_rank == 0
    # Read again under the lock: another process may have begun the run, or finished it.
    record = fabric.broadcast(folder.read_run() if is_writer else None)
    if record is not None:
        recipe = same_recipe(record, recipe, folder)
        if record.is_finished:
            check_finished(folder, record)
            return record
        check_samples(record, facts, folder)
    state = folder.read_trainer()
    fabric.barrier()
    record = _started(recipe, facts, record, 0 if state is None else state["step"])
    if state is not None and isinstance(data.train, StreamedSplit) and "standardization" in state:
        data.train.pixels.known_standardization = state["standardization"]
    trainer = Trainer(recipe, data.to(fabric.device), folder, fabric, on_step)
    check_state(recipe, folder, state, record.planned)
    # What came before may have drawn numbers. Each process draws its own, for dropout on its own samples.
    seed_all((recipe.seed + fabric.global_rank * _SEED_STRIDE) % 2**63)
    if state is not None:
        trainer.load(state)
    if is_writer:
        with preserved_random_states():
            folder.write_run(record)
            folder.drop_rows_after(trainer.measured)
    try:
        record = _trained(trainer, record, stopper)
    finally:
        trainer.close()
    if is_writer:
        folder.write_run(record)
        folder.drop_working_files()
    fabric.barrier()
    return record


def _started(recipe: Recipe, facts: SampleFacts, before: RunRecord | None, step: int) -> RunRecord:
    """Return the record of a run that starts here, behind its earlier starts."""
    here = provenance()
    slots = (*(before.slots if before else ()), Slot(**here, from_step=step))
    is_begun = before is not None and before.recipe == recipe
    planned = before.planned if before is not None and is_begun else tuple(recipe.measured_steps())
    return RunRecord(**here, recipe=recipe, data=facts, slots=slots, planned=planned, status="running")


def _trained(trainer: Trainer, record: RunRecord, stopper: Stopper) -> RunRecord:
    """Train to the end and compute what needs the last step.

    Raises:
        RunInterrupted: stopped from outside, and the record says so.
    """
    folder = trainer.folder
    try:
        trainer.train(stopper)
        if trainer.is_writer:
            with trainer.clock.counting("measuring"):
                folder.write_final_reference(final_reference_rows(folder, trainer.data.num_classes))
    except (RunInterrupted, KeyboardInterrupt) as stop:
        if trainer.is_writer:
            folder.write_run(record.model_copy(update={"status": "stopped"}))
        if isinstance(stop, KeyboardInterrupt):
            raise RunInterrupted(trainer.saved) from None
        raise
    done = {
        "status": "finished",
        "ended": trainer.ended,
        "steps": trainer.step,
        "seconds": trainer.clock.seconds(),
    }
    return record.model_copy(update=done)
