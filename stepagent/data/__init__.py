"""The commands of `stepagent data`: IFT and EFT data, rows of other projects in and out."""
