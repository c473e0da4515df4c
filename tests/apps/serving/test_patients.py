"""What the server tells of slides whose metadata name their patient: all but that."""

import shutil
from pathlib import Path

from marked_slides import told, write_marked


def test_no_route_tells_whose_tissue_it_is(serve, opened, asked, tmp_path, caplog):
    (tmp_path / "marked").mkdir()
    paths = [Path(shutil.copy(path, opened)) for path in write_marked(tmp_path / "marked")]
    broken = opened / "h.svs"
    broken.write_bytes((opened / "c.svs").read_bytes()[:9000])
    client = serve()
    caplog.clear()
    caplog.set_level("DEBUG")
    heard = []
    for path in (*paths, broken):
        name = f"slides/{path.name}"
        slide, words = (
            {"type": "slide", "slide": {"name": name}},
            {"type": "text", "text": "How many nuclei are there?"},
        )
        messages = [{"role": "user", "content": [slide, words]}]
        heard += [client.get(f"/v1/slides/{name}/facts"), client.get(f"/dzi/{name}.dzi")]
        heard += [client.get(f"/dzi/{name}_files/{level}/0_0.jpeg") for level in (0, 8)]
        heard.append(client.post("/v1/chat/completions", json=asked() | {"messages": messages}))
        assert heard[-1].status_code == 200 or path == broken, heard[-1].text
    heard += [client.get(place) for place in ("/v1/files", "/metrics", "/healthz", "/v1/models")]
    found = [one for reply in heard for one in told(reply.content + repr(reply.headers).encode(), "a reply")]
    pictures = [one for reply in heard if reply.url.path.endswith("jpeg") and reply.status_code == 200
                for one in told(reply.content, "tile.jpeg")]  # fmt: skip
    assert (found, pictures, told(caplog.text.encode(), "logs")) == ([], [], [])
    assert sum(reply.status_code == 200 for reply in heard) > 25
