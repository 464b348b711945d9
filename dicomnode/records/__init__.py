"""What the database remembers: studies, jobs, deliveries and the audit trail."""
