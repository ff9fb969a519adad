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
BODY = {"model": "default", "messages": [{"role": "user", "content": "How is it outside?"}], "tools": TOOLS, "max_tokens": 400,
        "chat_template_kwargs": {"enable_thinking": False}}  # else it may think first, and of random weights thoughts have no end


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


def responses(c, drawn, calls, chat, choice):
    """The same through OpenAI's Responses: the call, and the answer to its result."""
    tools = [dict(t["function"], type="function") for t in TOOLS]
    body = {"input": BODY["messages"], "tools": tools, "tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 400,
            "reasoning": {"effort": "none"}}
    body.update({k: v for k, v in drawn.items() if k != "max_tokens"})
    called = [item for item in c.post("/v1/responses", body).json()["output"]]
    assert [{"name": i["name"], "arguments": i["arguments"]} for i in called] == calls, (called, calls)
    events = [event for _, event in c.stream("/v1/responses", body, done=lambda event: event["type"] == "response.completed")]
    assert [e["sequence_number"] for e in events] == list(range(len(events))), events
    streamed = "".join(e["delta"] for e in events if e["type"] == "response.function_call_arguments.delta")
    assert streamed == calls[0]["arguments"] == events[-1]["response"]["output"][0]["arguments"], events
    more = BODY["messages"] + called + [{"type": "function_call_output", "call_id": called[0]["call_id"], "output": "22 C"}, {"role": "user", "content": "So?"}]
    then = c.post("/v1/responses", dict(body, input=more, tool_choice="auto", parallel_tool_calls=True, max_output_tokens=20)).json()
    text, = [item for item in then["output"] if item["type"] == "message"]
    assert text["content"][0]["text"] == choice["message"]["content"], (then, choice)
    assert (then["status"], then["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"}), then
    count = c.post("/v1/responses/input_tokens", {"input": more, "tools": tools, "reasoning": {"effort": "none"}}).json()["input_tokens"]
    assert count == then["usage"]["input_tokens"], (count, then)


def messages(c):
    """The same through Anthropic's Messages: a call, its result sent back, and an answer whose beginning is given."""
    tools = [{"name": t["function"]["name"], "input_schema": t["function"]["parameters"]} for t in TOOLS]
    turns = [{"role": "user", "content": [{"type": "text", "text": BODY["messages"][0]["content"]}]}]
    for seed in range(4):
        drawn = {"max_tokens": 400, "temperature": 1.2, "seed": seed}
        body = dict(drawn, messages=turns, tools=tools, thinking={"type": "disabled"}, tool_choice={"type": "any", "disable_parallel_tool_use": True})
        reply = c.post("/v1/messages", body).json()
        _, calls = said(c, dict(BODY, **drawn, tool_choice="required", parallel_tool_calls=False))
        block, = reply["content"]
        assert (block["type"], block["name"], block["input"]) == ("tool_use", calls[0]["name"], json.loads(calls[0]["arguments"])), (reply, calls)
        assert reply["stop_reason"] == "tool_use", reply
        result = {"type": "tool_result", "tool_use_id": block["id"], "content": [{"type": "text", "text": "22 C"}]}
        more = turns + [{"role": "assistant", "content": [block]}, {"role": "user", "content": [result, {"type": "text", "text": "So?"}]}]
        then = c.post("/v1/messages", dict(drawn, messages=more, tools=tools, thinking={"type": "disabled"}, max_tokens=20)).json()
        chat = BODY["messages"] + [{"role": "assistant", "tool_calls": [{"type": "function", "function": calls[0]}]},
                                   {"role": "tool", "content": "22 C"}, {"role": "user", "content": "So?"}]
        choice, _ = said(c, dict(BODY, **dict(drawn, max_tokens=20), messages=chat))
        assert then["content"][-1]["text"] == choice["message"]["content"], (then, choice)
        count = c.post("/v1/messages/count_tokens", {"messages": more, "tools": tools, "thinking": {"type": "disabled"}}).json()["input_tokens"]
        assert count == then["usage"]["input_tokens"] + then["usage"]["cache_read_input_tokens"], (count, then)
        responses(c, drawn, calls, chat, choice)
    begun = turns + [{"role": "assistant", "content": "It is <|im_end|> "}]
    tokens = c.post("/tokenize", {"messages": begun, "continue_final_message": True}).json()["tokens"]
    rest = c.post("/tokenize", {"messages": turns}).json()["tokens"]
    assert tokens[:len(rest)] == rest and c.post("/detokenize", {"tokens": tokens[len(rest):]}).json()["content"] == "It is <|im_end|> ", (tokens, rest)
    drawn = {"max_tokens": 20, "temperature": 0}
    said_on = c.post("/v1/messages", dict(drawn, messages=begun)).json()
    raw = c.post("/v1/completions", dict(drawn, prompt=tokens)).json()["choices"][0]["text"]
    assert said_on["content"][-1]["text"].strip() == raw.strip(), (said_on, raw)


MODEL = write_model()
SMALL = {"memory": "16Mi"}
with Cluster(MODEL, manifest(pools(ANY, kv=SMALL))) as c:
    want = answers(c)
    free, none = said(c, dict(BODY, temperature=0, max_tokens=20))
    assert not none and free["finish_reason"] == "length", "what this model says when it may: no calls"
    names = {call["name"] for calls, _, some, *_ in want for call in calls + some}
    assert names == {"weather", "stop"}, names
    messages(c)
    c.wait_idle(5)
print("passed: forced calls are calls, through Anthropic's Messages, too", flush=True)
with Cluster(MODEL, manifest(pools(PREFILL_DECODE, kv=SMALL))) as c:
    assert answers(c) == want
    messages(c)
    c.wait_idle(5)
print("passed: the same from prefill and decode workers")
