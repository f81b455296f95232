"""One small module per command; it parses a dataclass and wires rooms. No logic of its own."""
