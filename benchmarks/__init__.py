"""Benchmarks: ours and its peers side by side in one run, process CPU time, medians, ratios. Never a timed test.

A module has `run(progress) -> dict` (plain values, for JSON) and `to_markdown(result) -> str`; `seqzoo bench` runs
them, writes `results/<name>.json` and renders `RESULTS.md` from those files. A bar that is missed is printed as
missed.
"""
