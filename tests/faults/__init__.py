"""Runs that are killed at many moments, resumed, and compared with whole ones.

`python -m tests.faults --help`; what came of it is in docs/reliability.md.
"""
