"""The networks of this project, and how the one that a bundle names is built."""
