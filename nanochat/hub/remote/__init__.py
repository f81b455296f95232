"""Model files for transformers that are copied into exported folders. They import nothing of nanochat."""
