"""LiteRT (TFLite) files: conversion, repair, checks, and what they are worth.

Only `export` is imported at once: the others need LiteRT's runtime.
"""

from keras_app.export.litert.export import export_litert

__all__ = ["export_litert"]
