"""Know when a study is complete."""
