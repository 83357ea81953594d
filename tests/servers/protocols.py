"""The replies of servers that do all right: a hosted chat API, a vLLM server, and one that continues half a turn.

Their model writes two steps, "good" ones and "bad" ones by turns, and judges the good ones better.
"""

from __future__ import annotations

import re
from typing import Any

END = 256
"""The token that ends a turn; every other token is a byte."""
_STEPS = ("one apple and one apple", "that makes \\boxed{2}")


def solution_step(text: str, draw: int) -> str:
    """Return the step that follows in `text`, with its mark: the last one that it names, or the one after it."""
    marks = re.findall(r"Step (\d+):([^\n]*)", text)
    depth = int(marks[-1][0]) + bool(marks[-1][1].strip()) if marks else 1
    word = "good" if draw % 2 == 0 else "bad"
    return f"Step {depth}: a {word} step: {_STEPS[min(depth, 2) - 1]}"


def rest(text: str, draw: int) -> str:
    """Return all steps that are missing after `text`."""
    first = solution_step(text, draw)
    return first if "boxed" in first else f"{first}\n{solution_step(text + ' Step 2:', draw)}"


def between(text: str, tag: str) -> str:
    """Return the part of a prompt between two tags."""
    return text.partition(f"<{tag}>\n")[2].partition(f"\n</{tag}>")[0]


def verdict(text: str) -> str:
    """Return the letter of the better proposal; the first if both are alike."""
    return "B" if "good" not in between(text, "proposal_A") and "good" in between(text, "proposal_B") else "A"


def reply_text(text: str, draw: int) -> str:
    """Return the reply to a whole prompt."""
    if "<proposal_A>" in text:
        letter = verdict(text)
        return letter if "one letter" in text else f"Proposal {letter} is right. [[{letter}]]"
    if "<step>" in text:
        return f"I looked at it.\nScore: {9 if 'good' in between(text, 'step') else 2}"
    if "<proposals>" in text:
        parts = re.split(r"\n?\[(\d+)\]\n", between(text, "proposals"))[1:]
        numbers = sorted(range(1, len(parts) // 2 + 1), key=lambda n: "good" not in parts[2 * n - 1])
        return "I ranked them.\n" + " > ".join(f"[{number}]" for number in numbers)
    if "[[END]]" in text:
        step = solution_step(text, draw)
        return step + " [[END]]" * ("boxed" in step)
    return rest(text, draw)


class Protocol:
    """A hosted chat API with `n`, seeds and log-probabilities. Its replies count tokens as words."""

    models: tuple[str, ...] = ("m",)

    def __init__(self) -> None:
        self._draws = 0

    def answer(self, method: str, path: str, base: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and body of the reply."""
        place = path.partition("?")[0]
        if place == f"{base}/models" and method == "GET":
            return 200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        if place == f"{base}/chat/completions" and method == "POST":
            return 200, self.chat(body)
        return 404, {"error": {"message": f"no route for {method} {place}", "type": "not_found"}}

    def draw(self, body: dict[str, Any], index: int) -> int:
        """Return the number that a choice is drawn by: its seed, else the number of the request."""
        seed = body.get("seed")
        return (self._draws if seed is None else int(seed)) + index

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a chat request."""
        self._draws += 1
        text = "\n\n".join(str(turn["content"]) for turn in body["messages"])
        choices = [self.choice(text, body, index) for index in range(body.get("n") or 1)]
        return envelope("chat.completion", choices, len(text.split()))

    def choice(self, text: str, body: dict[str, Any], index: int) -> dict[str, Any]:
        """Return one choice of a chat."""
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 10**6
        words = reply_text(text, self.draw(body, index)).split(" ")
        content, reason = " ".join(words[:limit]), "length" if len(words) > limit else "stop"
        choice: dict[str, Any] = {"index": index, "finish_reason": reason}
        choice["message"] = {"role": "assistant", "content": content, "refusal": None}
        if body.get("logprobs"):
            other = {"A": "B", "B": "A"}.get(content, "x")
            top = [{"token": content[:1], "logprob": -0.1}, {"token": other, "logprob": -2.4}]
            top = top[: body.get("top_logprobs") or 0]
            choice["logprobs"] = {"content": [{"token": content[:1], "logprob": -0.1, "top_logprobs": top}]}
        return choice


def envelope(kind: str, choices: list[dict[str, Any]], prompt_tokens: int) -> dict[str, Any]:
    """Return a whole reply with its usage."""
    texts = [choice["message"]["content"] if "message" in choice else choice["text"] for choice in choices]
    sampled = sum(len(text.split()) for text in texts)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": sampled,
        "total_tokens": prompt_tokens + sampled,
    }
    return {"id": "r", "object": kind, "created": 0, "model": "m", "choices": choices, "usage": usage}


class Vllm(Protocol):
    """A vLLM server: token ids in and out, half a turn continued. A thinking model opens every reply with a thought,
    unless the chat template is told not to."""

    thinks = False

    def answer(self, method: str, path: str, base: str, body: dict[str, Any]) -> tuple[int, Any]:
        """See Protocol."""
        if path == "/tokenize":
            text = body["prompt"] if "prompt" in body else self.context(body)
            ids = list(text.encode())
            return 200, {"tokens": ids, "count": len(ids), "max_model_len": 8192}
        if path == "/detokenize":
            return 200, {"prompt": decoded(body["tokens"])}
        if path in ("/health", "/metrics"):
            return 200, {}
        if path == f"{base}/completions":
            prompt = body.get("prompt")
            are_ids = isinstance(prompt, list) and all(isinstance(token, int) for token in prompt)
            if not (isinstance(prompt, str) or are_ids):
                return 400, {"error": {"message": "prompt: neither a text nor token ids"}}
            return 200, self.completions(body)
        return super().answer(method, path, base, body)

    def context(self, body: dict[str, Any]) -> str:
        """Return the chat as the template renders it."""
        turns = "".join(f"<{turn['role']}>{turn['content']}" for turn in body["messages"])
        if body.get("continue_final_message"):
            return turns
        off = (body.get("chat_template_kwargs") or {}).get("enable_thinking") is False
        return f"{turns}<assistant>" + "<think>\n\n</think>\n\n" * (self.thinks and off)

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a completion request."""
        self._draws += 1
        prompt = body["prompt"]
        context = prompt if isinstance(prompt, str) else decoded(prompt)
        choices = []
        for index in range(body.get("n") or 1):
            text, ids, reason, stop = self.sampled(context, body, index)
            choice = {"index": index, "text": text, "finish_reason": reason, "stop_reason": stop, "token_ids": ids}
            logprobs = {"tokens": [chr(token) for token in ids], "token_logprobs": [-0.5] * len(ids)}
            choices.append({**choice, "logprobs": logprobs})
        return {**envelope("text_completion", choices, len(context)), "prompt_token_ids": list(context.encode())}

    def choice(self, text: str, body: dict[str, Any], index: int) -> dict[str, Any]:
        """See Protocol."""
        content, ids, reason, stop = self.sampled(self.context(body), body, index)
        choice: dict[str, Any] = {"index": index, "finish_reason": reason, "stop_reason": stop, "token_ids": ids}
        choice["message"] = {"role": "assistant", "content": content}
        top = [{"token": content[:1], "logprob": -0.1}, {"token": {"A": "B", "B": "A"}.get(content[:1]), "logprob": -2}]
        tokens = [{"token": chr(token), "logprob": -0.5, "top_logprobs": top} for token in ids]
        return {**choice, "logprobs": {"content": tokens}}

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """See Protocol."""
        ids, reply = list(self.context(body).encode()), super().chat(body)
        reply["usage"]["prompt_tokens"] = len(ids)
        return {**reply, "prompt_token_ids": ids}

    def sampled(self, context: str, body: dict[str, Any], index: int) -> tuple[str, list[int], str, str | None]:
        """Return text, token ids, finish reason and stop string of what follows a context."""
        text, reason, stop = self.continuation(context, self.draw(body, index)), "stop", None
        for mark in body.get("stop") or ():
            if mark in text:
                text, stop = text[: text.index(mark) + len(mark)], mark
        ids = [*text.encode(), *([] if stop else [END])]
        limit = body.get("max_tokens") or body.get("max_completion_tokens") or 8192
        if len(ids) > limit:
            ids, reason, stop = ids[:limit], "length", None
            text = decoded(ids)
        if stop and not body.get("include_stop_str_in_output"):
            text = text.removesuffix(stop)
        return text, ids, reason, stop

    def continuation(self, context: str, draw: int) -> str:
        """Return a reply to its end."""
        question, _, half = context.rpartition("<assistant>")
        thought = "<think>\nFirst, I plan.\nStep 1: think\nStep 2: think more\n</think>\n\n"
        if self.thinks and half != thought and thought.startswith(half):
            return thought[len(half) :] + reply_text(question, draw)
        half = half.rpartition("</think>\n\n")[2]
        if not half:
            return reply_text(question, draw)
        return rest(half, draw).removeprefix(half.rpartition("\n")[2])


class ThinkingVllm(Vllm):
    """A vLLM server of a thinking model."""

    thinks = True


class TrimmingVllm(Vllm):
    """A gateway that shows only /v1 and continues half a turn, with a template that trims every turn's text."""

    def answer(self, method: str, path: str, base: str, body: dict[str, Any]) -> tuple[int, Any]:
        """See Protocol."""
        if not path.startswith(base):
            return 404, {"error": {"message": "not found"}}
        return super().answer(method, path, base, body)

    def context(self, body: dict[str, Any]) -> str:
        """See Vllm."""
        turns = [{**turn, "content": str(turn["content"]).strip()} for turn in body["messages"]]
        return super().context({**body, "messages": turns})

    def continuation(self, context: str, draw: int) -> str:
        """Return lines: a model that finds a whole line before it opens the next one first."""
        question, _, half = context.rpartition("<assistant>")
        if not half:
            seen = question + "Step 2:" * ("<proposal" not in question and _STEPS[0] in question)
            return reply_text(seen, draw).replace("Step 1: ", "").replace("Step 2: ", "")
        word = "good" if draw % 2 == 0 else "bad"
        return f"\na {word} step: {_STEPS[1]}"


def decoded(ids: list[int]) -> str:
    """Return the text of token ids."""
    return bytes(token for token in ids if token < END).decode(errors="ignore")


def hosted() -> Protocol:
    return Protocol()
