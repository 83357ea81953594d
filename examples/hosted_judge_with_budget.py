"""A hosted model judges the steps of a local one, for at most one dollar; started again, it goes on.

python examples/hosted_judge_with_budget.py config.yaml found https://api.openai.com/v1 gpt-4.1-mini
"""

import sys

import stepagent

config_file, out, address, model = sys.argv[1:]
config = stepagent.load_config(config_file).model_dump()
config["judge"] = {"kind": "pairwise", "backend": {"kind": "openai", "base_url": address, "model": model}}
config["prices"] = {model: {"prompt": 0.4, "completion": 1.6}, config["model"]: {"prompt": 0, "completion": 0}}
config["budget"] = {"money": 1.0}
try:
    found = stepagent.search(config, out)
except stepagent.StepagentError as error:  # the budget is used up, or the endpoint refuses
    sys.exit(f"stopped: {error}; finished trees are in {out}")
print(f"{sum(1 for _ in found.preferences())} pairs")
