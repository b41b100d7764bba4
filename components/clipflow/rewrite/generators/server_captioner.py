"""server_captioner: a model that sees, behind OpenAI's chat API: captions written from the images."""

from __future__ import annotations

import base64
import io
from typing import ClassVar

from PIL import Image

from clipflow.rewrite.generators import Task
from clipflow.rewrite.prompts import IMAGE_INSTRUCTION
from clipflow.rewrite.server.endpoint import CHAT, Endpoint, Question

IMAGE_TOKENS = 1000
"""What an image is taken to cost where the server doesn't say."""


class ServerCaptioner(Endpoint):
    """Captions of images by instruction; the pairs' own captions are not shown to the model."""

    sees_images: ClassVar[bool] = True

    def question(self, task: Task) -> Question:
        """The image with the instruction, as a chat message."""
        assert task.image is not None
        url = "data:image/jpeg;base64," + base64.b64encode(task.image).decode()
        content = [
            {"type": "text", "text": IMAGE_INSTRUCTION},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        body = {"messages": [{"role": "user", "content": content}]}
        return Question(CHAT, body, len(IMAGE_INSTRUCTION) + 4 * IMAGE_TOKENS, "caption")

    def trial(self) -> Task:
        """A grey image."""
        file = io.BytesIO()
        Image.new("RGB", (64, 64), "gray").save(file, "JPEG")
        return Task("", first=0, num=1, seed=0, image=file.getvalue())
