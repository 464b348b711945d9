"""What goes over an association once it stands: PDUs and command sets, for both of its ends."""
