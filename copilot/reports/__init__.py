"""Draft reports: what was measured and read, written by a form, edited by a person, and taken away in five formats.

`report.draft_report` drafts, `forms` writes the words, `edits` keeps what a person changed, `files` writes HTML, DOCX,
Markdown, JSON and FHIR. `case` is a report on several slides of a patient.
"""
