"""Masks from scores: how many are pruned, which, and what goes together."""

from keras_app.masks.exact_k import DegenerateScores
from keras_app.masks.joined import AttentionHead
from keras_app.masks.joined import GraphChannel
from keras_app.masks.matrices import TargetBlock
from keras_app.masks.n_m import NM
from keras_app.masks.structures import Block
from keras_app.masks.structures import Channel
from keras_app.masks.structures import mask_from_scores
from keras_app.masks.structures import Structure
from keras_app.masks.structures import Unstructured

__all__ = [
    "AttentionHead",
    "Block",
    "Channel",
    "DegenerateScores",
    "GraphChannel",
    "NM",
    "Structure",
    "TargetBlock",
    "Unstructured",
    "mask_from_scores",
]
