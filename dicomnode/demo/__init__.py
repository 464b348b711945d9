"""A demonstration on one machine: a small archive plays the PACS, the node does its work."""
