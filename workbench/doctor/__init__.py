"""Whether this machine can distil a teacher, and with which settings."""
