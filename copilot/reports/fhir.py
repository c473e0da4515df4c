"""A report as FHIR: a `DiagnosticReport` (R4, https://hl7.org/fhir/R4/diagnosticreport.html) with its measurements.

Preliminary, without a patient: whoever takes it in names the subject. Each concept is a contained `Observation` whose
components are what was measured, in UCUM units; the page and the words are its presented forms.
"""

from __future__ import annotations

import base64
import re

from slidekick.copilot.answer import Evidence
from slidekick.copilot.reports.pages import to_html
from slidekick.copilot.reports.report import Report

_LOINC = {"system": "http://loinc.org", "code": "11526-1", "display": "Pathology study"}
_PATHOLOGY = {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "PAT"}
_UCUM = {  # our unit -> UCUM's code, how people write it, factor
    "objects": ("{objects}", "objects", 1.0),
    "fraction": ("%", "%", 100.0),
    "um2": ("um2", "µm²", 1.0),
    "um": ("um", "µm", 1.0),
    "px": ("{pixels}", "pixels", 1.0),
    "1/mm2": ("/mm2", "/mm²", 1.0),
    "probability": ("1", "probability", 1.0),
}
_DEVICE = "slidekick"


def to_fhir(report: Report) -> dict:
    """JSON-ready `DiagnosticReport`."""
    of = {item.id: item for item in report.evidence}
    observations = [
        _observation(number, fact.measurement.concept, [of[name] for name in fact.evidence if name in of], report)
        for number, fact in enumerate(report.facts, 1)
    ]
    said = " ".join(sentence.text for sentence in report.reading)
    conclusion = {"conclusion": f"{report.status}, read by a model and not measured: {said}"} if said else {}
    return {
        "resourceType": "DiagnosticReport",
        "language": "en",
        "contained": [_device(report), *observations],
        "status": "preliminary",
        "category": [{"coding": [_PATHOLOGY]}],
        "code": {"coding": [_LOINC], "text": report.title},
        "issued": report.created,
        "result": [{"reference": f"#{one['id']}"} for one in observations],
        **conclusion,
        "presentedForm": [
            _attached("text/html", to_html(report), report),
            _attached("text/markdown", report.text, report),
        ],
    }


def _device(report: Report) -> dict:
    versions = [{"type": {"text": name}, "value": version} for name, version in report.versions.items() if version]
    named = {"deviceName": [{"name": "Slidekick", "type": "user-friendly-name"}], "version": versions}
    return {"resourceType": "Device", "id": _DEVICE, **named, "note": [{"text": report.notice}]}


def _observation(number: int, concept: str, evidence: list[Evidence], report: Report) -> dict:
    found = [item for item in evidence if item.value is not None]
    there = {"valueBoolean": any(item.found for item in found)} if found else {"dataAbsentReason": _UNKNOWN}
    return {
        "resourceType": "Observation",
        "id": f"measured-{number}",
        "status": "preliminary",
        "code": {"text": concept},
        "issued": report.created,
        **there,
        "method": {"text": "found by a text-prompted segmentor and measured from its mask"},
        "device": {"reference": f"#{_DEVICE}"},
        **({"component": [_component(item) for item in found]} if found else {}),
    }


_UNKNOWN = {"text": "not in the segmentor's vocabulary, so it was not looked for"}


def _component(item: Evidence) -> dict:
    code, unit, factor = _UCUM[item.unit]
    value = float(f"{item.value * factor:.6g}")
    amount = {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": code}
    return {"id": item.id, "code": {"text": re.sub("_", " ", item.kind)}, "valueQuantity": amount}


def _attached(kind: str, text: str, report: Report) -> dict:
    data = base64.b64encode(text.encode("utf-8")).decode("ascii")
    return {"contentType": kind, "data": data, "title": f"{report.title} ({report.status})", "creation": report.created}
