"""The training loop, with checkpoints that resume bit for bit."""

from compare.training.checkpoint import Checkpoint, CheckpointError, read_checkpoint
from compare.training.loop import Trained, TrainingError, train
from compare.training.settings import Optimiser, Recipe, SettingsError, TrainingSettings

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Optimiser",
    "Recipe",
    "SettingsError",
    "Trained",
    "TrainingError",
    "TrainingSettings",
    "read_checkpoint",
    "train",
]
