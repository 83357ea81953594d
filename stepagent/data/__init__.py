"""What `stepagent data` does: IFT and EFT data, rows of other projects in and out."""
