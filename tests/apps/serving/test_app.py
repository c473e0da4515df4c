"""What is served beside completions, to whom, and what is kept from everybody else."""

import asyncio
import io

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from slidekick.apps.serving.app import Watched
from slidekick.apps.serving.guard import Keys
from slidekick.data.errors import InputError

URL = "/v1/chat/completions"
KEY = "k" * 16


def test_models_are_listed(serve):
    client = serve()
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["scripted"]
    assert client.get("/v1/models/scripted").json()["object"] == "model"
    assert client.get("/v1/models/gpt").status_code == 404


def test_masks_are_found_and_what_is_not_there_is_said(serve, data_uri):
    client = serve()
    picture = {"image_url": {"url": data_uri(), "mpp": 0.5}}
    told = client.post("/v1/segment", json={**picture, "concepts": ["nucleus", "gland"]}).json()
    nucleus, gland = told["findings"]
    assert (nucleus["found"], nucleus["measurement"]["count"]) == (True, 2)
    assert (gland["found"], gland["rle"]) == (False, None)
    assert (told["size"], told["mpp"]) == ([30, 40], [0.5, 0.5])
    shapes = client.post("/v1/segment", json={**picture, "concepts": ["nucleus"], "format": "geojson"}).json()
    assert len(shapes["geojson"]["features"]) == 2
    for wrong in ({"concepts": ["gland"]}, {**picture, "concepts": []}, {**picture, "concepts": ["x"], "format": "png"},
                  {**picture, "slide": {"name": "slides/a b.png"}, "concepts": ["gland"]}):  # fmt: skip
        assert client.post("/v1/segment", json=wrong).status_code == 400


def test_files_of_opened_folders_are_listed_and_shown_in_tiles(serve, opened):
    client = serve()
    assert client.get("/v1/files").json()["data"] == ["slides/a b.png"]
    assert client.get("/v1/slides/slides/a b.png/facts").json()["width"] == 300
    assert 'Width="300"' in client.get("/dzi/slides/a b.png.dzi").text
    told = client.get("/dzi/slides/a b.png_files/9/1_0.jpeg")
    assert (told.status_code, told.headers["content-type"]) == (200, "image/jpeg")
    shown = np.asarray(Image.open(io.BytesIO(told.content)))
    assert shown.shape == (200, 44, 3)
    whole = np.asarray(Image.open(opened / "a b.png"))[:, 256:]
    assert np.abs(shown.astype(int) - whole).mean() < 25, "noise, through JPEG"
    for place in ("10/0_0", "9/2_0", "9/0_5"):
        assert client.get(f"/dzi/slides/a b.png_files/{place}.jpeg").status_code == 404


@pytest.mark.parametrize(
    "path",
    ["slides/../secret.png", "slides/%2e%2e/secret.png", "slides/..%2fsecret.png", "slides/%2e%2e%2fsecret.png",
     "slides/%252e%252e/secret.png", "..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "slides/a%00b.png",
     "slides//etc/passwd", "slides/..%5csecret.png", "slides/%c0%ae%c0%ae/secret.png"],
)  # fmt: skip
def test_no_address_leads_out_of_the_folder(serve, opened, path):
    (opened.parent / "secret.png").write_bytes((opened / "a b.png").read_bytes())
    client = serve()
    for address in (f"/dzi/{path}.dzi", f"/dzi/{path}_files/0/0_0.jpeg", f"/v1/slides/{path}/facts"):
        told = client.get(address)
        assert told.status_code in (400, 404), address
        assert str(opened.parent) not in told.text


ADDRESSES = (
    "http://127.0.0.1:8000/secret.png", "http://localhost/x.png", "http://169.254.169.254/latest/meta-data",
    "https://example.org/x.png", "ftp://example.org/x.png", "file:///etc/passwd", "//example.org/x.png",
    "gopher://127.0.0.1:6379/_", "HTTP://127.0.0.1/", "http://[::1]/", "http://2130706433/", "/etc/passwd",
    "data:text/html;base64,PGI+", "data:image/svg+xml;base64,PHN2Zz4=", "data:image/png,abc", "data:image/png;base64,!",
    "data:image/png;base64,", "data:image/png;base64,AAAA", "data:,x", "",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_nothing_is_fetched_and_no_other_data_is_read(serve, asked, monkeypatch, address):
    import socket

    def refuse(*_):
        raise AssertionError("a connection was tried")

    client = serve()
    monkeypatch.setattr(socket.socket, "connect", refuse)
    body = asked()
    body["messages"][0]["content"][0]["image_url"]["url"] = address
    told = client.post(URL, json=body)
    assert told.status_code == 400
    assert "/tmp" not in told.text


def test_keys_are_asked_for_but_for_health(serve, asked):
    client = serve(keys={"lab": KEY})
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/metrics").status_code == 200
    for headers in ({}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}, {"Authorization": f"Bearer {KEY}x"},
                    {"Authorization": "Bearer "}):  # fmt: skip
        refused = client.get("/v1/models", headers=headers)
        assert (refused.status_code, refused.json()["error"]["type"]) == (401, "authentication_error")
    assert client.post(URL, json=asked(), headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_keys_are_compared_in_constant_time_and_kept_as_digests(monkeypatch):
    import hmac

    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    keys = Keys({"a": "a" * 16, "b": "b" * 16, "c": "c" * 16})
    assert keys.owner("a" * 16) == "a"
    assert len(compared) == 3, "also after the right one"
    assert "aaaa" not in repr(vars(keys))
    assert keys.owner("\ud800") is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lab short", "fewer than 16"),
        ("lab", "entry 1"),
        ("", "holds no key"),
        (f"a {KEY}\na {KEY}x", "two of one owner"),
    ],
)
def test_a_file_of_keys_is_read_strictly(tmp_path, text, told):
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(InputError, match=told):
        Keys.read(file)
    file.write_text(f"# lab\nlab {KEY}\n\n")
    assert Keys.read(file).owner(KEY) == "lab"


def test_each_key_has_its_own_rate(serve, asked):
    client = serve(keys={"a": "a" * 16, "b": "b" * 16}, a_minute=2)
    first, second = ({"Authorization": f"Bearer {one * 16}"} for one in "ab")
    assert [client.post(URL, json=asked(), headers=first).status_code for _ in range(3)] == [200, 200, 429]
    refused = client.post(URL, json=asked(), headers=first)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert client.post(URL, json=asked(), headers=second).status_code == 200
    assert client.get("/v1/models", headers=first).status_code == 200, "looking costs nothing"


def test_a_body_that_is_too_large_is_refused_stated_or_not(serve, asked):
    client = serve(body=2000)
    assert client.post(URL, json=asked()).status_code == 413

    def endless():
        for _ in range(100):
            yield b" " * 1000

    told = client.post(URL, content=endless(), headers={"Content-Type": "application/json"})
    assert (told.status_code, told.json()["error"]["type"]) == (413, "invalid_request_error")
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": NaN}', b"\xff\xfe", b"[" * 50_000])
def test_a_body_that_is_no_request_gets_one_line(serve, body):
    told = serve().post(URL, content=body, headers={"Content-Type": "application/json"})
    assert told.status_code == 400
    assert "\n" not in told.json()["error"]["message"]


def test_a_page_elsewhere_reaches_nothing(serve, asked):
    client = serve()
    assert client.get("/v1/files", headers={"Host": "evil.example"}).status_code == 400
    other = client.post(URL, content=b"{}", headers={"Content-Type": "text/plain", "Origin": "http://evil.example"})
    assert other.status_code == 400, "no form of another page is taken for JSON"
    told = client.get("/v1/files", headers={"Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in told.headers
    assert told.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in told.headers["content-security-policy"]


def test_metrics_count_what_was_done(serve, asked):
    client = serve()
    client.post(URL, json=asked())
    client.get("/v1/models/none")
    read = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }
    assert read["slidekick_requests_total", "/v1/chat/completions", "200"] == 1 or (
        read["slidekick_requests_total", "200", "/v1/chat/completions"] == 1
    )
    assert read["slidekick_tool_calls_total", "count"] == 1
    assert read["slidekick_waiting",] == 0
    assert read["slidekick_request_seconds_count", "/v1/chat/completions"] == 1


def test_a_caller_who_left_before_the_answer_is_counted(serve):
    client = serve()

    async def silent(scope, receive, send):
        """As Starlette ends when the caller is gone: nothing is sent."""

    scope = {"type": "http", "app": client.app, "method": "GET", "path": "/healthz", "headers": [], "client": None}
    asyncio.run(Watched(silent)(scope, None, None))
    lines = client.get("/metrics").text.splitlines()
    assert any('status="499"' in line and line.endswith(" 1.0") for line in lines)


def test_errors_name_files_without_their_folders(serve, opened):
    (opened / "cut.png").write_bytes((opened / "a b.png").read_bytes()[:400])
    (opened / "empty.svs").touch()
    client = serve()
    for name in ("cut.png", "empty.svs"):
        content = [{"type": "slide", "slide": {"name": f"slides/{name}"}}, {"type": "text", "text": "Which organ?"}]
        asked = {"model": "scripted", "messages": [{"role": "user", "content": content}]}
        for reply in (client.get(f"/dzi/slides/{name}.dzi"), client.post(URL, json=asked)):
            assert reply.status_code == 400
            assert name in reply.text
            assert str(opened.parent) not in reply.text


def test_what_the_server_fails_at_is_counted_and_kept_safe_as_all_else(serve, asked, monkeypatch):
    client = serve()
    monkeypatch.setattr(client.server.eyes, "look", lambda picture: 1 / 0)
    reply = client.post(URL, json=asked())
    assert reply.status_code == 500
    assert reply.json()["error"]["type"] == "server_error"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    counted = [line for line in client.get("/metrics").text.splitlines() if 'status="500"' in line]
    assert any(line.endswith(" 1.0") for line in counted)


def test_a_survey_that_is_in_use_outlives_its_place_on_the_shelf(opened, monkeypatch):
    from types import SimpleNamespace

    from slidekick.apps.serving import pictures

    class Survey(SimpleNamespace):
        pass

    monkeypatch.setattr(pictures, "SURVEYS", 1)
    monkeypatch.setattr(pictures, "is_slide", lambda slide, mpp: True)
    copilot = SimpleNamespace(survey=lambda slide: Survey(slide=slide))
    eyes, kept = pictures.Eyes(copilot, None), []
    for number in range(3):
        file = opened / f"{number}.png"
        file.write_bytes((opened / "a b.png").read_bytes())
        kept.append(eyes.read(file, pictures.SlidePart(name=file.name)))
    assert [survey.slide.thumbnail(10).shape for survey in kept] == [(7, 10, 3)] * 3
    assert eyes.read(opened / "2.png", pictures.SlidePart(name="2.png")) is kept[2]
