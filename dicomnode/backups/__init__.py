"""Backups of a running node, and bringing one back."""
