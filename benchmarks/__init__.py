"""Benchmarks; each file says how to run it, and `docs/benchmarks.md` holds what was measured."""
