"""The arithmetic world of `stepagent demo`: a tiny model learns to add by judging its own steps."""
