"""Experiments by name: their files, their registered plans, and what has become of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.lazy import lazy_names

if TYPE_CHECKING:
    from workbench.registry.experiment import Experiment
    from workbench.registry.files import (
        Found,
        Problem,
        find_experiments,
        get_experiment,
        write_variant,
    )
    from workbench.registry.plan import Plan, differences, make_plan
    from workbench.registry.plan_store import (
        Registered,
        attach_to_plan,
        check_plan,
        load_plan,
        plan_folders,
        register,
    )
    from workbench.registry.request import RequestedRuns, request_runs
    from workbench.registry.rows import PLAN_KIND, PlanRow, plan_rows

__all__ = [
    "PLAN_KIND",
    "Experiment",
    "Found",
    "Plan",
    "PlanRow",
    "Problem",
    "Registered",
    "RequestedRuns",
    "attach_to_plan",
    "check_plan",
    "differences",
    "find_experiments",
    "get_experiment",
    "load_plan",
    "make_plan",
    "plan_folders",
    "plan_rows",
    "register",
    "request_runs",
    "write_variant",
]

__getattr__ = lazy_names(
    __name__,
    __all__,
    ("rows", "experiment", "plan", "plan_store", "files", "request"),
)
