"""The command `python -m nanochat.dataset`; text on disk is in nanochat.corpus."""
