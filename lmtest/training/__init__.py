"""Floor 2: language + architecture + objective in, checkpoint out."""

from lmtest.training.loop import TrainingConfig, train
from lmtest.training.objectives import Adversarial, MaximumLikelihood, Objective, Oracle

__all__ = ["Adversarial", "MaximumLikelihood", "Objective", "Oracle", "TrainingConfig", "train"]
