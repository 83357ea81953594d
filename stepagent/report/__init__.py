"""What a run looks like: tables, plots, printed trees."""
