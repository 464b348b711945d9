"""What `dicomnode check` finds out beyond the configuration file."""
