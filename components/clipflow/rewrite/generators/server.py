"""server: a language model behind OpenAI's HTTP API, anywhere: vLLM, TGI, llama.cpp, a provider."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipflow.rewrite import prompts
from clipflow.rewrite.generators import Task
from clipflow.rewrite.server.endpoint import CHAT, COMPLETIONS, Endpoint, Question


class Server(Endpoint):
    """Rewrites by in-context learning, or by instruction. Source: LaCLIP, section 3.1."""

    api: Literal["completions", "chat"]
    """`completions` for base models, with the paper's prompt; `chat` for those that take instructions."""
    few_shot_blocks: int | None = Field(ge=1)
    """Sets of meta-pairs per source, so that the server's prefix cache helps; null: no end of them."""

    def question(self, task: Task) -> Question:
        """The prompt of the task's rewrite, or a conversation in which it comes next."""
        prompt = prompts.draw(task.caption, task.first, task.seed, self.few_shot_blocks)
        if self.api == "completions":
            body = {"prompt": prompt.text, "stop": "\n"}
            return Question(COMPLETIONS, body, len(prompt.text), prompt.provenance)
        messages = [{"role": "system", "content": prompts.CHAT_INSTRUCTION}]
        for caption, rewrite in prompt.examples:
            messages.append({"role": "user", "content": caption})
            messages.append({"role": "assistant", "content": rewrite})
        messages.append({"role": "user", "content": prompt.caption})
        num_characters = sum(len(message["content"]) for message in messages)
        return Question(CHAT, {"messages": messages}, num_characters, prompt.provenance)

    def trial(self) -> Task:
        """An everyday caption."""
        return Task("a dog runs along the beach", first=0, num=1, seed=0)
