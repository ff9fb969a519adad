"""Calls of tools that a request forces: a model of random weights, which would never write one, writes calls that a client can make."""
import array
import json
import os
import random
import shutil
import struct

import guardian
from cluster import ANY, PREFILL_DECODE, SHARED, Cluster, manifest, need, pools

TOKENIZER = need(os.path.join(SHARED, "models/minimind2-small"))  # its template takes tools
HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, VOCAB = 64, 2, 4, 2, 128, 6400


def write_model():
    folder = guardian.folder("baton-e2e-model-")
    for name in ["tokenizer.json", "tokenizer_config.json", "config.json"]:
        shutil.copyfile(os.path.join(TOKENIZER, name), os.path.join(folder, name))
    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    config.update(hidden_size=HIDDEN, intermediate_size=FFN, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HIDDEN // HEADS,
                  num_hidden_layers=LAYERS, max_position_embeddings=2048, dtype="float32")
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f)
    kv = HIDDEN // HEADS * KV_HEADS
    shapes = {"model.embed_tokens.weight": [VOCAB, HIDDEN], "model.norm.weight": [HIDDEN]}
    for i in range(LAYERS):
        layer = "model.layers.%d." % i
        shapes.update({layer + "input_layernorm.weight": [HIDDEN], layer + "post_attention_layernorm.weight": [HIDDEN],
                       layer + "self_attn.q_proj.weight": [HIDDEN, HIDDEN], layer + "self_attn.k_proj.weight": [kv, HIDDEN],
                       layer + "self_attn.v_proj.weight": [kv, HIDDEN], layer + "self_attn.o_proj.weight": [HIDDEN, HIDDEN],
                       layer + "mlp.gate_proj.weight": [FFN, HIDDEN], layer + "mlp.up_proj.weight": [FFN, HIDDEN],
                       layer + "mlp.down_proj.weight": [HIDDEN, FFN]})
    rng, header, data = random.Random(5), {}, array.array("f")
    for name, shape in shapes.items():
        begin = 4 * len(data)
        data.extend([1.0] * HIDDEN if len(shape) == 1 else (rng.uniform(-0.2, 0.2) for _ in range(shape[0] * shape[1])))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, 4 * len(data)]}
    head = json.dumps(header).encode()
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + data.tobytes())
    return folder


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
    "required": ["place", "days"], "additionalProperties": False, "$defs": {"place": {"enum": ["Zürich", "a \"b\"", "</tool_call>"]}}}}},
         {"type": "function", "function": {"name": "stop", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}]
BODY = {"model": "default", "messages": [{"role": "user", "content": "How is it outside?"}], "tools": TOOLS, "max_tokens": 400}


def check(calls, finish):
    assert finish == "tool_calls", (calls, finish)
    for call in calls:
        arguments = json.loads(call["arguments"])
        if call["name"] == "weather":
            assert list(arguments) == ["place", "days"] and 1 <= arguments["days"] <= 14, calls
            assert arguments["place"] in ["Zürich", "a \"b\"", "</tool_call>"], calls
        else:
            assert call["name"] == "stop" and arguments == {}, calls


def said(c, body):
    """The calls of an answer, which a stream tells alike."""
    reply = c.post("/v1/chat/completions", body)
    assert reply.status == 200, (body, reply.body)
    choice = reply.json()["choices"][0]
    calls = [call["function"] for call in choice["message"].get("tool_calls", [])]
    streamed, finish = [], None
    for _, event in c.stream("/v1/chat/completions", body):
        for part in event["choices"]:
            finish = part["finish_reason"] or finish
            for call in part["delta"].get("tool_calls", []):
                if call["index"] == len(streamed):
                    streamed.append({"name": call["function"]["name"], "arguments": ""})
                streamed[-1]["arguments"] += call["function"]["arguments"]
    assert (streamed, finish) == (calls, choice["finish_reason"]), (body, choice, streamed, finish)
    return choice, calls


def answers(c):
    got = []
    for seed in range(8):
        drawn = dict(BODY, temperature=1.2, seed=seed)
        choice, calls = said(c, dict(drawn, tool_choice="required", parallel_tool_calls=False))
        check(calls, choice["finish_reason"])
        assert len(calls) == 1 and choice["message"]["content"] is None, choice
        named, one = said(c, dict(drawn, tool_choice={"type": "function", "function": {"name": "stop"}}))
        assert one == [{"name": "stop", "arguments": "{}"}] and named["finish_reason"] == "tool_calls", named
        several, some = said(c, dict(drawn, tool_choice="required"))
        check(some, several["finish_reason"]) if several["finish_reason"] != "length" else None
        format = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
        either, some_calls = said(c, dict(drawn, response_format=format, parallel_tool_calls=False))
        assert some_calls or json.loads(either["message"]["content"]) in ["yes", "no"], either
        got.append((calls, one, some, some_calls, either["message"]["content"]))
    return got


MODEL = write_model()
SMALL = {"memory": "16Mi"}
with Cluster(MODEL, manifest(pools(ANY, kv=SMALL))) as c:
    want = answers(c)
    free, none = said(c, dict(BODY, temperature=0, max_tokens=20))
    assert not none and free["finish_reason"] == "length", "what this model says when it may: no calls"
    names = {call["name"] for calls, _, some, *_ in want for call in calls + some}
    assert names == {"weather", "stop"}, names
    c.wait_idle(5)
print("passed: forced calls are calls", flush=True)
with Cluster(MODEL, manifest(pools(PREFILL_DECODE, kv=SMALL))) as c:
    assert answers(c) == want
    c.wait_idle(5)
print("passed: the same from prefill and decode workers")
