"""`python -m stepagent` is the installed `stepagent`."""

from stepagent.main import run

run()
