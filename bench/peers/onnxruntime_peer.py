#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
"""ONNX Runtime: its contributed operator MoE, which takes router logits. float32 is what it has on the CPU."""
import os
import tempfile

from serve import Function, Skip, serve, torch


def session(layer):
    try:
        import onnx
        import onnxruntime
        from onnx import TensorProto, helper
    except ImportError as missing:
        raise Skip(f"{missing.name} is not installed")
    experts, hidden, width = layer.experts, layer.hidden, layer.intermediate

    def stored(name, shape, matrices, folder):  # beside the graph, which cannot hold more than 2 GiB
        with open(os.path.join(folder, name), "wb") as file:
            for matrix in matrices:
                matrix.contiguous().numpy().tofile(file)
        proto = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        proto.external_data.add(key="location", value=name)
        return proto

    # its SwiGLU wants the rows of gate and up to alternate
    alternating = (e.view(2, width, hidden).transpose(0, 1).reshape(2 * width, hidden) for e in layer.gate_up)
    with tempfile.TemporaryDirectory() as folder:
        node = helper.make_node(
            "MoE", ["x", "logits", "gate_up", "", "down"], ["y"], domain="com.microsoft", k=layer.k,
            activation_type="swiglu", swiglu_fusion=1, activation_alpha=1.0, activation_beta=0.0,
            normalize_routing_weights=1)
        tensor = lambda name, columns: helper.make_tensor_value_info(name, TensorProto.FLOAT, ["tokens", columns])
        graph = helper.make_graph([node], "moe", [tensor("x", hidden), tensor("logits", experts)], [tensor("y", hidden)],
                                  [stored("gate_up", layer.gate_up.shape, alternating, folder),
                                   stored("down", layer.down.shape, layer.down, folder)])
        model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17),
                                                                      helper.make_opsetid("com.microsoft", 1)])
        path = os.path.join(folder, "moe.onnx")
        onnx.save(model, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = layer.threads
        options.log_severity_level = 3
        return onnxruntime.__version__, onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def prepare(layer):
    if layer.name != "float32":
        raise Skip(f"its MoE operator has no {layer.name} on the CPU")
    version, moe = session(layer)

    def call(x):
        y = moe.run(None, {"x": x.numpy(), "logits": (x @ layer.router.T).numpy()})
        return torch.from_numpy(y[0])

    return {"onnxruntime-MoE": (version, Function(call))}


if __name__ == "__main__":
    serve(prepare)
