"""nanochat: type one command and own a ChatGPT."""

__version__ = "0.1.0"
