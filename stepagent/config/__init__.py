"""Settings: what a config file may say, how it is read, and prompt files."""
