"""What can be seen of a running node from outside: metrics, health and alerts. Never patient data."""
