"""The audit trail in the formats of others, and everything about one study in one folder."""
