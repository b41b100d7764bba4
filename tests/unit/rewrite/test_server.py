import json
import logging
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from clipflow.artifacts import rewrites as artifact
from clipflow.errors import GeneratorError
from clipflow.rewrite import prompts, stage
from clipflow.rewrite.generators import Answer, Task, Usage
from clipflow.rewrite.generators.server import Server
from clipflow.rewrite.generators.server_captioner import ServerCaptioner
from clipflow.rewrite.params import Params
from clipflow.rewrite.server import background, client, endpoint
from clipflow.rewrite.server.client import retry_after_s
from fakes.llm_server import Faults, LlmServer, Reply, content_text, serving

MakePairs = Callable[[dict[str, str]], Path]
KEY = "sk-very-secret/+="
FIELDS = {
    "name": "server", "model": "m", "max_new_tokens": 77, "temperature": 0.9, "top_p": 0.95,
    "concurrency": 4, "timeout_s": 5.0, "max_retries": 6, "requests_per_minute": None,
    "tokens_per_minute": None, "max_tokens": None, "max_dollars": None,
    "dollars_per_million_read": 0.0, "dollars_per_million_written": 0.0,
}  # fmt: skip
TASKS = [Task(f"caption {i}", 0, 1, seed=i) for i in range(40)]


def server_generator(**changed: Any) -> Server:
    return Server(**{**FIELDS, "api": "completions", "few_shot_blocks": None, **changed})


def captioner(**changed: Any) -> ServerCaptioner:
    return ServerCaptioner(**{**FIELDS, "name": "server_captioner", **changed})


def params(num_rewrites: int = 2, **changed: Any) -> Params:
    generator = server_generator(**changed)
    return Params(
        generator=generator,
        num_rewrites=num_rewrites,
        seed=0,
        max_words=60,
        lost_facts="flag",
        agreement=None,
    )


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_WAIT_S", 0.01)


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[LlmServer]:
    """A server in this process that the environment points to."""
    with serving(LlmServer()) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


def answers(generator: endpoint.Endpoint, tasks: list[Task]) -> dict[str, Answer]:
    """Each task's answer, by caption."""
    found = [answer for some in generator.propose(tasks) for answer in some]
    assert sorted(answer.task for answer in found) == sorted(tasks)
    return {answer.task.caption: answer for answer in found}


def text(answer: Answer) -> str:
    (proposal,) = answer.proposals
    assert proposal.problem is None
    return proposal.text


def test_each_caption_gets_its_own_rewrite_whatever_the_order(llm: LlmServer) -> None:
    llm.faults = Faults(error=0.1, busy=0.1, truncate=0.1, malform=0.1, drop=0.1, stall=0.03)
    for caption, answer in answers(server_generator(timeout_s=0.3), TASKS).items():
        assert text(answer).endswith(f" of {caption}")
        assert answer.proposals[0].source == "chatgpt"
        assert answer.usage == Usage(100, 10)


def test_the_prompt_and_the_params_are_sent(llm: LlmServer) -> None:
    task = Task("a dog => a cat", 2, 1, seed=7)
    answers(server_generator(few_shot_blocks=3), [task])
    _trial, request = llm.requests
    assert request.path == "/v1/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body == {
        "model": "m", "prompt": prompts.draw("a dog => a cat", 2, 7, 3).text, "stop": "\n",
        "max_tokens": 77, "temperature": 0.9, "top_p": 0.95, "seed": prompts.dealt(7, 2),
    }  # fmt: skip


def test_chat_has_the_examples_as_turns(llm: LlmServer) -> None:
    body = {"message": {"content": '<think>\nhm\n</think>\n\n"A dog, again"\nWell?'}}
    llm.script = [chosen(body), chosen(body)]
    answer = answers(server_generator(api="chat"), TASKS[:1])["caption 0"]
    assert text(answer) == "A dog, again"
    messages = llm.requests[1].body["messages"]
    assert messages[0] == {"role": "system", "content": prompts.CHAT_INSTRUCTION}
    assert [m["role"] for m in messages[1:]] == ["user", "assistant"] * 3 + ["user"]
    examples = prompts.draw("caption 0", 0, 0).examples
    assert [m["content"] for m in messages[1:-1]] == [side for pair in examples for side in pair]
    assert messages[-1]["content"] == "caption 0"


def chosen(choice: dict[str, Any], **answer: Any) -> Reply:
    return Reply(body=json.dumps({"choices": [choice], **answer}).encode())


def test_captions_of_images(llm: LlmServer) -> None:
    tasks = [Task("same", 0, 1, seed, image=b"JPEG %d" % seed) for seed in range(3)]
    found = [a for some in captioner().propose(tasks) for a in some]
    for answer in found:
        assert answer.proposals[0].source == "caption"
    contents = [r.body["messages"][0]["content"] for r in llm.requests[1:]]
    assert all(part["text"] for content in contents for part in content if part["type"] == "text")
    assert len({content_text(content) for content in contents}) == 3
    assert contents[0][1]["image_url"]["url"].startswith("data:image/jpeg;base64,SlBFRy")
    assert "same" not in json.dumps(contents)


def test_no_more_at_once_than_allowed_and_no_fewer(llm: LlmServer) -> None:
    llm.latency_s = 0.02
    answers(server_generator(concurrency=5), TASKS)
    assert llm.max_active == 5


def test_tasks_are_read_when_needed_in_this_thread(llm: LlmServer) -> None:
    read: list[int] = []

    def tasks() -> Iterator[Task]:
        for number, task in enumerate(TASKS):
            assert threading.current_thread() is threading.main_thread()
            read.append(number)
            yield task

    num_answered = 0
    for some in server_generator(concurrency=2).propose(tasks()):
        assert len(read) <= num_answered + 2 * background.AHEAD + 1
        num_answered += len(some)
    assert num_answered == len(TASKS)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(408), Reply(409), Reply(429), Reply(500), Reply(503), Reply(body=b"{"),
        Reply(body=b"[]"), Reply(body=b'{"choices": []}'), Reply(body=b'{"choices": [{"text": 1}]}'),
        Reply(body=b"\xff"), Reply(fault="drop"), Reply(fault="truncate", body=b'{"choices": []}'),
    ],
    ids=lambda reply: f"{reply.status} {reply.fault} {reply.body!r}",
)  # fmt: skip
def test_what_may_pass_is_asked_again(llm: LlmServer, reply: Reply) -> None:
    llm.script = [reply, reply]
    assert text(answers(server_generator(), TASKS[:1])["caption 0"])
    assert llm.num_requests == 4


def test_a_request_that_takes_too_long_is_made_again(llm: LlmServer) -> None:
    llm.script = [Reply(fault="stall")]
    start = time.monotonic()
    assert text(answers(server_generator(timeout_s=0.2), TASKS[:1])["caption 0"])
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("header", ["1", None])
def test_retry_after_holds_for_all_requests(llm: LlmServer, header: str | None) -> None:
    """Given in seconds, or as a date, of whole seconds, at least one from now."""
    retry_after = header or formatdate(time.time() + 2, usegmt=True)
    trial = Reply(body=b'{"choices": [{"text": " fine"}]}')
    llm.script = [trial, Reply(429, headers={"Retry-After": retry_after})]
    answers(server_generator(concurrency=1), TASKS[:4])
    _trial, refused, *later = (request.at_s for request in llm.requests)
    assert min(later) - refused > 0.9


def test_retry_after_header() -> None:
    assert retry_after_s("7") == 7
    assert retry_after_s("-3") == retry_after_s("") == retry_after_s("soon") == 0
    assert retry_after_s(formatdate(time.time() - 99, usegmt=True)) == 0
    assert 97 < retry_after_s(formatdate(time.time() + 99, usegmt=True)) <= 99


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [({"requests_per_minute": 1200.0}, 1.0), ({"tokens_per_minute": 60_000.0 * 3}, 1.0)],
)
def test_limits_per_minute(llm: LlmServer, limits: dict[str, float], seconds: float) -> None:
    """41 requests at 20 a second, or of about 170 tokens at 3000 a second, less the first second's."""
    answers(server_generator(concurrency=16, **limits), TASKS)
    times = [request.at_s for request in llm.requests]
    assert seconds * 0.95 < times[-1] - times[0] < seconds * 2.5


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_final(llm: LlmServer, status: int) -> None:
    llm.script = [Reply(body=b'{"choices": [{"text": " fine"}]}'), Reply(status)]
    answer = answers(server_generator(), TASKS[:1])["caption 0"]
    assert answer.is_final
    assert answer.proposals == [("", "chatgpt", "refused")]


@pytest.mark.parametrize(
    ("choice", "api", "problem"),
    [
        ({"text": " a dog on a", "finish_reason": "length"}, "completions", "cut off"),
        ({"text": " a dog\nand", "finish_reason": "length"}, "completions", None),
        ({"text": " a dog", "finish_reason": "stop"}, "completions", None),
        ({"text": "", "finish_reason": "content_filter"}, "completions", "refused"),
        ({"message": {"content": "\na dog on"}, "finish_reason": "length"}, "chat", "cut off"),
        ({"message": {"content": None}, "finish_reason": "length"}, "chat", "cut off"),
        ({"message": {"content": None, "refusal": "no"}}, "chat", "refused"),
    ],
)
def test_what_the_server_says_of_the_text(
    llm: LlmServer, choice: dict[str, Any], api: str, problem: str | None
) -> None:
    llm.script = [chosen(choice)] * 2
    (proposal,) = answers(server_generator(api=api), TASKS[:1])["caption 0"].proposals
    assert proposal.problem == problem


def test_usage_is_guessed_where_it_is_not_told(llm: LlmServer) -> None:
    llm.knows_usage = False
    usage = answers(server_generator(), TASKS[:1])["caption 0"].usage
    num_characters = len(prompts.draw("caption 0", 0, 0).text)
    assert usage.read == num_characters // 4 + 1
    assert 5 < usage.written < 12


def test_half_a_surrogate_pair_can_be_stored(
    llm: LlmServer, make_pairs: MakePairs, tmp_path: Path
) -> None:
    llm.script = [Reply(body=rb'{"choices": [{"text": "a \ud83d dog"}]}')] * 2
    stage.run(params(1), pairs=make_pairs({"k": "a cat"}), rewrites=tmp_path / "out")
    assert artifact.read(tmp_path / "out").to_pylist()[0]["rewrites"] == ["a ? dog"]


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "/v1"), (301, "OPENAI_BASE_URL")],
)
def test_what_goes_wrong_with_all_ends_it_at_once(llm: LlmServer, status: int, hint: str) -> None:
    llm.script = [Reply(status, b'{"error": {"message": "said\\nso"}}')] * 99
    with pytest.raises(GeneratorError, match=f"status {status} .said so.*{hint}"):
        answers(server_generator(), TASKS)
    assert llm.num_requests == 1


def test_a_request_that_any_caption_would_make_is_refused(llm: LlmServer) -> None:
    llm.script = [Reply(400, b'{"detail": "no such parameter"}')]
    with pytest.raises(GeneratorError, match=r"plain caption .status 400: no such parameter"):
        answers(server_generator(), TASKS)


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    start = time.monotonic()
    with pytest.raises(GeneratorError, match=r"^http://127.0.0.1:9/v1: no answer .no connection"):
        answers(server_generator(max_retries=50), TASKS)
    assert time.monotonic() - start < 3


@pytest.mark.parametrize("url", [None, "", "localhost:8000", "http://", "http://a:b@host:port/v1"])
def test_no_address(monkeypatch: pytest.MonkeyPatch, url: str | None) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if url is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(GeneratorError, match=r"http://localhost:8000/v1"):
        answers(server_generator(), TASKS)
    assert list(server_generator().propose([])) == []


def test_a_server_that_goes_away_loses_nothing(
    llm: LlmServer, make_pairs: MakePairs, tmp_path: Path
) -> None:
    """What was answered is kept; what was not is asked again, and no row says `no answer`."""
    pairs = make_pairs({f"k{i}": f"a dog number {i}" for i in range(20)})
    good = [
        Reply(body=json.dumps({"choices": [{"text": f" fine {i}"}]}).encode()) for i in range(11)
    ]
    llm.script = [*good, *[Reply(500)] * 999]
    once = {"max_retries": 1, "concurrency": 2}
    with pytest.raises(GeneratorError, match=r"\d+ requests in a row.*run it again to go on"):
        stage.run(params(1, **once), pairs=pairs, rewrites=tmp_path / "out")
    llm.script, llm.num_requests = [], 0
    stage.run(params(1, **once), pairs=pairs, rewrites=tmp_path / "out")
    assert llm.num_requests == 1 + 20 - 10
    rows = artifact.read(tmp_path / "out").to_pylist()
    assert [len(row["rewrites"]) for row in rows] == [1] * 20


def test_one_lost_request_among_many_is_no_reason_to_stop(
    llm: LlmServer, make_pairs: MakePairs, tmp_path: Path
) -> None:
    pairs = make_pairs({f"k{i}": f"a dog number {i}" for i in range(6)})
    llm.script = [Reply(body=b'{"choices": [{"text": " fine"}]}'), Reply(500)]
    run = params(1, max_retries=0, concurrency=1)
    stage.run(run, pairs=pairs, rewrites=tmp_path / "out")
    outcomes = [
        row["provenance"][0]["outcome"] for row in artifact.read(tmp_path / "out").to_pylist()
    ]
    assert outcomes == ["no answer"] + ["accepted"] * 5
    llm.num_requests = 0
    stage.run(run, pairs=pairs, rewrites=tmp_path / "again")
    assert llm.num_requests == 1 + 1
    outcomes = [
        row["provenance"][0]["outcome"] for row in artifact.read(tmp_path / "again").to_pylist()
    ]
    assert outcomes == ["accepted"] * 6


@pytest.mark.parametrize(
    "budget",
    [{"max_tokens": 1200}, {"max_dollars": 0.0012, "dollars_per_million_read": 1.0,
                            "dollars_per_million_written": 1.0}],
)  # fmt: skip
def test_the_budget_stops_it_and_a_higher_one_goes_on(
    llm: LlmServer, make_pairs: MakePairs, tmp_path: Path, budget: dict[str, Any]
) -> None:
    """Of 20 requests of 110 tokens, 1200 allow 10."""
    pairs = make_pairs({f"k{i}": f"a dog number {i}" for i in range(20)})
    for _ in range(2):
        with pytest.raises(GeneratorError, match=r"stopped at the budget.*of max_"):
            stage.run(params(1, concurrency=1, **budget), pairs=pairs, rewrites=tmp_path / "out")
    num_paid = llm.num_answered - 1
    assert 8 <= num_paid <= 10
    stage.run(params(1, concurrency=1), pairs=pairs, rewrites=tmp_path / "out")
    assert llm.num_answered == 20 + 2


def test_a_budget_in_dollars_needs_prices() -> None:
    with pytest.raises(ValidationError, match="dollars_per_million_read"):
        server_generator(max_dollars=1.0)


def test_identical_captions_are_asked_once_and_remembered(
    llm: LlmServer, make_pairs: MakePairs, tmp_path: Path
) -> None:
    pairs = make_pairs({f"k{i}": ("a dog", "a cat")[i % 2] for i in range(12)})
    stage.run(params(), pairs=pairs, rewrites=tmp_path / "out")
    assert llm.num_requests == 1 + 2 * 2
    stage.run(params(timeout_s=9.0), pairs=pairs, rewrites=tmp_path / "again")
    assert llm.num_requests == 1 + 2 * 2
    one, two = (artifact.read(tmp_path / name).to_pylist() for name in ("out", "again"))
    assert one == two
    assert {row["key"]: row["rewrites"][0][-5:] for row in one} == {
        f"k{i}": ("a dog", "a cat")[i % 2] for i in range(12)
    }


def test_limits_and_prices_do_not_change_what_is_written() -> None:
    same = server_generator(
        concurrency=9, timeout_s=1.0, max_retries=0, requests_per_minute=9.0, tokens_per_minute=9.0,
        max_tokens=9, max_dollars=9.0, dollars_per_million_read=9.0, dollars_per_million_written=9.0,
    )  # fmt: skip
    assert same.identity() == server_generator().identity()
    for changed in ({"model": "n"}, {"temperature": 0.5}, {"few_shot_blocks": 2}, {"api": "chat"}):
        assert server_generator(**changed).identity() != same.identity()


def test_closing_early_leaves_no_thread_and_no_request(llm: LlmServer) -> None:
    llm.latency_s = 0.05
    before = set(threading.enumerate())
    lists = server_generator().propose(iter(TASKS))
    next(lists)
    assert len(set(threading.enumerate()) - before) == 1
    start = time.monotonic()
    lists.close()
    assert time.monotonic() - start < 1
    assert set(threading.enumerate()) == before
    time.sleep(0.3)  # the server reads what was sent before
    num_requests = llm.num_requests
    assert num_requests < len(TASKS)
    time.sleep(0.2)
    assert llm.num_requests == num_requests


def test_ctrl_c_while_the_server_is_silent(llm: LlmServer) -> None:
    llm.latency_s = 60
    before = set(threading.enumerate())
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    lists = server_generator(timeout_s=60.0).propose(iter(TASKS))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        next(lists)
    timer.join()
    assert set(threading.enumerate()) == before


ECHO = json.dumps({"error": {"message": f"wrong key {KEY} for hugo:pass%2Fword and pass/word"}})


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
def test_secrets_appear_nowhere(
    llm: LlmServer, make_pairs: MakePairs, tmp_path: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch, status: int,
) -> None:  # fmt: skip
    """The server echoes the key: in a failure's text, in what is no JSON, and in a rewrite."""
    caplog.set_level(logging.DEBUG)
    address = llm.url.replace("://", "://hugo:pass%2Fword@") + "?token=query-secret"
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    leaky = [Reply(body=json.dumps({"choices": [{"text": f" the key is {KEY}"}]}).encode())] * 2
    llm.script = leaky + [Reply(status, ECHO.encode())] * 99
    pairs = make_pairs({f"k{i}": f"a dog number {i}" for i in range(12)})
    fails = nullcontext() if status == 400 else pytest.raises(GeneratorError)
    with fails as caught:
        once = params(1, concurrency=1, max_retries=1)
        stage.run(once, pairs=pairs, rewrites=tmp_path / "out")
    shown = "".join(traceback.format_exception(caught.value)) if caught else ""
    assert llm.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert llm.requests[0].path.endswith("/completions?token=query-secret")
    for secret in (KEY, "pass%2Fword", "pass/word", "query-secret"):
        assert secret not in shown + caplog.text
        for file in tmp_path.rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes(), file


def test_a_login_in_the_address_is_used(llm: LlmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", llm.url.replace("://", "://hugo:word@"))
    answers(server_generator(), TASKS[:1])
    assert llm.requests[0].headers["authorization"] == "Basic aHVnbzp3b3Jk"


def test_a_key_that_is_no_key(llm: LlmServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "two\nlines")
    with pytest.raises(GeneratorError, match="OPENAI_API_KEY: expected") as caught:
        answers(server_generator(), TASKS[:1])
    assert "lines" not in str(caught.value)


def test_the_log_tells_of_retries(llm: LlmServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    llm.script = [Reply(500), Reply(fault="drop"), Reply(500)]
    answers(server_generator(), TASKS[:3])
    (line,) = (line for line in caplog.messages if "requests in" in line)
    assert "7 requests" in line
    assert "2 after status 500, 1 after connection lost" in line
