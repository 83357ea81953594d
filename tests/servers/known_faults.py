"""What happens today in the rows that do not hold yet, by name: each is an expected failure, and red once it holds."""

from __future__ import annotations

KNOWN_FAULTS: dict[str, str] = {
    # kind 1
    "a storm of 30 s": "stands still: the gap grows with each 429 and hardly closes again",
    "the reset is a Unix time in milliseconds": "X-RateLimit-Reset is not read: asks again each second",
    "Retry-After is an HTTP date": "the date is not read: asks again each second",
    "try again in 900ms in the body": "the body is not read: asks again each second",
    # kind 2
    "a grading judge without credits, measured": "exit 0 and a rate of 0.0 %, without the server's words",
    "a choice that failed beside one that did not": "one bad choice throws the others away",
    "half of a comparison failed, judged again": "an unparsed level with a failed vote is 'already done'",
    "an empty reply once in five": "a failed probe begins anew, so that it never ends",
    # kind 3
    "a header over 8 kB": "aiohttp's error passes the openai client as it is",
    "the content of log-probabilities is null": "exit 0 with errors: first_tokens finds null",
    "a reward in words": "ValueError in float",
    "a store of another schema": "sqlite3.OperationalError in ResponseStore.spent",
    "a managed server at ::1": "httpx.InvalidURL: no brackets around the address",
    # kind 4
    # kind 5
    "a thinking model by token ids": "a thought is cut into steps",
    "a thought in Seed's tags": "the thought becomes a part of the step",
    "a judge's reasoning that uses up max_tokens": "no word about max_tokens",
    "half a turn with a template that trims": "the blank that opens the next line is taken for an empty step",
    "a logprob judge that thinks first": "unparsed without a word about the thought",
    "rollouts on a hosted API": "one step is scored as if it were a solution",
    # kind 6
    "a managed server and http_proxy": "the loopback is asked through the proxy: 'did not answer'",
    "a managed server and a socks proxy": "ImportError when the client is made",
    # kind 7
    "a port that nobody listens at": "every lost connection is 'Request timed out'",
    "an address of a web page": "an exception of the openai client's pagination",
    "a warning after the cause of a failed start": "the warning is shown as the cause",
    "a cause before the last error of a failed start": "the last error is shown, which points at the cause",
    # kind 8
    # kind 9
    "a verdict with a Chinese exclamation mark": "unparsed, though clear",
    # kind 10
}
