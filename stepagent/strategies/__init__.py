"""Search strategies; `beam.py` has the two that grow depth by depth."""

BUILTIN = {
    "step": "stepagent.strategies.step:StepSearch",
    "beam": "stepagent.strategies.beam:BeamSearch",
    "dvts": "stepagent.strategies.beam:DiverseSearch",
    "best_first": "stepagent.strategies.best_first:BestFirstSearch",
    "mcts": "stepagent.strategies.mcts:MctsSearch",
    "best_of_n": "stepagent.strategies.best_of_n:BestOfN",
    "greedy": "stepagent.strategies.greedy:GreedySearch",
}
