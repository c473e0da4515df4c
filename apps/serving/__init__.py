"""The server: chat completions, masks, and slides in tiles, over HTTP. `slidekick serve` starts it."""
