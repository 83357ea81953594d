"""From settings to parts: bound and checked before anything is made; one session for each run."""
