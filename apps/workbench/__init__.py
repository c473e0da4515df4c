"""The workbench: a chat beside the slide, in a browser. `slidekick chat` opens it."""
