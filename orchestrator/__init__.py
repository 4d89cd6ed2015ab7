"""From a job file to a running trainer: planning, launching and watching runs from where the user sits."""
