"""`nanochat plan`: what a goal takes on some GPUs or here, what that rests on, and the command."""
