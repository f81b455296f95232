"""The pages in a real browser: how soon they are there, and whether they keep up."""
