"""Writes a model's weights as one pytorch_model.bin: one_file.py MODEL FOLDER

For converters that read this file alone. Takes safetensors (read by its own layout, without the package) or pickled
shards. Runs with the image's Python (3.8 and later) and its PyTorch.
"""

import json
import mmap
import shutil
import signal
import struct
import sys
from pathlib import Path

import numpy as np
import torch

TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.int16, "I64": np.int64, "I32": np.int32,
         "I16": np.int16, "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}  # fmt: skip


def main(model, folder):
    source, target = Path(model), Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    weights = {}
    files = sorted(source.glob("*.safetensors"))
    for path in files or sorted(source.glob("pytorch_model*.bin")):
        print(f"reading {path.name}", flush=True)
        weights.update(safetensors(path) if files else torch.load(str(path), map_location="cpu"))
    if not weights:
        print(f"slipway: {source} holds neither safetensors nor pytorch_model.bin")
        return 1
    print(f"writing {len(weights)} tensors", flush=True)
    new = target / "pytorch_model.bin.new"
    try:
        torch.save(weights, str(new))
        shutil.copyfile(str(source / "config.json"), str(target / "config.json"))
        new.replace(target / "pytorch_model.bin")
    finally:
        if new.exists():  # stopped, or the disk is full: half of it is as large as the model
            new.unlink()
    return 0


def safetensors(path):
    """The tensors of one file, by name. Layout: 8 bytes of header length, a JSON header, then the values."""
    found = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length].decode())
        for name, told in header.items():
            if name == "__metadata__":
                continue
            start, end = (8 + length + offset for offset in told["data_offsets"])
            values = torch.from_numpy(np.frombuffer(data[start:end], TYPES[told["dtype"]]).copy())
            values = values.view(torch.bfloat16) if told["dtype"] == "BF16" else values
            found[name] = values.reshape(told["shape"])
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that nothing half done is left
    sys.exit(main(sys.argv[1], sys.argv[2]))
