"""The version, in one place for `setup.py`, run folders and users."""

__version__ = "0.2.0"
