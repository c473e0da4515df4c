"""One visitor's conversation on the chat page: the picture, what was found in it, and the bubbles to show.

Kept on the server; nothing in it is taken back from the browser. No page, no Gradio: messages are plain dictionaries
in Gradio's messages format.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slidekick.apps.ask import call_text, claim_mark, gates_text, result_text, value_text
from slidekick.copilot.answer import check_question
from slidekick.data.errors import InputError

SHOWN_PX = 1600  # longest side of the picture sent to the browser


@dataclass
class Session:
    """Starts without a picture. `ask` needs `open_picture` first."""

    copilot: object
    folder: Path | None = None
    roi: object = None
    box: object = None
    answers: list = field(default_factory=list)
    messages: list[dict] = field(default_factory=list)
    findings: dict = field(default_factory=dict)

    def open_picture(self, path: str | Path, region: tuple | None = None, mpp: float | None = None) -> None:
        """Read a picture and begin a new conversation about it. Raises InputError; then nothing changes."""
        from slidekick.data.slide import read_roi

        roi = read_roi(path, region, mpp)
        self.roi, self.box = roi, self.copilot.toolbox(roi)
        self.findings = {}
        self.clear()

    def open_in_folder(self, name: str, region: tuple | None = None, mpp: float | None = None) -> None:
        """The same for a file under the opened folder, by its path relative to it.

        Raises InputError for a path that leads out of the folder, by `..` or by a link, and where none is opened.
        """
        if self.folder is None:
            raise InputError("no folder is opened here; start the page with slidekick chat --folder DIR")
        root = self.folder.resolve()
        path = (root / name.strip()).resolve()
        if not name.strip() or not path.is_relative_to(root):
            raise InputError(f"{name}: not in the opened folder; give a path inside it")
        self.open_picture(path, region, mpp)

    def clear(self) -> None:
        """Forget the conversation; the picture stays, and what was found in it."""
        self.answers, self.messages = [], []

    def ask(self, question: str) -> Iterator[None]:
        """Answer; after each step `messages` and `findings` have grown. Raises InputError for a bad question."""
        question = check_question(question)
        if self.roi is None:
            raise InputError("there is no picture yet; upload one or take a sample")
        events = self.copilot.stream(self.roi, question, self.answers, box=self.box)
        self.messages.append({"role": "user", "content": question})
        bubble = text = None
        try:
            yield
            for event in events:
                if event.kind == "tool_start":
                    bubble = _bubble(f"{call_text(event.step)}", "measuring …", "pending")
                    self.messages.append(bubble)
                elif event.kind == "tool_end":
                    self.findings |= {finding.concept: finding for finding in event.findings}
                    bubble["content"] = result_text(event.step.result)
                    bubble["metadata"] |= {"status": "done", "duration": event.step.seconds}
                elif event.kind == "text":
                    if text is None:
                        text = {"role": "assistant", "content": ""}
                        self.messages.append(text)
                    text["content"] += event.text
                elif event.kind == "answer":
                    if text is not None:  # what was written gives way to what was measured, or to a likelier reading
                        text["content"] = event.answer.text
                    self._end(event.answer)
                yield
        finally:
            if bubble and bubble["metadata"]["status"] == "pending":  # stopped by the visitor
                bubble["content"] = "stopped"
                bubble["metadata"]["status"] = "done"

    def _end(self, answer) -> None:
        self.answers.append(answer)
        if not answer.text:
            self.messages.append({"role": "assistant", "content": "(no answer)"})
        backed = sum(claim.supported and claim.kind == "measured" for claim in answer.claims)
        measured = sum(claim.kind == "measured" for claim in answer.claims)
        title = f"Evidence: {backed} of {measured} backed" if measured else "A reading, not measured"
        self.messages.append(_bubble(title, _evidence_text(answer), "done"))
        if answer.warnings:
            self.messages.append(_bubble("Warnings", "\n".join(answer.warnings), None))

    def pictures(self) -> tuple | None:
        """The picture as given and with what was found drawn in, both uint8 and of one size; None without one."""
        if self.roi is None:
            return None
        from slidekick.grounding.overlay import draw_overlay

        drawn = draw_overlay(self.roi.pixels, self._found(), self.roi.mpp, legend=False)
        return tuple(_shrunk(pixels) for pixels in (self.roi.pixels, drawn))

    def legend(self) -> list[tuple[str, tuple[int, int, int] | None]]:
        """What was looked for, in words, each with its colour on the picture (None where not found)."""
        from slidekick.grounding.overlay import legend_text
        from slidekick.grounding.palette import concept_colours

        colours = concept_colours(finding.concept for finding in self._found())
        return [(legend_text(finding), colours.get(finding.concept)) for finding in self.findings.values()]

    def _found(self) -> list:
        return [finding for finding in self.findings.values() if finding.found]


def _evidence_text(answer) -> str:
    lines = [f"{claim_mark(claim)} {claim.text}" for claim in answer.claims]
    lines += [
        f"{item.id}: {item.concept}, {item.kind.replace('_', ' ')}: {value_text(item)}" for item in answer.evidence
    ]
    lines.append(f"confidence {answer.confidence:.2f}")
    return "\n".join([*lines, *([f"experts: {gates_text(answer.gates)}"] if answer.gates else [])])


def _bubble(title: str, content: str, status: str | None) -> dict:
    metadata = {"title": title, **({"status": status} if status else {})}
    return {"role": "assistant", "content": content, "metadata": metadata}


def _shrunk(pixels):
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((SHOWN_PX, SHOWN_PX))
    return np.asarray(picture)
