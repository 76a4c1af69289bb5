"""The transformers engine: language models decoded together inside Triton's Python backend.

`settings` what the model repository asks for, `request` what a client asks for, `prompt` and `template` how that
becomes token ids, `loading` the model, `window` and `slots` the batches, `sampling` how a token is drawn, `scheduler`
who decodes when, `sender` and `text` how the answer goes out, `metrics` what is counted. Only `model.py` beside this
folder and `reply` know Triton.
"""
