"""What the CUDA path does on a card, in minutes: python -m benchmarks.gpu (see __main__.py)."""
