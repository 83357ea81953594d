"""The training half: SFT, step-wise DPO, merge. It knows the search half only by preferences.jsonl."""
