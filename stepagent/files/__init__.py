"""Every file that is read or written: JSONL, tables, run folders, problems, rows of ours and of others."""
