"""Forms: how a report is asked for and worded. One Jinja file each, which a user may write too.

A form begins with YAML between two lines of `---`: `title`, `questions` (name -> words, or words for a picture and for
a slide) that the model is asked, and `checklist: true` where a checklist is gone through. What follows is a template
of Markdown (headings, lists, bold) that is given

    read        name of a question -> `report.Reading`: `sentences`, `short`, `confidence`
    findings    measured sentences
    elements    of the checklist, each with `name`, `value`, `kind` ("measured", "read" or "open")
    details     what the user stated: `organ`, `specimen`, `clinical`; "" where nothing was

and the filter `cited`, which writes a sentence with its evidence, `[e3 e4]`. A question whose name is a stated detail
is not asked. Templates run in Jinja's sandbox: a form from elsewhere can word a report, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from slidekick.data.errors import InputError, first_line

FORMS = ("general", "biopsy", "synoptic", "cytology")
DETAILS = ("organ", "specimen", "clinical")
SUFFIX = ".md.jinja"
_FOLDER = Path(__file__).parent / "templates" / "forms"
_PARTS = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
MAX_FORM, MAX_DETAIL = 100_000, 400  # characters


@dataclass(frozen=True)
class Form:
    """questions: name -> words for a picture and words for a slide. body: the template's text."""

    name: str
    title: str
    questions: Mapping[str, tuple[str, str]]
    checklist: bool
    body: str

    @cached_property
    def _template(self):
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.filters["cited"] = cited
        try:
            return environment.from_string(self.body)
        except TemplateError as error:
            raise InputError(f"form {self.name}: {error}; mend the template") from error

    def asks(self, slide: bool, details: Mapping[str, str]) -> dict[str, str]:
        """Name -> question, of those that the stated details leave to the model."""
        return {name: words[slide] for name, words in self.questions.items() if not details.get(name)}

    def write(self, **values) -> str:
        """The report's words, in Markdown. Raises InputError where the template cannot be filled."""
        from jinja2 import TemplateError

        try:
            text = self._template.render(**values)
        except (TemplateError, TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
            raise InputError(f"form {self.name}: {error}; mend the template") from error
        return tidy(text)


def load_form(name: str) -> Form:
    """One of `FORMS`, or a file. Raises InputError for what is neither, and for a file that is no form."""
    if name in FORMS:
        return _parsed(name, (_FOLDER / f"{name}{SUFFIX}").read_text(encoding="utf-8"))
    path = Path(name)
    if not path.is_file():
        raise InputError(f"no form {name!r}; give one of {', '.join(FORMS)}, or a file ending in {SUFFIX}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({type(error).__name__}); give a form") from error
    if len(text) > MAX_FORM:
        raise InputError(f"{path}: {len(text)} characters are no form; give one of at most {MAX_FORM}")
    return _parsed(path.name.removesuffix(SUFFIX), text)


def check_details(details: Mapping[str, str] | None) -> dict[str, str]:
    """All of `DETAILS`, "" where nothing was stated. Raises InputError for others, and for long ones."""
    given = {key: " ".join(str(value or "").split()) for key, value in (details or {}).items()}
    for key, value in given.items():
        if key not in DETAILS or len(value) > MAX_DETAIL:
            raise InputError(f"{key}: {value[:40]!r}; state {', '.join(DETAILS)}, at most {MAX_DETAIL} characters each")
    return dict.fromkeys(DETAILS, "") | given


def cited(sentence) -> str:
    """A sentence as a report has it: with the ids of its evidence, or the note that none stands behind it."""
    words = " ".join(sentence.text.split())
    if sentence.evidence:
        return f"{words} [{' '.join(sentence.evidence)}]"
    return f"{words} (read, not measured; confidence {sentence.confidence:.2f})"


def tidy(text: str) -> str:
    """Lines without white space at their ends, one empty line between paragraphs."""
    lines = "\n".join(line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip() + "\n"


def _parsed(name: str, text: str) -> Form:
    import yaml

    parts = _PARTS.match(text)
    try:
        head = yaml.safe_load(parts[1]) if parts else None
    except yaml.YAMLError as error:
        raise InputError(f"form {name}: the head is no YAML ({first_line(error)}); mend it") from error
    questions = head.get("questions", {}) if isinstance(head, dict) else None
    if not isinstance(questions, dict) or not isinstance(head.get("title"), str):
        raise InputError(f"form {name}: begin with `title` and `questions` between two lines of ---")
    form = Form(
        name,
        head["title"],
        {k: _words(name, k, v) for k, v in questions.items()},
        bool(head.get("checklist")),
        parts[2],
    )
    form._template  # noqa: B018 - a mistake in it is told now, not after the model was asked
    return form


def _words(form: str, name: str, asked: object) -> tuple[str, str]:
    """(words for a picture, words for a slide)."""
    both = (
        (asked, asked)
        if isinstance(asked, str)
        else (asked.get("picture"), asked.get("slide"))
        if isinstance(asked, dict)
        else ()
    )
    if len(both) != 2 or not all(isinstance(one, str) and one.strip() for one in both):
        raise InputError(f"form {form}: question {name!r} needs words, or words for `picture` and for `slide`")
    return both
