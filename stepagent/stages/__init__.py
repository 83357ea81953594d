"""One file for each command: each reads files and writes files, and knows its own inputs and outputs."""
