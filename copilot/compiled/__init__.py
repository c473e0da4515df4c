"""mini compiled for CPUs: its language model as an ONNX graph in 8 bits, its tower by OpenVINO, no torch.

`engine.py` is what the copilot talks to; below it `language.py` (the model and its cache), `eyes.py` (pictures),
`prompts.py` (chat to token ids), `router.py` (which experts speak), and `graph.py` over `weights.py`, which write the
graph once. torch's engine (`copilot/torch_engine.py`) is the reference that this one is held against.
"""
