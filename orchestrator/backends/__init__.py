"""Who runs a job: one backend a file, nothing shared sideways."""
