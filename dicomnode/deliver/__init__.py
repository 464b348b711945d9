"""Bring results to their destinations."""
