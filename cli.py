"""`python cli.py ...` in a checkout is the installed `stepagent ...`."""

from stepagent.commands.main import run

if __name__ == "__main__":
    run()
