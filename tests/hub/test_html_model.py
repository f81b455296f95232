"""An exported file computes what the engine computes with weights in eight bits, in every shape of model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nanochat.conversation import Conversation, PartType
from nanochat.inference import Completion, Engine, Grammar, Request, Token
from nanochat.inference.generation import Generation
from nanochat.inference.quantize import rounded
from nanochat.inference.sampling import Draw, choose_by_torch, generator
from nanochat.inference.window import fit_conversation
from nanochat.model import GPT, ModelConfig
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer
from tests.hub import exporting
from tests.hub.exporting import SHAPES, make, random_ids
from tests.hub.html_browser import Probe

ROUNDED = {"rounded rotary tables": replace(SHAPES["heads"], rope_dtype="bfloat16", seq_len=512)}
ALL = SHAPES | ROUNDED
QUESTIONS = ["Who are you?", "a hen asked the fox", "", "12 + 30\n\n", "\N{PILE OF POO} </script>"]


def reference(model: GPT, tokenizer: Tokenizer | None = None) -> Engine:
    """What `quantize="int8"` computes, on any machine."""
    return Engine(rounded(model), tokenizer or exporting.tokenizer())


def exact_tables(model: GPT) -> GPT:
    """With token tables that twelve bits hold, so that nothing differs but the order of sums."""
    with torch.no_grad():
        for name, table in model.named_parameters():
            if name.startswith(("embed.", "bigram.", "value_embeds.")):
                table.copy_((table / table.abs().amax(1, keepdim=True) * 2047).round() / 2**13)
    return model


def asked(engine: Engine, question: str, **how: Any) -> Completion:
    conversation = Conversation.from_dict({"messages": [{"role": "user", "content": question}]})
    ids = fit_conversation(engine.tokenizer, conversation, engine.window, how["max_tokens"])
    return engine.generate([Request(ids, **how)])[0]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shape", ALL)
def test_logits(probe: Probe, shape: str, plain: bool) -> None:
    """Of every position, beyond short windows, too. Token tables are in twelve bits, all else is as the engine's."""
    model = make(ALL[shape], silent=False)
    probe.load(model, exporting.tokenizer(), plain=plain)
    ids = random_ids(min(200, model.config.seq_len), seed=5)
    ids[::7] = torch.arange(len(ids[::7])) % len(SPECIAL_TOKENS) + len(exporting.RANKS)
    with torch.no_grad():
        expected = rounded(model)(ids[None])[0]
    found = torch.tensor(probe.call("logits", ids.tolist()))
    spread = expected.std().item()
    assert (found - expected).abs().max().item() < 0.01 * spread
    # A model whose weights were not rounded says something else.
    assert (model(ids[None])[0] - expected).abs().max().item() > 0.02 * spread


@pytest.mark.parametrize("plain", [False, True])
def test_only_the_tables_differ(probe: Probe, plain: bool) -> None:
    """With tables that twelve bits hold exactly, what is left is rounding."""
    model = exact_tables(make(ALL["pairs, short windows"], silent=False))
    ids = random_ids(200, seed=6)
    with torch.no_grad():
        expected = rounded(model)(ids[None])[0]
    found = torch.tensor(probe.load(model, exporting.tokenizer(), plain=plain).call("logits", ids.tolist()))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def test_tables_in_eight_bits(probe: Probe) -> None:
    """For files that would be too large."""
    model = make(ALL["pairs, short windows"], silent=False)
    ids = random_ids(100, seed=6)
    with torch.no_grad():
        expected = rounded(model)(ids[None])[0]
    found = torch.tensor(probe.load(model, exporting.tokenizer(), table_bits=8).call("logits", ids.tolist()))
    assert 1e-4 < (found - expected).abs().max().item() < 0.1 * expected.std().item()


@pytest.mark.slow
def test_a_large_vocabulary_whose_pairs_are_hashed(probe: Probe) -> None:
    """The hash has more bits than JavaScript's ^ looks at."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {n.to_bytes(3, "big") + b"\xff": 256 + n for n in range(150_000)}
    tokenizer = Tokenizer(ranks)
    model = make(ModelConfig(1, 8, 2, 2, tokenizer.vocab_size, 64, "modern", windows="L", bigram=99_991))
    ids = torch.randint(0, len(ranks), (9,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = rounded(model)(ids[None])[0].topk(20)
    found = torch.tensor(probe.load(model, tokenizer).call("logits", ids.tolist()))
    assert (found.gather(1, expected.indices) - expected.values).abs().max().item() < 0.02


def test_what_is_held_from_the_answer_before(probe: Probe) -> None:
    """Positions that two prompts have in common are not computed again, and no others are kept."""
    model = make(ALL["pairs, short windows"], silent=False)
    probe.load(model, exporting.tokenizer())
    first, second = random_ids(60, seed=1).tolist(), random_ids(60, seed=2).tolist()
    for ids, new in ((first, 60), (first[:30] + second, 60), (first[:30] + second, 1), (first[:10], 1), (second, 60)):
        found = torch.tensor(probe.call("logits", ids))
        assert len(found) == new
        with torch.no_grad():
            expected = rounded(model)(torch.tensor([ids]))[0, -new:]
        assert (found - expected).abs().max().item() < 0.01


@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 0.0},
        {"temperature": 0.8, "top_k": 20, "seed": 3},
        {"temperature": 1.1, "top_k": 0, "top_p": 0.7, "seed": 4},
    ],
)
def test_answers(probe: Probe, shape: str, how: dict[str, Any]) -> None:
    """The same tokens, also drawn with the same seed. Special tokens have random vectors: tools are called."""
    model = exact_tables(make(ALL[shape], silent=False))
    engine = reference(model)
    probe.load(model, exporting.tokenizer())
    for question in QUESTIONS:
        done = asked(engine, question, max_tokens=60, **how)
        answer = probe.answer(messages=[{"role": "user", "content": question}], settings={"max_tokens": 60, **how})
        assert answer.ids == done.ids
        assert answer.text == done.text
        assert answer.end["finish"] == done.finish
        assert [token[2] for token in answer.tokens if token[3] is None] == [
            token.kind for token in answer_tokens(engine, question, how) if token.logprob is None
        ]


def answer_tokens(engine: Engine, question: str, how: dict[str, Any]) -> list[Token]:
    found = asked(engine, question, max_tokens=60, logprobs=0, **how).tokens
    assert found is not None
    return found


def test_random_numbers(probe: Probe) -> None:
    for seed in (0, 1, -5, 2**31, 2**53 - 1, 123456789):
        drawn = torch.rand(2000, generator=generator(seed, 0)).tolist()
        assert probe.call("randoms", seed, 2000) == drawn


@pytest.mark.parametrize("sampling", [(0.0, 0, 1.0), (1.0, 0, 1.0), (0.6, 5, 1.0), (1.3, 40, 0.8), (0.5, 0, 0.3)])
def test_draws(probe: Probe, sampling: tuple[float, int, float]) -> None:
    """Of logits of which many are equal."""
    temperature, top_k, top_p = sampling
    logits = (torch.randn(300, generator=torch.Generator().manual_seed(1)) * 8).round() / 4
    uniforms = torch.rand(200, generator=torch.Generator().manual_seed(2)).tolist()
    draw = Draw(temperature, top_k, top_p, 0.0, 1.0, [], torch.zeros(300), 0.0, 8)
    expected = choose_by_torch(logits.expand(200, -1), [replace(draw, uniform=uniform) for uniform in uniforms])
    settings = {"temperature": temperature, "topK": top_k, "topP": top_p}
    found = probe.call("choose", logits.tolist(), settings, uniforms)
    assert [choice["id"] for choice in found] == [choice.id for choice in expected]
    for choice, wanted in zip(found, expected, strict=True):
        assert math.log(choice["p"]) == pytest.approx(wanted.logprob, abs=1e-6)
        assert [id for id, _ in choice["likely"]] == [id for id, _ in wanted.top]
        assert [math.log(p) for _, p in choice["likely"]] == pytest.approx([p for _, p in wanted.top], abs=1e-6)


def test_numbers_that_are_none(probe: Probe) -> None:
    model = make(ALL["whole windows"], silent=False)
    with torch.no_grad():
        model.x0_lambdas[0] = math.nan
    probe.load(model, exporting.tokenizer())
    end = probe.call("answer", {"messages": [{"role": "user", "content": "a"}]})[-1]["end"]
    assert (end["finish"], end["error"]) == ("failed", "the model's numbers are not finite")


@pytest.fixture
def small(probe: Probe) -> Probe:
    """With the smallest model."""
    return probe.load(GPT(ModelConfig(1, 8, 2, 2, exporting.VOCAB, 64)).init_weights(0), exporting.tokenizer())


SAID = st.lists(
    st.one_of(
        st.sampled_from(["<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>"]),
        st.sampled_from(["1+1", "2/3", "len('aé')", "x", "", "9**99", "'\N{PILE OF POO}'.count('')"]),
        st.integers(0, len(exporting.RANKS) - 1),
    ),
    max_size=20,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(said=[0xED, 0xA0], room=2, ends=False)  # half a surrogate
@given(said=SAID, room=st.integers(1, 60), ends=st.booleans())
def test_parts_and_tool_calls(small: Probe, said: list[str | int], room: int, ends: bool) -> None:
    """Whatever a model says, its answer is made of the same parts, and the calculator's output has the same tokens."""
    tokenizer = exporting.tokenizer()
    chosen: list[int] = []
    for one in said:
        special = isinstance(one, str) and one.startswith("<|")
        chosen += [one] if isinstance(one, int) else [tokenizer.special(one)] if special else tokenizer.encode(one)
    chosen.append(tokenizer.special("<|assistant_end|>" if ends else "<|bos|>"))
    grammar = Grammar(tokenizer)
    penalties = grammar.penalties(exporting.VOCAB, torch.device("cpu"))
    expected = Generation(Request([1, 2]), 0, 0, room, tokenizer, grammar, penalties)
    for id in chosen:
        if expected.open:
            expected.push(id, 0.0)
    found = small.call("generate", [1, 2], room, chosen)
    tokens = [[token.id, token.text, token.kind, token.logprob is not None] for token in expected.ready]
    assert found == {"tokens": tokens, "finish": expected.finish, "sequence": expected.sequence}


@pytest.mark.parametrize("kind", ["text", "python", "python_output"])
def test_what_may_not_come(small: Probe, kind: PartType) -> None:
    penalties = Grammar(exporting.tokenizer()).penalties(exporting.VOCAB + 5, torch.device("cpu"))[kind]
    assert sorted(small.call("forbidden", exporting.VOCAB + 5)[kind]) == (penalties < 0).nonzero().flatten().tolist()


def test_an_answer_that_was_begun(probe: Probe) -> None:
    """It goes on as the whole one went, and a tool call left open is made again."""
    model = exact_tables(make(ALL["pairs, short windows"], silent=False))
    probe.load(model, exporting.tokenizer())
    ask = {"messages": [{"role": "user", "content": "a fox"}], "settings": {"max_tokens": 50, "temperature": 0}}
    whole = probe.answer(**ask)
    assert len(whole.ids) > 12
    for begun in (whole.ids[:1], whole.ids[:12]):
        answer = probe.answer(**ask | {"begun": begun})
        kept = answer.start["begun"]
        assert kept <= len(begun)
        assert (begun[:kept] + answer.ids)[:40] == whole.ids[:40]
    start, end, out, closed = map(
        exporting.tokenizer().special, ("<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>")
    )
    call = [start, 49, end, out, 49, closed]
    cases = [
        ([5, start, 49], 1),
        ([5, *call[:4]], 1),
        ([5, *call], 7),
        ([5, start, 49, end, 6], 5),
        (call + call[:2], 6),
    ]
    for begun, kept in cases:
        assert probe.answer(**ask | {"begun": begun}).start["begun"] == kept


def test_a_context_that_is_full(probe: Probe) -> None:
    model = exact_tables(make(ALL["narrow, one layer"]))
    engine = reference(model)
    probe.load(model, exporting.tokenizer())
    how: dict[str, Any] = {"max_tokens": 2000, "temperature": 0}
    for length in (1, 240, 270, 3000):
        done = asked(engine, "ab " * length, **how)
        answer = probe.answer(messages=[{"role": "user", "content": "ab " * length}], settings=how)
        assert (answer.ids, answer.end["finish"]) == (done.ids, "window")
        assert answer.start["prompt_tokens"] + len(answer.ids) == answer.start["window"] == engine.window
    assert answer.start["cut"] > 1000
    messages = [{"role": "user", "content": "ab " * 30}, {"role": "assistant", "content": "a"}] * 10
    messages.append({"role": "user", "content": "b"})
    answer = probe.answer(messages=messages, settings=how)
    left_out = answer.start["left_out"]
    longer = probe.answer(messages=messages, settings=how, begun=[5] * 150)
    assert (longer.start["begun"], longer.start["cut"]) == (150, 0) and longer.start["left_out"] > left_out
    full = probe.answer(messages=messages, settings=how, begun=[5] * 260)
    assert (full.ids, full.end["finish"]) == ([], "window")
    assert 0 < answer.start["left_out"] < 20 and answer.start["left_out"] % 2 == 0


def test_a_base_model_continues_text(probe: Probe) -> None:
    model = exact_tables(make(ALL["heads"], silent=False))
    probe.load(model, exporting.tokenizer())
    done = reference(model).generate(
        [Request([exporting.tokenizer().bos, *exporting.tokenizer().encode("a fox")], 40, 0.0)]
    )[0]
    assert probe.answer(mode="text", text="a fox", settings={"max_tokens": 40, "temperature": 0}).ids == done.ids


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        ({"messages": []}, "There is nothing to answer."),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "Questions and answers must take turns."),
        ({"ids": [5, 100_000]}, "the prompt holds ids that are no tokens"),
        ({"ids": []}, "the prompt holds ids that are no tokens"),
        ({"ids": [1], "settings": {"temperature": -1}}, "temperature cannot be -1"),
        ({"ids": [1], "settings": {"max_tokens": 0.5}}, "max_tokens cannot be 0.5"),
    ],
)
def test_questions_that_cannot_be_answered(small: Probe, ask: dict[str, Any], error: str) -> None:
    said = small.call("answer", ask)
    assert (said[-1]["end"]["finish"], said[-1]["end"]["error"]) == ("failed", error)
    assert len(said) == 1
