"""What an administrator can set: the typed sections of `node.toml`."""
