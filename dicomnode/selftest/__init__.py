"""The node proves itself: a phantom with known lesions goes through all of it and comes back.

`volumes` and `shapes` make the phantom, `bundles` a model that sees exactly its lesions, `archive` plays
the PACS, `run` is the test. The tests of the project use the same parts.
"""
