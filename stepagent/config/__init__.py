"""The settings of a config file, its loader, and prompt files."""
