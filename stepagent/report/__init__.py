"""Reports of a run: tables, plots, printed trees."""
