"""Text and conversations that the project writes itself: the tiny world, and who the model is. Functions of a seed."""
