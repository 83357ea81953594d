"""`python -m stepagent` is the installed `stepagent`."""

from stepagent.commands.main import run

run()
