"""One small module per command; it parses flags into a dataclass, calls other packages and has no logic itself."""
