"""The stages, each on files, and the loop over them."""
