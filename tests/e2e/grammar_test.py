"""Answers in a grammar: whatever the model would say, what comes is a sentence of the grammar; the same one from every kind of cluster, alone and all at once; and a
grammar that is none is refused before any worker hears of it."""
import concurrent.futures
import json
import re
import time

from cluster import ANY, PATIENT, PREFILL_DECODE, STORIES, Cluster, manifest, need, pools

need(STORIES)
SMALL = {"memory": "16Mi"}
TOKENS = 200
PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
          "pets": {"type": "array", "items": {"enum": ["cat", "dog", None, 3]}, "maxItems": 3}, "kind": {"type": "boolean"}, "more": {"$ref": "#/$defs/more"}},
          "required": ["name", "age", "pets", "kind", "more"], "additionalProperties": False, "$defs": {"more": {"anyOf": [{"type": "null"}, {"const": "yes \"é\" \\"}]}}}


def is_person(text):
    p = json.loads(text)
    return (list(p) == ["name", "age", "pets", "kind", "more"] and isinstance(p["name"], str) and len(p["name"]) <= 12 and type(p["age"]) is int and 0 <= p["age"] <= 120
            and len(p["pets"]) <= 3 and all(x in ["cat", "dog", None, 3] for x in p["pets"]) and type(p["kind"]) is bool and p["more"] in [None, "yes \"é\" \\"])


CHOICES = ["a \"quoted\" one", "back\\slash", ".*(regex)+", "two\nlines", "naïve – yes", "yes"]
FORMATS = [
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}}, is_person),
    ({"structured_outputs": {"json": PERSON}}, is_person),
    ({"guided_json": json.dumps(PERSON)}, is_person),
    ({"json_schema": PERSON}, is_person),
    ({"structured_outputs": {"regex": "[A-Z][a-z]{2,9} (is|was) [0-9]{1,3}\\."}}, lambda t: re.fullmatch("[A-Z][a-z]{2,9} (is|was) [0-9]{1,3}\\.", t)),
    ({"guided_choice": CHOICES}, lambda t: t in CHOICES),
    ({"structured_outputs": {"grammar": "start: item (\",\" item){0,4}\nitem: \"cat\" | \"dog\" NUMBER\nNUMBER: /[1-9][0-9]?/"}},
     lambda t: re.fullmatch("(cat|dog[1-9][0-9]?)(,(cat|dog[1-9][0-9]?)){0,4}", t)),
]
DRAWS = [{"temperature": 0}, {"temperature": 1, "seed": 5}, {"temperature": 1.5, "seed": 6, "top_p": 0.9}, {"temperature": 1, "seed": 7, "top_k": 20, "logprobs": 2},
         {"temperature": 0.7, "seed": 8, "repetition_penalty": 1.2, "min_p": 0.05}, {"temperature": 0, "min_tokens": 30}, {"temperature": 1, "seed": 9, "n": 2}]
BODIES = [(dict({"model": "default", "prompt": prompt, "max_tokens": TOKENS}, **asked, **draw), check)
          for asked, check in FORMATS for draw, prompt in zip(DRAWS, ["Once upon a time", "Lily likes cats and dogs. " * 6] * 4)]


def answer(c, body):
    """Every choice: what a client gets streamed, which is what it gets at once."""
    plain = c.post("/v1/completions", body)
    assert plain.status == 200, (body, plain.body)
    whole = [(choice["text"], choice["finish_reason"], choice.get("logprobs")) for choice in sorted(plain.json()["choices"], key=lambda x: x["index"])]
    streamed = {}
    for _, event in c.stream("/v1/completions", body):
        assert "error" not in event, event
        for choice in event["choices"]:
            streamed[choice["index"]] = streamed.get(choice["index"], "") + choice["text"]
    assert [text for text, _, _ in whole] == [streamed[i] for i in sorted(streamed)], (body, whole, streamed)
    return whole


def check_all(name, text, want=None):
    with Cluster(STORIES, text) as c, concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda one: answer(c, one[0]), BODIES))
        ended = 0
        for (body, check), choices in zip(BODIES, got):
            for said, finish, _ in choices:
                ended += finish == "stop"
                assert finish == "length" or check(said), (name, body, said, finish)
        assert ended >= 0.9 * sum(len(choices) for choices in got), "too many answers do not come to an end to say anything"
        if want:
            for (body, _), a, b in zip(BODIES, got, want):
                assert a == b, (name, body, a, b)
        plain = {"model": "default", "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}
        assert c.post("/v1/completions", plain).status == 200
        c.wait_idle(5)
    print("passed: %s, %d answers ended inside their grammar" % (name, ended), flush=True)
    return got


def refused(c, asked, *words):
    r = c.post("/v1/completions", dict({"model": "default", "prompt": "a", "max_tokens": 5}, **asked))
    assert r.status == 400, (asked, r.status, r.body)
    for word in words:
        assert word in r.body.decode(), (asked, word, r.body)


def hostile():
    def refs(n, link):
        return {"guided_json": {"$ref": "#/$defs/a0", "$defs": dict({"a%d" % i: link("#/$defs/a%d" % (i + 1)) for i in range(n)}, **{"a%d" % n: {"type": "string"}})}}

    def products(n):
        return {"allOf": [{"anyOf": [{"type": "object", "properties": {"%s%d" % (k, i): {"type": "string"}}, "required": ["%s%d" % (k, i)]} for k in "pq"]} for i in range(n)]}

    yield "references", refs(3000, lambda to: {"$ref": to})
    yield "references in properties", refs(1000, lambda to: {"type": "object", "properties": {"a": {"$ref": to}}})
    yield "references with escapes", {"grammar": "start: %json " + json.dumps(refs(1000, lambda to: {"type": "object", "properties": {"a": {"$ref": to}}})["guided_json"]).replace("$ref", "\\u0024ref")}
    yield "rules", {"grammar": "start: a0\n" + "".join("a%d: \"x\" a%d\n" % (i, i + 1) for i in range(9000)) + "a9000: \"y\"\n"}
    yield "terminals", {"grammar": "start: A0\n" + "".join("A%d: \"x\" A%d | \"y\"\n" % (i, i + 1) for i in range(6000)) + "A6000: \"y\"\n"}
    yield "products", {"guided_json": products(12)}
    yield "products of products", {"guided_json": {"type": "object", "properties": {"a": products(10), "b": products(10)}, "required": ["a", "b"]}}
    yield "no answer", {"guided_json": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}}
    yield "parentheses", {"guided_regex": "(" * 20000 + "a" + ")" * 20000}


WANT = check_all("one that does everything", manifest(pools(ANY, kv=SMALL)))
check_all("prefill and decode", manifest(pools(PREFILL_DECODE, kv=SMALL)), WANT)
check_all("two groups", manifest({"a": {"role": "any", "kv": SMALL, "parallel": {"tensor": 2}}, "b": {"role": "any", "kv": SMALL, "parallel": {"pipeline": 2}}}, gateway=PATIENT), WANT)
with Cluster(STORIES, manifest(pools(ANY, kv=SMALL))) as c:
    refused(c, {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}}, "response_format")
    refused(c, {"structured_outputs": {"regex": "(a"}}, "structured_outputs", "regex")
    refused(c, {"guided_grammar": "root ::= \"a\""}, "guided_grammar", "Lark")
    refused(c, {"guided_regex": "a", "guided_choice": ["a"]})
    refused(c, {"guided_regex": "a" * 300_000})
    # Chains and products that a library follows by recursion or multiplies out.
    for name, asked in hostile():
        begun = time.monotonic()
        r = c.post("/v1/completions", dict({"model": "default", "prompt": "a", "max_tokens": 3}, **asked))
        assert r.status == 400 and b"panic" not in r.body and b"backtrace" not in r.body, (name, r.status, r.body[:300])
        print("%s: %d in %.2f s: %s" % (name, r.status, time.monotonic() - begun, r.json()["error"]["message"][:110]), flush=True)
    # As deep as may be.
    for asked in [{"grammar": "start: a0\n" + "".join("a%d: \"x\" a%d\n" % (i, i + 1) for i in range(1400)) + "a1400: \"y\"\n"},
                  {"grammar": "start: A0\n" + "".join("A%d: \"x\" A%d \"z\" | \"y\"\n" % (i, i + 1) for i in range(1400)) + "A1400: \"y\"\n"},
                  {"guided_json": {"$ref": "#/$defs/a0", "$defs": dict({"a%d" % i: {"type": "object", "properties": {"a": {"$ref": "#/$defs/a%d" % (i + 1)}}, "required": ["a"]}
                                                                       for i in range(480)}, a480={"type": "string"})}}]:
        r = c.post("/v1/completions", dict({"model": "default", "prompt": "a", "max_tokens": 60, "temperature": 1, "seed": 1}, **asked))
        assert r.status in (200, 400), (r.status, r.body[:300])
        print("deep: %d %s" % (r.status, r.body[:160]), flush=True)
    assert c.metric("baton_workers_lost_total") == 0
    # As many different ones at once as nobody keeps.
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda i: c.post("/v1/completions", {"model": "default", "prompt": "a", "max_tokens": 30, "guided_regex": "%d{9}" % i}).json(), range(150)))
    for i, reply in enumerate(said):
        assert reply["choices"][0]["text"] == re.sub(r"\d$", lambda m: m[0] * 9, str(i)), (i, reply)
    c.wait_idle(5)
print("passed: bad grammars are refused, 150 at once are not")
