"""A page of HTML taken apart."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """Its tags with their attributes, ids, links and words."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.links, self.words = [], set(), set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.ids |= {attrs["id"]} if "id" in attrs else set()
        self.links |= {attrs["href"]} if "href" in attrs else set()

    def handle_data(self, data):
        self.words.append(data)
