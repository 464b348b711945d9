"""The command line: what people type, and nothing that the node needs to run."""
