"""`python cli.py ...` in a checkout is the installed `stepagent ...`."""

from stepagent.main import run

if __name__ == "__main__":
    run()
