"""`glance export`: a finished run as files that other tools take as they are."""
