"""What the chat page asks of its own server: no API for others, and it changes with the page."""
