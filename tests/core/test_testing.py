"""The stub server of `stepagent.testing`, without a client of our own."""

from __future__ import annotations

import json
from typing import Any
from urllib.request import Request, urlopen

from stepagent.testing.stub_server import END, Stub, serve, serve_apart


def say(context: str, seed: int) -> str:
    """A line that names context and seed, and another one."""
    return f"{context} {seed}\nmore"


def post(url: str, path: str, **body: object) -> dict[str, Any]:
    """Reply of the server to a request."""
    request = Request(f"{url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as reply:
        content: dict[str, Any] = json.load(reply)
    return content


def test_stop_strings_limits_and_samples() -> None:
    ask = {"prompt": list(b"so"), "seed": 3}
    with serve(Stub(say)) as url:
        steps = post(url, "completions", **ask, n=2, stop=["\n"], include_stop_str_in_output=True)
        bare = post(url, "completions", **ask, stop="\n")
        whole = post(url, "completions", **ask)
        cut = post(url, "completions", **ask, max_tokens=4)
    assert [choice["text"] for choice in steps["choices"]] == ["so 3\n", "so 4\n"]
    assert [choice["text"] for choice in (*bare["choices"], *whole["choices"])] == ["so 3", "so 3\nmore"]
    assert bare["choices"][0]["token_ids"] == list(b"so 3\n")
    assert (bare["choices"][0]["stop_reason"], whole["choices"][0]["stop_reason"]) == ("\n", None)
    assert whole["choices"][0]["token_ids"][-1] == END
    assert (cut["choices"][0]["text"], cut["choices"][0]["finish_reason"]) == ("so 3", "length")


def test_a_process_of_its_own_answers_as_a_thread_does_and_counts_its_work() -> None:
    stub = Stub(say, seconds_per_token=1e-4)
    turns = [{"role": "user", "content": "1+1"}]
    with serve(stub) as near, serve_apart(stub) as far:
        near_reply, far_reply = (post(url, "chat/completions", messages=turns, seed=7) for url in (near, far))
        with urlopen(f"{far}/work") as reply:
            work = json.load(reply)
    assert near_reply == far_reply
    assert near_reply["choices"][0]["message"]["content"] == "<user>1+1<assistant> 7\nmore"
    assert work == near_reply["service_seconds"] == 1e-4 * near_reply["usage"]["completion_tokens"]
