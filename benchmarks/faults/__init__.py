"""Faults, a great many of them, against trainings: is anything lost? See `benchmarks.faults.__main__`."""
