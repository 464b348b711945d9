"""How far the node grows: measured costs, a simulation of its queues, and a check against the real node."""
