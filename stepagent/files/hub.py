"""A repository on the Hugging Face Hub: whether it may be written, and the upload of files into it.

Each upload ends in one commit, so that a reader of the repository sees all of it or none. Before that commit only a
mark is there, which says whose upload has begun: the same one may go on, another one may not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stepagent.errors import BackendError, ConfigError, RefusedError, StepagentError

MARK = "stepagent.json"
"""The file that says of which run, and of which of its models, a repository is."""
_OWN = frozenset({MARK, ".gitattributes"})
"""Files of a repository into which nothing has been uploaded yet."""
_WAYS = "set HF_TOKEN to a token that may write, or run hf auth login"


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository: "org/name", and whether it holds a model or a data set."""

    name: str
    kind: Literal["model", "dataset"] = "model"

    @property
    def owner(self) -> str:
        """The user or organisation that it belongs to."""
        return self.name.partition("/")[0]

    def __str__(self) -> str:
        return f"the {'data set' if self.kind == 'dataset' else 'model'} {self.name}"


class Hub:
    """The Hub at HF_ENDPOINT, asked with the token of HF_TOKEN or of `hf auth login`. Every refusal is a RefusedError,
    and a fault of the connection a BackendError; both say how to go on. Raises ConfigError if huggingface_hub is not
    installed."""

    def __init__(self) -> None:
        try:
            from huggingface_hub import HfApi
            from huggingface_hub.utils import disable_progress_bars, logging
        except ImportError:
            raise ConfigError("push: huggingface_hub is not installed; pip install 'stepagent[train]'") from None
        disable_progress_bars()  # they would write over our own line
        logging.set_verbosity_error()
        self._api = HfApi(library_name="stepagent")

    def check_name(self, repository: Repository) -> None:
        """Raise ConfigError for a name that no repository can have."""
        from huggingface_hub.utils import HFValidationError, validate_repo_id

        try:
            validate_repo_id(repository.name)
        except HFValidationError:
            valid = False
        else:
            valid = repository.name.count("/") == 1
        if not valid:
            raise ConfigError(f"--to {repository.name}: not a repository's name; give one such as org/name")

    def check_writer(self, repository: Repository) -> None:
        """Raise RefusedError unless the token, as far as the Hub tells, may write what the owner of `repository` has.
        A token for chosen repositories may still be refused when it writes."""
        with _asking(repository):
            user = self._api.whoami()
        token = user.get("auth", {}).get("accessToken", {})
        if token.get("role") == "read":
            raise RefusedError(f"{repository.name}: the token may only read; {_WAYS}")
        name = str(user.get("name"))
        roles = {name: "admin", **{str(org.get("name")): org.get("roleInOrg") for org in user.get("orgs", ())}}
        if repository.owner not in roles or roles[repository.owner] == "read":
            owners = ", ".join(owner for owner, role in roles.items() if role != "read")
            raise RefusedError(f"{repository.name}: {name} may not write there, but under {owners}")

    def check_free(self, repository: Repository, mark: Mapping[str, object], *, public: bool) -> bool | None:
        """Return whether `repository` has this `mark`, so that its upload goes on; None if it is not there. One that is
        there and empty is taken. Raises RefusedError if it is something else, or if its visibility is another."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with _asking(repository):
            try:
                info: Any = self._api.repo_info(repository.name, repo_type=repository.kind)
            except RepositoryNotFoundError:
                return None
        files = {file.rfilename for file in info.siblings or ()}
        earlier = self._mark(repository) if MARK in files else None
        if earlier != mark and (earlier is not None or files - _OWN):
            content = f", with {earlier['model']} of {earlier['run']}" if earlier else ""
            raise RefusedError(f"{repository} exists already{content}; choose another --to, or delete it on the Hub")
        if bool(info.private) == public:
            visibility, remedy = ("private", "leave out --public") if info.private else ("public", "add --public")
            raise RefusedError(f"{repository} is {visibility} already; {remedy}, or change it on the Hub")
        return earlier is not None

    def _mark(self, repository: Repository) -> dict[str, Any]:
        from huggingface_hub import get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        with _asking(repository):
            url = f"{self.url(repository)}/resolve/main/{MARK}"
            reply = get_session().get(url, headers=build_hf_headers(), follow_redirects=True)
            hf_raise_for_status(reply)
        try:
            mark = json.loads(reply.content)
        except ValueError:
            mark = None
        return mark if isinstance(mark, dict) and {"model", "run"} <= mark.keys() else {"model": "a model", "run": "?"}

    def begin(self, repository: Repository, mark: Mapping[str, object], *, public: bool) -> None:
        """Make a repository that is not there, and put the mark into it."""
        with _asking(repository):
            self._api.create_repo(repository.name, repo_type=repository.kind, private=not public)
        self.mark(repository, mark)

    def mark(self, repository: Repository, mark: Mapping[str, object]) -> None:
        """Put the mark into a repository that has none."""
        from huggingface_hub import CommitOperationAdd

        content = json.dumps(dict(mark), indent=2).encode() + b"\n"
        self._send(repository, [CommitOperationAdd(MARK, content)], "Begin an upload by stepagent")

    def upload(
        self, repository: Repository, files: Mapping[str, Path | bytes], *, show: Callable[[str, int], object]
    ) -> None:
        """Upload `files`, by their names in the repository, and show them in one commit at the end. `show` is called
        with the name of a file before it is sent, and with the bytes of all files before it. The Hub keeps a large file
        that it has been sent: an upload that goes on sends only the rest."""
        from huggingface_hub import CommitOperationAdd

        position, operations = 0, []
        for name, content in files.items():
            show(name, position)
            operation = CommitOperationAdd(name, content)
            with _asking(repository):
                self._api.preupload_lfs_files(
                    repository.name, [operation], repo_type=repository.kind, free_memory=False, gitignore_content=""
                )
            operations.append(operation)
            position += operation.upload_info.size
        show("the commit", position)
        self._send(repository, operations, "Upload by stepagent")

    def url(self, repository: Repository) -> str:
        """Return the address of a repository's page."""
        return f"{self._api.endpoint}/{'datasets/' * (repository.kind == 'dataset')}{repository.name}"

    def _send(self, repository: Repository, operations: list[Any], message: str) -> None:
        with _asking(repository):
            self._api.create_commit(repository.name, operations, commit_message=message, repo_type=repository.kind)


@contextmanager
def _asking(repository: Repository) -> Iterator[None]:
    """Turn every fault of a request to the Hub into one sentence."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    # the HTTP library's own error, whose package has changed its name between versions of huggingface_hub
    connection_error: Any = HfHubHTTPError.__mro__[1]
    try:
        yield
    except StepagentError:
        raise
    except LocalTokenNotFoundError:
        raise RefusedError(f"{repository.name}: the Hub wants a token to write; {_WAYS}") from None
    except (connection_error, OSError, RuntimeError, ValueError) as error:
        causes = list(_causes(error))
        refusal = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
        if refusal is not None:
            raise _sentence(repository, refusal.response.status_code, refusal.server_message) from None
        raise BackendError(
            f"{repository.name}: the Hub could not be reached or did not take the upload ({_first_line(causes[-1])}); "
            "the same command goes on"
        ) from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _sentence(repository: Repository, status: int, message: str | None) -> StepagentError:
    words = f" (the Hub: {_first_line(message)})" if message else ""
    if status == 401:
        return RefusedError(f"{repository.name}: the Hub does not know the token{words}; {_WAYS}")
    if status == 403:
        return RefusedError(f"{repository.name}: the token may not write there{words}; {_WAYS}")
    if status == 409:
        return RefusedError(f"{repository} exists already{words}; choose another --to")
    return BackendError(f"{repository.name}: the Hub answered with status {status}{words}; the same command goes on")


def _first_line(text: object) -> str:
    """Return the first line of an error's text that says something."""
    return next((line.strip().rstrip(".") for line in str(text).splitlines() if line.strip()), type(text).__name__)
