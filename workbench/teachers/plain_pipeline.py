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


class StudentPipeline(diffusers.SanaPipeline):
    """Takes the stock call's arguments; what is not given is as the student was trained.

    ``num_inference_steps=k`` runs the first k of the student's steps. ``generator`` decides all
    noise, that between steps too.
    """

    scheduler: Any

    def __init__(self, *args: Any, student: Any = None, **components: Any) -> None:
        super().__init__(*args, **components)
        self.register_to_config(student=student)

    def __call__(self, prompt: Any = None, *, generator: Any = None, **arguments: Any) -> Any:
        student = self.config.student
        arguments = {**student["call"], **arguments}
        steps = arguments["num_inference_steps"]
        fewest, most = student["fewest_steps"], len(student["sigmas"])
        if steps not in range(fewest, most + 1):
            span = f"{most}" if fewest == most else f"{fewest} to {most}"
            raise ValueError(
                f"This student has {span} steps; num_inference_steps={steps} is none of them."
            )
        sigmas = student["sigmas"][:steps]
        stored = self.scheduler  # its settings give the stock class all the steps, never fewer
        self.scheduler = type(stored).from_config(stored.config, shift=1.0, shift_terminal=None)
        self.scheduler.step = functools.partial(self.scheduler.step, generator=generator)
        try:
            return super().__call__(prompt, generator=generator, sigmas=sigmas, **arguments)
        finally:
            self.scheduler = stored

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> None:
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        shutil.copy(__file__, save_directory)
        super().save_pretrained(save_directory, *args, **options)


# diffusers reads from the signature which settings of model_index.json are whose.
_init: Any = functools.update_wrapper(StudentPipeline.__init__, diffusers.SanaPipeline.__init__)
_student = inspect.Parameter("student", inspect.Parameter.KEYWORD_ONLY, default=None)
_parameters = inspect.signature(diffusers.SanaPipeline.__init__).parameters.values()
_init.__signature__ = inspect.Signature([*_parameters, _student])
StudentPipeline.__name__ = "SanaPipeline"  # a saved copy opens as the stock class too
