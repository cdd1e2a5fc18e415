"""Floor 2: language + architecture + objective in, checkpoint out."""

from lmtest.training.config import TrainingConfig
from lmtest.training.curriculum import LanguageCurriculum
from lmtest.training.loop import train
from lmtest.training.objectives import Adversarial, MaximumLikelihood, Objective, Oracle

__all__ = ["Adversarial", "LanguageCurriculum", "MaximumLikelihood", "Objective", "Oracle", "TrainingConfig", "train"]
