"""A few-step student for diffusers: ``pipe(prompt)`` draws as the student was trained.

The stock pipeline with the student's own defaults (steps, noise levels, guidance, size, text),
which are ``student`` in model_index.json. This file needs diffusers alone.
"""

import functools
import inspect
import shutil
from pathlib import Path
from typing import Any

import diffusers

_STOCK: Any = inspect.signature(diffusers.SanaPipeline.__call__).parameters
_GUIDANCE = "true_cfg_scale" if "true_cfg_scale" in _STOCK else "guidance_scale"


class StudentPipeline(diffusers.SanaPipeline):
    """Takes the prompt and the stock call's other arguments by keyword.

    What is not given is as the student was trained. ``num_inference_steps=k`` runs the first k of
    its steps. ``generator`` decides all noise, that between steps too.
    """

    scheduler: Any

    def __init__(self, *args: Any, student: Any = None, **components: Any) -> None:
        super().__init__(*args, **components)
        self.register_to_config(student=student)

    def __call__(self, prompt: Any = None, *, generator: Any = None, **given: Any) -> Any:
        student = self.config.student
        if student is None:
            raise ValueError("No `student` in this pipeline's settings: open an exported folder.")
        call = {_GUIDANCE: 1.0, **student["call"]}
        _refuse(call, given)
        arguments = {**call, **given}
        steps = arguments["num_inference_steps"]
        fewest, most = student["fewest_steps"], len(student["sigmas"])
        if not isinstance(steps, int) or not fewest <= steps <= most:
            span = f"{most}" if fewest == most else f"{fewest} to {most}"
            raise ValueError(
                f"This student has {span} steps; num_inference_steps={steps!r} is none of them."
            )
        arguments["sigmas"] = student["sigmas"][:steps]
        kept = self.scheduler  # it gives the stock class all the steps, never fewer
        make: Any = diffusers.FlowMatchEulerDiscreteScheduler
        self.scheduler = make(stochastic_sampling=student["renoise"])
        self.scheduler.step = functools.partial(self.scheduler.step, generator=generator)
        try:
            return super().__call__(prompt, generator=generator, **arguments)
        finally:
            self.scheduler = kept

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> None:
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        opened = Path(self.name_or_path or Path(__file__).parent)
        for file in (Path(__file__), opened / "student.json", opened / "README.md"):
            if file.is_file() and file.resolve() != Path(save_directory, file.name).resolve():
                shutil.copy(file, save_directory)
        super().save_pretrained(save_directory, *args, **options)


def _refuse(own: Any, given: Any) -> None:
    """Other noise levels and guidance than those of the training."""
    for name, value in given.items():
        trained = name in (_GUIDANCE, "sigmas", "timesteps") or name.startswith("negative_")
        if trained and value not in ("", own.get(name)):
            raise ValueError(f"{name} is fixed by this student's training: leave it out.")


# diffusers reads from the signature which settings of model_index.json are whose.
_init: Any = functools.update_wrapper(StudentPipeline.__init__, diffusers.SanaPipeline.__init__)
_student = inspect.Parameter("student", inspect.Parameter.KEYWORD_ONLY, default=None)
_parameters = inspect.signature(diffusers.SanaPipeline.__init__).parameters.values()
_init.__signature__ = inspect.Signature([*_parameters, _student])
StudentPipeline.__name__ = "SanaPipeline"  # a saved copy opens as the stock class too
