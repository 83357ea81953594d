"""The meaning of each setting, in a line: a row of the tables below, or else the sentence of its class's docstring that
names it first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

_ADDRESS = "Address of the endpoint, such as http://127.0.0.1:8000/v1."
_PLACE = "Device: auto, cpu, cuda, cuda:1, ..."
_PRECISION = "Precision of the weights: auto, float32, bfloat16 or float16."

MEANINGS = {
    "Config.name": "Name of the run; its folder is runs/NAME.",
    "Config.seed": "Seed of everything that is drawn.",
    "Config.model": "M_0: a model folder or a hub id; with a hosted API, the name that it serves.",
    "Config.rounds": "Number of rounds M_i -> M_{i+1}.",
    "Config.concurrency": "Number of problems that are searched at once.",
    "Config.problems": "Problems to search; a path alone stands for settings with that path.",
    "Config.problems_per_round": "Number of fresh problems for each round; without it each round searches all of them.",
    "Config.backend": "How the model is asked.",
    "Config.generator": "How a step is asked for, and where it ends.",
    "Config.judge": "How sibling steps are compared; a path stands for the section in a file of `judge --tune`.",
    "Config.search": "The search strategy.",
    "Config.grader": "How solutions are checked; if not given, problems of an environment by its own scoring.",
    "Config.serve": "The vLLM server that gets M_1, M_2, ... in turn.",
    "Config.budget": "Limits in tokens, money and time.",
    "Config.prices": "Prices by model name, in a currency of your choice.",
    "Config.verify": "A second judge that confirms the pairs before they are trained.",
    "Config.eft": "How `stepagent data eft` makes evaluation fine-tuning data.",
    "Config.init": "SFT that makes M_1; without it M_0 judges as it is.",
    "Config.optimize": "Step-wise DPO of each round.",
    "Config.replay": "Rows that each round learns beside its pairs.",
    "Config.watch": "The watch over drift.",
    "Config.tracker": "Tracker that gets the figures of every stage of `iterate` under one run.",
    "Config.evaluate": "Held-out data on which each model is measured.",
    "LoraSettings.variant": "Plain, rank-stabilised or weight-decomposed adapter.",
    "LoraSettings.rank": "Rank of the adapter.",
    "LoraSettings.alpha": "Scale of the adapter: alpha / rank, with rslora alpha / sqrt(rank).",
    "LoraSettings.dropout": "Share of the adapter's inputs that is dropped in training.",
    "LoraSettings.quantize": "4bit keeps the frozen weights in 4 bits (QLoRA; CUDA only).",
    "LoraSettings.targets": "Modules that get an adapter: all-linear, a pattern or a list of names.",
    "TrainSettings.learning_rate": "Peak learning rate of AdamW.",
    "TrainSettings.epochs": "Passes over the data; a fraction is allowed.",
    "TrainSettings.batch_size": "Pairs (SFT: rows) of an optimizer step, on all processes together.",
    "TrainSettings.serving_dtype": "Precision of a copy of the merged model, in its folder serving/; null: no copy.",
    "TrainSettings.report_to": "Tracker of transformers.Trainer: tensorboard, wandb, trackio.",
    "TrainSettings.warmup_ratio": "Share of the steps in which the learning rate rises.",
    "TrainSettings.scheduler": "Course of the learning rate after the warm-up.",
    "TrainSettings.max_grad_norm": "Norm at which gradients are clipped.",
    "TrainSettings.token_budget": "Tokens of one forward pass (null: 4,096 on CUDA, 1,024 on a CPU).",
    "TrainSettings.max_context": "Longest sequence in tokens; longer ones are left out (null: the model's window).",
    "TrainSettings.lora": "The adapter that is trained and merged; null trains all weights.",
    "TrainSettings.dtype": "Precision in which is computed.",
    "TrainSettings.gradient_checkpointing": "Compute activations again in the backward pass, to save memory.",
    "TrainSettings.save_steps": "Optimizer steps between checkpoints, from which a killed training goes on.",
    "MixSettings.ift": "Times that an epoch sees the IFT set.",
    "MixSettings.eft": "Times that an epoch sees the EFT set.",
    "InitSettings.ift": "File of solutions in steps, {question, steps} or {question, solution}.",
    "InitSettings.eft": "File of written judgements; without it the model learns to solve only.",
    "InitSettings.mix": "How often an epoch sees each set.",
    "GuardSettings.chosen_fall": "Nats that the chosen steps' log-probability may fall below the reference's.",
    "GuardSettings.saturation": "Highest accuracy within the first tenth of the steps.",
    "GuardSettings.longer_wins": "Highest share of pairs whose longer step is the chosen one.",
    "OptimizeSettings.loss": "Signal of a pair: DPO's sigmoid, IPO, KTO, or the chosen step's likelihood alone.",
    "OptimizeSettings.beta": "DPO's beta: the weight of staying near the reference.",
    "OptimizeSettings.nll_alpha": "Weight of the NLL of the chosen step per token; 0 leaves it out.",
    "OptimizeSettings.pairs": "Pairs that a search exports of a level: best_worst, best_rest or all.",
    "OptimizeSettings.margin_smoothing": "Smooth each pair's label by the judge's margin.",
    "OptimizeSettings.length_normalized": "Average log-probabilities over a step's tokens.",
    "OptimizeSettings.guards": "Limits beyond which a training is warned about.",
    "ProblemSettings.path": "JSON, CSV, TSV or Parquet file, dataset folder, hub id, or a preset (gsm8k, math, "
    "math500, numina, aime, olympiadbench).",
    "ProblemSettings.subset": "Subset (configuration) of a hub data set.",
    "ProblemSettings.split": "Split of a hub data set; train, if not given.",
    "ProblemSettings.question": "Column of the questions (question, if not given).",
    "ProblemSettings.answer": "Column of the reference answers (answer, if not given).",
    "ProblemSettings.id": "Column of the ids (id, if not given); without one it is the row's number.",
    "ProblemSettings.worked": "Whether the answer column holds worked solutions, whose boxed or ####-marked answer is "
    "the reference.",
    "ProblemSettings.sample": "Number of problems to draw; all, if not given.",
    "ProblemSettings.seed": "Seed of that draw, or of an environment's problems.",
    "ProblemSettings.env": "Library that generates the problems and scores their answers.",
    "ProblemSettings.name": "Environment of that library, such as leg_counting.",
    "ProblemSettings.size": "Number of problems that it generates (reasoning_gym: 500, verifiers: all, if not given).",
    "ProblemSettings.config": "Settings of the environment, by the library's names.",
    "EftSettings.problems": "Problems that M_0 searches for pairs.",
    "EftSettings.labels": "Judge that labels the siblings: a stronger model, a process reward model, rollouts.",
    "EftSettings.pairs": "File of pairs that are labelled already, instead of problems and labels.",
    "EftSettings.generator": "Generator of that search (the config's own, if not given).",
    "EftSettings.search": "Strategy of that search (the config's own, if not given).",
    "EftSettings.teacher": "Judge of kind pairwise that writes a judgement of each pair in both positions.",
    "EftSettings.template": "Prompt file that writes the judgements where there is no teacher.",
    "EftSettings.min_margin": "Margin of the label below which a pair is left out.",
    "EftSettings.test_share": "Share of the problems that is kept for the test sets.",
    "EftSettings.ties": "Highest share of rows about siblings that are labelled as equal.",
    "EvaluateSettings.problems": "Held-out problems with answers.",
    "EvaluateSettings.pairs": "File of labelled pairs on which the judge is measured.",
    "EvaluateSettings.search_problems": "Number of problems that are also searched, the dearest measurement; 0: none.",
    "EvaluateSettings.max_tokens": "Longest greedy solution in tokens.",
    "EvaluateSettings.check_step": "Function module:name(question, step texts before, step) -> is it right?, for "
    "worlds where a single step can be checked.",
    "ReplaySettings.ift": "IFT rows for each preference pair.",
    "ReplaySettings.eft": "EFT rows for each preference pair.",
    "ReplaySettings.judged": "The round's own judgements of confirmed pairs, for each preference pair.",
    "ReplaySettings.ift_data": "File of the IFT rows; null: the file that init.ift names.",
    "ReplaySettings.eft_data": "File of the EFT rows; null: the file that init.eft names.",
    "ReplaySettings.weight": "Weight of a row's mean NLL per token against a pair's loss.",
    "WatchSettings.problems": "Number of problems that each model searches for the watch; 0 watches nothing.",
    "WatchSettings.agreement_fall": "Fall of the share of judged pairs whose positions agree.",
    "WatchSettings.ended_fall": "Fall of the share of solutions that end.",
    "WatchSettings.pairs_left": "Share of the first model's pairs per problem that must be left.",
    "WatchSettings.change": "Factor by which steps per solution or tokens per step may change, either way.",
    "WatchSettings.then": "Stop at the last good model; or go on from it (roll_back); or only warn.",
    "BudgetSettings.tokens": "Prompt and sampled tokens that the run's folder may ever pay for.",
    "BudgetSettings.money": "Money, in the currency of `prices`, that the run's folder may ever cost.",
    "BudgetSettings.seconds": "Seconds from the start of the command.",
    "Price.prompt": "Price of a million prompt tokens.",
    "Price.completion": "Price of a million sampled tokens.",
    "ServeSettings.command": "Command that starts vLLM (an interpreter and module, or docker run ...); without one the "
    "server is external, at backend.base_url.",
    "ServeSettings.args": "Further arguments of that command.",
    "ServeSettings.env": "Environment variables of the server.",
    "ServeSettings.name": "Name under which the model is served.",
    "ServeSettings.host": "Address that the server listens at.",
    "ServeSettings.port": "Port that the server listens at.",
    "ServeSettings.start_seconds": "Longest wait for a starting server.",
    "ServeSettings.redeploy": "How M_{i+1} gets onto the server: reload the merged weights in place, load the adapter "
    "under a new name, or restart; auto takes the first that the server can do.",
    "ServeSettings.while_training": "Keep the server as it is, let it sleep, or stop it; auto lets it sleep if it "
    "stands on this machine's GPU.",
    "ServeSettings.api_key_env": "Environment variable with the server's API key.",
    "backend.transformers.model": "Model folder or hub id (in a run, the model of the round).",
    "backend.transformers.max_rows": "Samples that are drawn at once (null: 64 on a CPU, 256 elsewhere).",
    "backend.transformers.max_context": "Longest context in tokens (null: the model's window).",
    "backend.openai.base_url": "Address, or list of addresses that serve the same weights, such as "
    "http://127.0.0.1:8000/v1; the run's own server, if there is one.",
    "backend.openai.model": "Name of the model at the endpoint (in a run, the config's model).",
    "backend.openai.tokenizer": "Folder or hub id of the served model, whose tokenizer the token ids are checked with.",
    "backend.openai.version": "Text that tells apart weights that are served under one name.",
    "backend.openai.extra_body": "Fields that are sent with every request, such as {reasoning_effort: low}.",
    "backend.openai.batch": "Send requests through the endpoint's batches: half the price, within a day.",
    "backend.openai.headers": "Headers that are sent with every request.",
    "backend.scripted.rules": "Rules {pattern, say}: the first pattern that the context matches replies, by seed.",
    "scorer.prm_tags.tag": "Text after each step, at which the model says whether it is right.",
    "scorer.prm_tags.good": "Token of a right step.",
    "scorer.prm_tags.bad": "Token of a wrong step.",
    "scorer.prm_pooling.model": "Name of the model at the endpoint.",
    "generator.sample.boundary": "Where a step ends: at the next `Step N:` marker, at a line's end, at a blank line.",
    "generator.sample.max_tokens": "Longest step in tokens, and longest thought before it; a step that reaches it is "
    "marked runaway.",
    "generator.sample.thinking": "A reasoning model's thought: off asks for none, hidden keeps it before the steps, "
    "steps makes it the solution whose steps are searched.",
    "judge.pointwise.votes": "Grades of each candidate.",
    "judge.prm.backend": "The process reward model.",
    "judge.rollouts.rollouts": "Solutions from each candidate on.",
    "judge.rollouts.target": "Answer that counts as a hit: most rollouts', or the problem's own (reference).",
    "judge.rollouts.agreement": "Share of the rollouts that must reach the answer of most, or there is no signal.",
    "judge.rollouts.thinking": "What generator.thinking says, so that steps are continued in their own context.",
    "judge.panel.judges": "The judges, a list of settings.",
    "judge.panel.votes": "Opinions of each judge; several need a temperature above 0.",
    "judge.panel.combine": "Points for won pairs, or Bradley-Terry strengths.",
    "search.step.max_iterations": "Levels a tree may have, roll-backs counted.",
    "search.step.max_rollbacks": "Times that a level without signal may drop the step before it.",
    "search.beam.beams": "Paths that go on at each depth.",
    "search.dvts.subtrees": "Greedy searches that do not compete.",
    "search.best_first.expansions": "Paths that are expanded at most.",
    "search.mcts.simulations": "Walks from the question down.",
    "search.mcts.exploration": "UCT's constant c; 0 always walks to the best mean value.",
    "grader.number.relative": "Highest difference from the reference, as a share of its size.",
    "grader.number.absolute": "Highest difference from the reference.",
    "grader.python_tests.seconds": "Processor seconds that a program and its tests may take.",
    "grader.python_tests.memory_mb": "Memory that they may take, in MiB.",
    "search.best_of_n.n": "Solutions for each problem.",
    "search.best_of_n.pick": "A solution with the answer that most reach, or the one that the judge prefers.",
}
"""Rows for one class or kind."""

COMMON = {
    "backend": "The model that is asked, if it is not the run's own.",
    "generator": "Another generator than the run's.",
    "judge": "Another judge than the run's.",
    "grader": "Another grader than the run's.",
    "answers": "Reference answers by question; the run gives those of its problems.",
    "prompt": "Shipped prompt, by name, or the path of a prompt file.",
    "criteria": "The task's own words on a good step; they stand in the prompt at {criteria}.",
    "temperature": "Sampling temperature; 0 takes the likeliest token.",
    "top_p": "Share of the probability that is sampled from.",
    "max_tokens": "Longest reply in tokens.",
    "comparisons": "Only the pairs that may still decide, or all of them.",
    "width": "Steps that are proposed for each prefix.",
    "max_steps": "Longest path in steps.",
    "aggregate": "Value of a path: mean, last, min or product of its steps' values.",
    "model": "Model folder or hub id.",
    "base_url": _ADDRESS,
    "api_key_env": "Environment variable with the API key.",
    "timeout": "Seconds that a request may take.",
    "attempts": "Times that a request which may succeed later is made (null: for two minutes).",
    "max_in_flight": "Requests that run at once, for each address.",
    "requests_per_minute": "Highest rate of requests, for each address.",
    "tokens_per_minute": "Highest rate of tokens, for each address.",
    "separator": "Text between steps.",
    "device": _PLACE,
    "dtype": _PRECISION,
}
"""Rows for arguments that mean the same in several kinds."""


def meaning(names: Sequence[str], setting: str, docstrings: Sequence[str]) -> str:
    """Return the meaning of a setting, as a sentence; "" if nobody wrote it down. `names` are those of its class and
    the class's bases, or of its kind, and `docstrings` theirs."""
    for name in names:
        if row := MEANINGS.get(f"{name}.{setting}"):
            return row
    if setting in COMMON:
        return COMMON[setting]
    clauses = (clause for text in docstrings for clause in _clauses(text))
    clause = next((clause for clause in clauses if re.search(rf"`{setting}\b", clause)), "")
    return f"{clause[0].upper()}{clause[1:]}." if clause else ""


@cache
def _clauses(docstring: str) -> tuple[str, ...]:
    """Return the sentences and half-sentences of a docstring; a semicolon within brackets divides nothing."""
    text = " ".join(docstring.split())
    clauses, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and (character == ";" or text[position : position + 2] in (". ", ".")):
            clauses.append(text[start:position].strip())
            start = position + 1
    return (*clauses, text[start:].strip()) if text[start:].strip() else tuple(clauses)
