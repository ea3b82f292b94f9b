"""Measures of quality: plain functions of numbers and arrays; thin `evaluate` modules on top (`nes_tasks.py`).

What belongs here: definitions that a card or a table quotes, each in one place. What does not: running a model
(`trainers/`), drawing (`benchmarks/`, `cli/`).
"""
