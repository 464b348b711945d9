"""The life of a model at this site: what it may do, and how a candidate compares with what is live."""
