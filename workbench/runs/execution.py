"""Running a run, resuming it, and finding it finished."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from workbench.data.hf_datasets import is_remote
from workbench.data.pairs import read_pairs
from workbench.data.prompts import PromptSet, read_prompts
from workbench.errors import MemoryExhaustedError, RequestError, WorkbenchError
from workbench.evaluation import check_evaluation, prepare_evaluation
from workbench.methods import method_type
from workbench.runs.session import run_on_ranks
from workbench.runs.spec import RunSpec
from workbench.runs.start import keep_start
from workbench.runs.tracking import speak_for
from workbench.students.text import Say, find_run_teacher, silent_say
from workbench.teachers import KNOWN_TEACHERS, find_teacher
from workbench.teachers.analytic import MixtureRecipe
from workbench.teachers.catalog import check_teacher
from workbench.teachers.hub import revision_of
from workbench.training import formats
from workbench.training.config import RunConfig
from workbench.training.events import Listener
from workbench.training.launch import launch, world_size
from workbench.training.parallel import Ranks
from workbench.training.run_folder import RunFolder
from workbench.training.world import ran_out_of_memory
from workbench.workspace import Workspace, exclusive, is_held


@dataclass(frozen=True)
class RunOutcome:
    """A finished run; ``trained`` is False if it had been finished before."""

    folder: RunFolder
    results: Mapping[str, Any]
    trained: bool


def execute(
    spec: RunSpec,
    *,
    make_listener: Callable[[], Listener] = Listener,
    find_teacher: Callable[[str, Path], Path] = find_teacher,
    say: Say = silent_say,
) -> RunOutcome:
    """Run, resume or load: the same spec continues where it was cut off.

    Args:
        make_listener: called on rank 0; like ``say`` it travels to the ranks' processes.
        find_teacher: the folder of a teacher's name, built or fetched if need be.

    Raises:
        RequestError: the configuration, teacher or workspace refuses, or the run is going on.
        MemoryExhaustedError: it does not fit into memory.
        WorkbenchError: the run failed or was interrupted; the same spec resumes it.
    """
    try:
        return _execute(spec, make_listener, find_teacher, say)
    except (MemoryError, RuntimeError, MemoryExhaustedError) as error:
        if not ran_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
    # Not while that one is handled: its traceback would hold the memory for as long as ours lives.
    gc.collect()
    raise MemoryExhaustedError(
        f"Run {spec.folder.name} does not fit into memory: {reason.rstrip('.')}. What would fit: "
        f"workbench doctor --teacher {spec.config.teacher}, with the same --set and --nproc."
    )


def _execute(
    spec: RunSpec,
    make_listener: Callable[[], Listener],
    find_teacher: Callable[[str, Path], Path],
    say: Say,
) -> RunOutcome:
    config, workspace, folder = spec.config, spec.workspace, spec.folder
    finished = None if spec.fresh else load_finished(folder, spec.tracking_uri, say)
    if finished is not None:
        return finished
    check_request(config, spec.nproc)
    prompts = read_run_prompts(config)
    _check_pairs(config)  # so that bad ones are refused before anything is written
    _check_evaluation(config, workspace)
    revision = None if spec.fresh else folder.teacher_revision()
    teacher = find_run_teacher(config, workspace, revision, find_teacher)
    with exclusive(folder.lock, f"Run {folder.name}"):
        if spec.fresh and (kept := folder.archive()):
            say(f"The earlier run is kept as {kept.name}.")
        if (results := folder.results()) is not None:  # another process was quicker
            return RunOutcome(folder, results, trained=False)
        keep_start(workspace, config, teacher, folder.path)
        folder.prepare(config, revision_of(teacher))
        launch(run_on_ranks, spec.nproc, spec, teacher, prompts, make_listener, say)
        results = folder.results()
        if results is None:
            raise WorkbenchError(f"Run {folder.name} ended without results.")
        return RunOutcome(folder, results, trained=True)


def load_finished(folder: RunFolder, tracking_uri: str, say: Say = silent_say) -> RunOutcome | None:
    """A run that was finished before; None while it is not.

    Where its process was killed after it had written the results, the tracker hears now that the
    run has ended.
    """
    results = folder.results()
    if results is None:
        return None
    if not is_held(folder.lock):  # else it is just saying so itself
        speak_for(folder, tracking_uri, say)
    return RunOutcome(folder, results, trained=False)


def check_request(config: RunConfig, nproc: int) -> None:
    """Refuse what is known to be impossible before anything is written.

    Raises:
        RequestError: the batch does not divide by the ranks, or as :func:`world_size`.
    """
    drawn, computed = config.evaluation.precision, config.training.precision
    if (drawn == "bf16") != (computed == "bf16-mixed"):
        fitting = "bf16" if drawn == "fp32" else "fp32"
        raise RequestError(
            f"training.precision={computed} and evaluation.precision={drawn}: a run's networks "
            f"draw in what they compute with. Set evaluation.precision={fitting} (a run that an "
            "earlier version began with other settings is begun anew)."
        )
    ranks = Ranks(0, world_size(nproc), torch.device("cpu"))
    ranks.local_batch_size(config.training.batch_size)
    if config.training.shards is not None:
        ranks.check_shards(config.training.shards)


def check_sources(
    configs: Iterable[RunConfig], workspace: Workspace, *, remote: bool = True
) -> list[str]:
    """Refuse runs whose teacher, prompts, pairs or evaluation cannot be had; builds nothing.

    Args:
        remote: also ask for what is downloaded: datasets of the hub, weights of metrics.

    Returns:
        Without ``remote``: what is missing here, in words; a run would be refused for it.

    Raises:
        RequestError: as :func:`check_teacher`, :func:`read_prompts`, :func:`read_pairs` and
            :func:`check_evaluation`.
    """
    configs, missing = list(configs), list[str]()
    for teacher in dict.fromkeys(config.teacher for config in configs):
        check_teacher(teacher)
    for config in configs:
        if remote or not is_remote(config.prompts.source):
            read_run_prompts(config)
        if remote or config.data is None or not is_remote(config.data.source):
            _check_pairs(config)
        try:
            _check_evaluation(config, workspace, remote=remote)
        except RequestError as error:
            if remote:
                raise
            missing.append(str(error))
    return list(dict.fromkeys(missing))


def prepare_run(config: RunConfig, workspace: Workspace) -> None:
    """Make once what several runs alike are about to need, besides their teacher.

    Raises:
        RequestError: as :func:`check_sources`.
    """
    if _mixture(config) is None:
        prepare_evaluation(workspace, config.evaluation)


def read_run_prompts(config: RunConfig) -> PromptSet:
    """The prompts that a run learns from; an empty set where it learns from none.

    Raises:
        RequestError: as :func:`read_prompts`, or none are named.
    """
    if _learns_from_prompts(config):
        return read_prompts(config.prompts)
    return PromptSet("none", (), known_fingerprint=formats.unused_prompts_fingerprint())


def _learns_from_prompts(config: RunConfig) -> bool:
    recipe = _mixture(config)
    prompted = recipe is None or recipe.prompted
    return prompted and method_type(config.method).needs_prompts


def _check_evaluation(config: RunConfig, workspace: Workspace, *, remote: bool = True) -> None:
    """An analytic teacher is its own truth, and its task judges the settings."""
    if _mixture(config) is None:
        check_evaluation(workspace, config.evaluation, download=remote)


def _check_pairs(config: RunConfig) -> None:
    """Pairs of images can be read; an analytic teacher's are its own, and its task judges them."""
    if config.data is not None and _mixture(config) is None:
        read_pairs(config.data)


def _mixture(config: RunConfig) -> MixtureRecipe | None:
    spec = KNOWN_TEACHERS.get(config.teacher)
    recipe = spec.recipe if spec else None
    return recipe if isinstance(recipe, MixtureRecipe) else None
