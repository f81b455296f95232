"""One small module per command; it parses a dataclass and calls other packages, and has no logic itself."""
