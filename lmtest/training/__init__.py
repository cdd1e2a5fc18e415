"""Floor 2: language + architecture + objective in, checkpoint out."""

from lmtest.training.loop import Interrupted, TrainingConfig, train
from lmtest.training.objectives import Adversarial, MaximumLikelihood, Objective, Oracle

__all__ = ["Adversarial", "Interrupted", "MaximumLikelihood", "Objective", "Oracle", "TrainingConfig", "train"]
