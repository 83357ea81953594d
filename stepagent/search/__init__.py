"""Search strategies; `beam.py` has the two that grow depth by depth."""

BUILTIN = {
    "step": "stepagent.search.step:StepSearch",
    "beam": "stepagent.search.beam:BeamSearch",
    "dvts": "stepagent.search.beam:DiverseSearch",
    "best_first": "stepagent.search.best_first:BestFirstSearch",
    "mcts": "stepagent.search.mcts:MctsSearch",
    "best_of_n": "stepagent.search.best_of_n:BestOfN",
    "greedy": "stepagent.search.greedy:GreedySearch",
}
