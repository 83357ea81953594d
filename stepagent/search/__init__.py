"""Search strategies, one file each."""

BUILTIN = {
    "step": "stepagent.search.step:StepSearch",
    "beam": "stepagent.search.beam:BeamSearch",
    "dvts": "stepagent.search.dvts:DiverseSearch",
    "best_first": "stepagent.search.best_first:BestFirstSearch",
    "mcts": "stepagent.search.mcts:MctsSearch",
    "best_of_n": "stepagent.search.best_of_n:BestOfN",
    "greedy": "stepagent.search.greedy:GreedySearch",
}
