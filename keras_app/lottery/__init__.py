"""Lottery tickets, and the smaller data sets (PrAC) that find them."""

from keras_app.lottery.cost import iteration_account
from keras_app.lottery.cost import scale_schedule
from keras_app.lottery.prac import check_ids
from keras_app.lottery.prac import critical_for_pruning
from keras_app.lottery.prac import critical_for_training
from keras_app.lottery.prac import forgetting_counts
from keras_app.lottery.prac import hardest_examples
from keras_app.lottery.prac import overlap_rate
from keras_app.lottery.prac import prac_set
from keras_app.lottery.rewinding import rewind
from keras_app.lottery.rewinding import snapshot
from keras_app.lottery.sets import PracSets
from keras_app.lottery.tracker import ForgettingTracker
from keras_app.lottery.trial_masks import mask_distance
from keras_app.lottery.trial_masks import MaskDistanceStop
from keras_app.lottery.trial_masks import prune_remaining

__all__ = [
    "ForgettingTracker",
    "MaskDistanceStop",
    "PracSets",
    "check_ids",
    "critical_for_pruning",
    "critical_for_training",
    "forgetting_counts",
    "hardest_examples",
    "iteration_account",
    "mask_distance",
    "overlap_rate",
    "prac_set",
    "prune_remaining",
    "rewind",
    "scale_schedule",
    "snapshot",
]
