#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""Writes the seed corpora corpus/safetensors and corpus/checkpoint: small valid and almost valid files."""
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "corpus"
SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2,
         "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8}


def save(folder, name, data):
    path = HERE / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors(name, *args, **kwargs):
    save("safetensors", name, file_of(*args, **kwargs))


w = entry("F32", [2, 3], 0, 24)
safetensors("empty_header", {})
safetensors("metadata", {"__metadata__": {"format": "pt"}, "w": w}, bytes(24))
for part, dtypes in (("narrow", list(SIZES)[:8]), ("wide", list(SIZES)[8:])):
    header, data = {}, b""
    for dtype in dtypes:
        header[dtype.lower()] = entry(dtype, [3], len(data), len(data) + 3 * SIZES[dtype])
        data += bytes(1 if dtype == "BOOL" else 64 + i for i in range(3 * SIZES[dtype]))
    safetensors("dtypes_" + part, header, data)
safetensors("scalar", {"s": entry("F64", [], 0, 8)}, struct.pack("<d", 0.5))
safetensors("empty_tensors", {"a": entry("I64", [0, 4], 0, 0), "b": entry("U8", [2], 0, 2)}, b"\1\2")
safetensors("misaligned", {"a": entry("U8", [1], 0, 1), "w": entry("F32", [2], 1, 9)}, bytes(9))
safetensors("padded", json.dumps({"w": w}).encode() + b"     ", bytes(24))
safetensors("escaped_name", b'{"\\u00e4\\"\\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")
safetensors("truncated", {"w": w}, bytes(20))
safetensors("trailing", {"w": w}, bytes(28))
safetensors("hole", {"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 3, 5)}, bytes(5))
safetensors("overlap", {"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 3, 7)}, bytes(7))
safetensors("begin_after_end", {"w": entry("U8", [4], 4, 0)}, bytes(4))
safetensors("size_mismatch", {"w": entry("F64", [2, 3], 0, 24)}, bytes(24))
safetensors("overflow", {"w": entry("U8", [2**32, 2**32], 0, 0)})
safetensors("huge_dimension", {"w": entry("U8", [2**63], 0, 4)}, bytes(4))
safetensors("huge_offset", {"w": entry("U8", [4], 2**64 - 4, 2**64 - 1)}, bytes(4))
safetensors("negative", {"w": entry("U8", [-1], 0, 4)}, bytes(4))
safetensors("float_dimension", {"w": entry("U8", [4.0], 0, 4)}, bytes(4))
safetensors("unknown_dtype", {"w": entry("F4", [4], 0, 4)}, bytes(4))
safetensors("unknown_key", {"w": dict(w, stride=[3, 1])}, bytes(24))
safetensors("twice", b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
                     b'"w":{"dtype":"I8","shape":[1],"data_offsets":[0,1]}}', b"x")
safetensors("length_beyond_file", {"w": w}, bytes(24), length=2**64 - 8)
safetensors("nested", b'{"w":' + b"[" * 200)
safetensors("not_utf8", b'{"\xff":1}')

index = {"metadata": {"total_size": 24}, "weight_map": {"a": "model-1.safetensors", "b": "sub/model-2.safetensors"}}
config = {"model_type": "mixtral", "num_local_experts": 8, "rms_norm_eps": 1e-5, "norm": True, "head_dim": None,
          "mlp_only_layers": [0], "layer_types": ["full"], "text_config": {"hidden_size": 64}}
save("checkpoint", "index", json.dumps(index).encode())
save("checkpoint", "config", json.dumps(config).encode())
save("checkpoint", "parent", json.dumps({"weight_map": {"a": "../b"}}).encode())
save("checkpoint", "absolute", json.dumps({"weight_map": {"a": "/b"}}).encode())
save("checkpoint", "dots", json.dumps({"weight_map": {"a": "./x/../..", "b": ".", "c": "x//y/"}}).encode())
save("checkpoint", "nul", json.dumps({"weight_map": {"a": "b\0c"}}).encode())
save("checkpoint", "python_numbers", b'{"a":NaN,"b":[-Infinity,Infinity],"c":"NaN\\"NaN"}')
save("checkpoint", "twice", b'{"a":1,"a":2}')
save("checkpoint", "nested", b"[" * 100)
save("checkpoint", "integers", b'{"a":18446744073709551615,"b":-9223372036854775808,"c":2147483648,"d":1e300}')
