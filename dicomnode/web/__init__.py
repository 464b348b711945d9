"""The web page of the node: what happens, what happened, and why."""
