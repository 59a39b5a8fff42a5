"""Figure 4: one set of hyperparameters on nine teachers, one for each panel."""

from workbench.registry import Experiment
from workbench.training.config import EvaluationConfig, RunConfig, ScheduleConfig, TrainingConfig

STAND_INS = {
    "sana-0.6b": "digits-sana",
    "sana-1.6b": "digits-sana-large",
    "sana-0.6b-trigflow": "digits-sprint",
    "sana-1.6b-trigflow": "digits-sprint-large",
    "sd3-medium": "digits-sd3",
    "sd3.5-medium": "digits-sd3.5-medium",
    "sd3.5-large": "digits-sd3.5-large",
    "flux-512": "digits-flux",
    "flux-1024": "digits-flux-64",
}
"""The paper's panel -> the embedded teacher that keeps its traits."""

EXPERIMENT = Experiment(
    name="nine_teachers",
    question="Does one recipe distil every family, with no change but the teacher's name?",
    hypothesis="Each four-step student beats its own teacher at four Euler steps.",
    variants={
        panel: RunConfig(
            teacher=teacher,
            training=TrainingConfig(kimg=25.6),
            schedule=ScheduleConfig(evaluate_kimg=3.2, checkpoint_kimg=12.8),
            evaluation=EvaluationConfig(teacher_steps=(50, 4), student_steps=(4, 1)),
        )
        for panel, teacher in STAND_INS.items()
    },
)
