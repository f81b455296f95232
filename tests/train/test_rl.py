"""Reinforcement: the gradient by hand, what has none, resumed = uninterrupted, two ranks = one, and that it learns."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from nanochat import checkpoint
from nanochat.console import UserError
from nanochat.conversation import Conversation
from nanochat.feed.loader import Step
from nanochat.inference import Completion, Engine, Request, load_engine
from nanochat.inference import batch as batch_module
from nanochat.inference.sampling import Choice, Draw
from nanochat.inference.toolcalls import Grammar
from nanochat.machine import Machine, Ranks
from nanochat.metrics import read_metrics
from nanochat.model import GPT, ModelConfig
from nanochat.optim import Optimizer
from nanochat.report.document import render
from nanochat.report.runs import Runs
from nanochat.scale import Rates
from nanochat.tasks import TinyWorld
from nanochat.tasks.rewards import open_tasks, reward
from nanochat.tasks.tinyworld import TinyWorldQuestions
from nanochat.tokenizer import SPECIAL_TOKENS, Tokenizer, train_bpe
from nanochat.train import RLConfig, train_rl
from nanochat.train import rl as rl_module
from nanochat.train.policy import Policy, Rollout, batches, rollouts_of
from nanochat.train.rl import question_at
from nanochat.train.step import LossScale, Stepper

ROOT = Path(__file__).parents[2]
TEMPERATURE = 0.7


class Letters:
    """A task without a tokenizer's say: the more "e" an answer holds, the better."""

    name = "Letters"
    kind = "generative"

    def __init__(self, questions: int = 12) -> None:
        self.questions = questions

    def __len__(self) -> int:
        return self.questions

    def __getitem__(self, i: int) -> Conversation:
        messages = [{"role": "user", "content": f"Say something about {i}."}, {"role": "assistant", "content": "eee"}]
        return Conversation.from_dict({"messages": messages})

    def grade(self, i: int, answer: str) -> dict[str, bool]:
        return {"right": answer.count("e") > 2}

    def reward(self, i: int, answer: str) -> float:
        return answer.count("e") / max(1, len(answer))


class Alike(Letters):
    """Every answer is as good as any other."""

    def __init__(self, worth: float = 0.3) -> None:
        super().__init__()
        self.worth = worth

    def reward(self, i: int, answer: str) -> float:
        return self.worth


class Seldom(Letters):
    """Two questions of three teach nothing: in some steps a rank has no others."""

    def reward(self, i: int, answer: str) -> float:
        return super().reward(i, answer) if i % 3 == 0 else 0.0


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(["How much is 12 + 30? Let me see: it is 42, and the dog does not mind."] * 3, 280))


def random_model(tokenizer: Tokenizer, seed: int = 7, dtype: torch.dtype = torch.float64) -> GPT:
    """Weights large enough for a varied choice of tokens; more rows in the head than there are tokens."""
    config = ModelConfig(2, 32, 2, 2, tokenizer.vocab_size + 3, 64, "modern", 100000.0)
    model = GPT(config, dtype).init_weights(0).to(dtype)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=g) * 0.4)
    return model


def policy_of(tokenizer: Tokenizer, model: GPT) -> Policy:
    return Policy(Grammar(tokenizer), model.config.vocab_size, torch.device("cpu"), TEMPERATURE)


def group(tokenizer: Tokenizer) -> tuple[list[int], list[Completion], list[list[str | None]]]:
    """A prompt, four answers to it and, of each of their tokens, what it was sampled in (None: written by the tool)."""
    special, encode = tokenizer.special, tokenizer.encode
    prompt = [tokenizer.bos, *encode("How much is 12 + 30?"), special("<|assistant_start|>")]
    first, code, result, last = encode("Let me see: "), encode("12+30"), encode("42"), encode("it is 42")
    calculated = [
        *first, special("<|python_start|>"), *code, special("<|python_end|>"),
        special("<|output_start|>"), *result, special("<|output_end|>"), *last,
    ]  # fmt: skip
    said: list[list[str | None]] = [
        [
            *["text"] * (len(first) + 1), *["python"] * (len(code) + 1), *[None] * (len(result) + 2),
            *["text"] * (len(last) + 1),
        ],
        ["text"] * (len(last) + 1),
        ["text"] * len(first),
        ["text"],
    ]  # fmt: skip
    end = special("<|assistant_end|>")
    samples = [
        Completion(calculated, "", [], "stop", 0, 0, end),
        Completion(last, "", [], "stop", 0, 1, tokenizer.bos),  # a base model's way to end
        Completion(first, "", [], "length", 0, 2),
        Completion([], "", [], "stop", 0, 3, end),
    ]
    return prompt, samples, said


def test_the_gradient_is_that_of_a_computation_by_hand(tokenizer: Tokenizer) -> None:
    """Advantages, masks and the division by all sampled tokens, through the stepper, in float64."""
    model = random_model(tokenizer)
    other = copy.deepcopy(model)
    prompt, samples, said = group(tokenizer)
    rewards = [1.0, 0.0, 1.0, 0.0]
    count = sum(kind is not None for kinds in said for kind in kinds)

    special = {name: tokenizer.special(name) for name in SPECIAL_TOKENS}
    ordinary = set(range(tokenizer.vocab_size)) - set(special.values())
    stops = {special["<|assistant_end|>"], special["<|bos|>"]}
    allowed = {"text": ordinary | stops | {special["<|python_start|>"]}}
    allowed["python"] = ordinary | stops | {special["<|python_end|>"]}
    expected_loss = 0.0
    for sample, kinds, value in zip(samples, said, rewards, strict=True):
        ids = [*prompt, *sample.ids, *([] if sample.stop is None else [sample.stop])]
        logits = other(torch.tensor([ids[:-1]]))[0]
        slope = torch.zeros_like(logits)
        for place, kind in enumerate(kinds):
            if kind is None:
                continue
            possible = sorted(allowed[kind])
            position, target = len(prompt) + place - 1, ids[len(prompt) + place]
            p = (logits[position, possible] / TEMPERATURE).softmax(-1).detach()
            at = possible.index(target)
            advantage = value - 0.5
            expected_loss -= advantage * float(p[at].log()) / count
            p[at] -= 1
            slope[position, possible] = advantage / (count * TEMPERATURE) * p
        logits.backward(slope)

    answers = rollouts_of(Grammar(tokenizer), prompt, samples, rewards)
    assert [answer.advantage for answer in answers] == [0.5, -0.5, 0.5, -0.5]
    assert [answer.length for answer in answers] == [sum(k is not None for k in kinds) for kinds in said]
    assert [answer.finished for answer in answers] == [True, True, False, True]
    policy = policy_of(tokenizer, model)

    def loss(*given: torch.Tensor, reduction: str) -> torch.Tensor:
        return policy.loss(model, *given)

    optimizer = Optimizer(model, Rates(0.0, 0.0, 0.0, 0.0, 0.0))
    stepper = Stepper(Machine(torch.device("cpu"), torch.float64, Ranks()), model, optimizer, loss, LossScale())
    total = stepper._gradients(Step([*batches(answers, 3, 0, tokenizer.bos)], 0, {}), count)
    assert float(total) == pytest.approx(expected_loss, rel=1e-6)
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert q.grad is not None and p.grad is not None
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    assert max(float(q.grad.abs().max()) for q in other.parameters() if q.grad is not None) > 1e-3


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]), min_size=2, max_size=9).filter(lambda r: len(set(r)) > 1),
    st.sampled_from([0.0, 0.1, 0.3, 1.0]),
)
def test_advantages_of_a_question_add_up_to_nothing(tokenizer: Tokenizer, rewards: list[float], same: float) -> None:
    grammar, prompt = Grammar(tokenizer), [tokenizer.bos]

    def advantages(values: list[float]) -> list[float]:
        samples = [Completion([97], "a", [], "length", 0, place) for place in range(len(values))]
        return [answer.advantage for answer in rollouts_of(grammar, prompt, samples, values)]

    found = advantages(rewards)
    assert sum(found) == pytest.approx(0, abs=1e-12)
    assert [a - found[0] for a in found] == pytest.approx([r - rewards[0] for r in rewards])
    assert advantages([same] * len(rewards)) == [0.0] * len(rewards)


def test_what_was_sampled_is_what_the_engine_says(tokenizer: Tokenizer) -> None:
    """Hot enough for tool blocks; a digit is nearly all that can stand in one, so that it often has a value."""
    model = random_model(tokenizer, dtype=torch.float32).eval()
    engine = Engine(model, tokenizer)
    engine.penalties["python"] = torch.full_like(engine.penalties["python"], -torch.inf)
    engine.penalties["python"][[tokenizer.encode("7")[0], engine.grammar.python_end]] = 0
    engine.penalties["text"][engine.grammar.python_start] = 60
    prompt = [tokenizer.bos, *tokenizer.encode("12")]
    samples = engine.generate([Request(prompt, 40, temperature=30.0, top_k=0, n=60, logprobs=0)])
    answers = rollouts_of(engine.grammar, prompt, samples, [0.0] * 60)
    for sample, answer in zip(samples, answers, strict=True):
        assert sample.logprobs is not None
        drawn = [*(logprob is not None for logprob in sample.logprobs), *[True] * (sample.stop is not None)]
        assert answer.kinds[: len(prompt)] == [-1] * len(prompt)
        assert [kind >= 0 for kind in answer.kinds[len(prompt) :]] == drawn
    assert any(None in (sample.logprobs or []) for sample in samples)
    assert {sample.stop for sample in samples} > {None}


def test_log_probabilities_are_those_that_the_engine_drew_from(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model(tokenizer, dtype=torch.float32).eval()
    seen: list[torch.Tensor] = []
    real = batch_module.choose

    def choose(logits: torch.Tensor, draws: list[Draw]) -> list[Choice]:
        seen.append(logits + torch.stack([draw.penalties for draw in draws]))
        return real(logits, draws)

    monkeypatch.setattr(batch_module, "choose", choose)
    prompt = [tokenizer.bos, *tokenizer.encode("How much is")]
    engine = Engine(model, tokenizer)
    for seed in range(5):
        seen.clear()
        samples = engine.generate([Request(prompt, 30, temperature=TEMPERATURE, top_k=0, seed=seed)])
        [answer] = rollouts_of(engine.grammar, prompt, samples, [0.0])
        [batch] = batches([answer], 1, 0, tokenizer.bos)
        with torch.no_grad():
            ours = policy_of(tokenizer, model).log_probs(model, batch.ids, batch.targets, batch.kinds)
        theirs = (torch.cat(seen) / TEMPERATURE).log_softmax(-1)  # of tool output none is drawn
        assert torch.equal(ours.isinf(), theirs.isinf())
        torch.testing.assert_close(ours.exp(), theirs.exp(), rtol=1e-3, atol=1e-5)


def test_the_distance_is_the_kl_divergence(tokenizer: Tokenizer) -> None:
    model, other = random_model(tokenizer), random_model(tokenizer, seed=8)
    prompt, samples, _ = group(tokenizer)
    answers = rollouts_of(Grammar(tokenizer), prompt, samples, [0.0] * 4)
    policy = policy_of(tokenizer, model)
    [batch] = batches(answers, 4, 0, tokenizer.bos)
    assert policy.distance(model, model, batch) == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        p, q = (policy.log_probs(m, batch.ids, batch.targets, batch.kinds).exp() for m in (model, other))
    expected = sum(float(a * (a / b).log()) for a, b in zip(p.flatten(), q.flatten(), strict=True) if a > 0)
    assert policy.distance(model, other, batch) == pytest.approx(expected)
    assert expected > 0


def test_batches_hold_every_answer_once_and_no_more_tokens_than_asked_for() -> None:
    answers = [Rollout(list(range(n)), [-1] * (n - 1) + [0], 0.0, float(n), True) for n in (9, 3, 5, 4, 9, 2)]
    made = batches(answers, 0, 16, 99)
    assert sorted(a for batch in made for a in batch.advantages.tolist()) == [2, 3, 4, 5, 9, 9]
    assert all(batch.ids.numel() <= 16 for batch in made)
    for batch in made:
        for ids, targets, advantage in zip(batch.ids, batch.targets, batch.advantages, strict=True):
            n = int(advantage)
            assert ids.tolist() == [*range(n), *[99] * len(ids)][: len(ids)]
            assert targets.tolist() == [-1] * (n - 2) + [n - 1] + [-1] * (len(ids) - n + 1)


@given(st.integers(1, 40), st.integers(0, 5), st.integers(0, 3))
def test_every_epoch_asks_every_question_once(size: int, seed: int, epoch: int) -> None:
    asked = [question_at(seed, size, epoch * size + place) for place in range(size)]
    assert sorted(asked) == list(range(size))


def test_tiny_world_trains_on_other_questions_than_it_is_graded_by() -> None:
    train, test = TinyWorldQuestions(0, 2000, seed=3), TinyWorld(world_seed=0)
    asked = {str(train[i].without_last()).lower() for i in range(len(train))}
    assert not asked & {str(test[i].without_last()).lower() for i in range(len(test))}
    categories = set()
    for i in range(300):
        categories |= train.grade(i, "").keys()
        assert reward(train, i, train[i].messages[-1].text) == 1.0
        assert reward(train, i, "") == 0.0
    assert categories == {"fact", "follow_up", "calculator", "unknown", "identity", "known_refused"}
    with pytest.raises(IndexError):
        train[2000]


COMMON: dict[str, Any] = {
    "answers": False,
    "device": "cpu",
    "dtype": "float32",
    "num_iterations": 4,
    "examples_per_step": 4,
    "num_samples": 4,
    "max_new_tokens": 12,
    "lr_scale": 0.05,
    "eval_every": -1,
    "save_every": -1,
    "eval_examples": 6,
    "eval_samples": 4,
}


@pytest.fixture
def base(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = tmp_path / "base"
    shutil.copytree(tiny_run, copied)
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(copied))
    return copied


def weights(stage: str = "rl") -> dict[str, torch.Tensor]:
    return load_file(checkpoint.find(stage, "d1") / "model.safetensors")


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


def records(base: Path, kind: str) -> list[dict[str, Any]]:
    return [r for r in read_metrics(base / "runs" / "rl-d1" / "metrics.jsonl") if r["kind"] == kind]


def test_a_run_leaves_a_model_to_talk_to_a_curve_and_a_section_in_the_report(base: Path) -> None:
    state = train_rl(RLConfig(**{**COMMON, "eval_every": 2}), (Letters(), Letters()))
    assert furthest(weights("sft"), weights()) > 0
    assert [r["step"] for r in records(base, "eval")] == [0, 2, 4]
    assert state.val.keys() == {"pass@1", "pass@2", "pass@4"}
    assert 0 <= state.val["pass@1"] <= state.val["pass@2"] <= state.val["pass@4"] <= 1
    steps = records(base, "step")
    assert [r["step"] for r in steps] == [1, 2, 3, 4]
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6) and steps[3]["kl"] > 1e-5
    assert all(0 < r["length"] <= 12 and 0 <= r["reward"] <= 1 and 0 < r["uneven"] <= 1 for r in steps)
    assert state.tokens == steps[3]["tokens"] == pytest.approx(sum(r["length"] * 16 for r in steps))
    assert [r["lr"] for r in steps] == [1.0, 0.75, 0.5, 0.25]
    engine, manifest = load_engine("rl", device="cpu")
    assert (manifest.stage, manifest.tag, manifest.step) == ("rl", "d1", 4)
    assert engine.generate([Request([engine.tokenizer.bos], 3)])
    report = render(Runs.read(base / "runs"))
    assert "## Reinforcement: Letters\n\n| Step | pass@1 | pass@2 | pass@4 | training reward |" in report
    assert "### chat_rl" in report


def test_equal_rewards_change_nothing(base: Path) -> None:
    state = train_rl(RLConfig(**COMMON), (Alike(), Alike()))
    assert state.step == 4
    assert furthest(weights("sft"), weights()) == 0.0
    assert [(r["uneven"], r["loss"], r["reward"]) for r in records(base, "step")] == [
        (0.0, 0.0, pytest.approx(0.3))
    ] * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("worth", "more", "why", "what"),
    [
        (0.0, {}, "no answer was right", "fine-tune on such questions first, choose an easier --task, or raise --num"),
        (1.0, {}, "every answer was right", "choose a harder --task, or raise --temperature"),
        (0.3, {}, "all worth the same (on average 0.30)", "raise --temperature or --num_samples"),
        (0.0, {"top_k": 1}, "no answer was right", "leave --top_k=1 out"),
        (0.0, {"max_new_tokens": 1}, "no answer was right", "raise --max_new_tokens=1, at which every answer was cut"),
    ],
)
def test_rewards_that_are_all_alike_are_told_with_what_to_change(
    base: Path, capsys: pytest.CaptureFixture[str], worth: float, more: dict[str, Any], why: str, what: str
) -> None:
    train_rl(RLConfig(**{**COMMON, "num_iterations": 2, **more}), (Alike(worth), Alike(worth)))
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2  # at once, and at the end
    assert err[0].startswith("rl: step 1 taught nothing: ")
    assert err[1].startswith("rl: 2 of 2 steps taught nothing, so that the model is what it was: ")
    assert all(why in line and what in line for line in err)


def test_rewards_that_differ_are_not_complained_about(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_rl(RLConfig(**COMMON), (Letters(), Letters()))
    assert "taught nothing" not in capsys.readouterr().err


class Interrupted(Exception):
    pass


def test_resumed_equals_uninterrupted_bit_for_bit(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = (Letters(), Letters())
    state = train_rl(RLConfig(**COMMON), tasks)
    whole, steps = weights(), records(base, "step")
    with monkeypatch.context() as patch:
        real = rl_module.Reinforce.take

        def take(method: Any, *given: Any) -> Any:
            if method.state.step == 3:
                raise Interrupted
            return real(method, *given)

        patch.setattr(rl_module.Reinforce, "take", take)
        with pytest.raises(Interrupted):
            train_rl(RLConfig(**{**COMMON, "save_every": 2}), tasks)
    assert list(checkpoint.steps("rl", "d1")) == [2]
    again = train_rl(RLConfig(**{**COMMON, "save_every": 2}, resume=True), tasks)
    assert furthest(whole, weights()) == 0.0
    assert (again.step, again.tokens, again.val) == (state.step, state.tokens, state.val)
    assert {r["reward"] for r in records(base, "step")} == {r["reward"] for r in steps}
    longer = train_rl(RLConfig(**{**COMMON, "num_iterations": 6}, resume=True), tasks)
    assert longer.step == 6
    with pytest.raises(UserError, match="at step 6 already, past the 5 asked for"):
        train_rl(RLConfig(**{**COMMON, "num_iterations": 5}, resume=True), tasks)


def test_other_settings_start_anew_and_keep_the_old_run(base: Path) -> None:
    tasks = (Letters(), Letters())
    train_rl(RLConfig(**{**COMMON, "num_iterations": 1}), tasks)
    train_rl(RLConfig(**{**COMMON, "num_iterations": 2, "temperature": 0.5}, resume=True), tasks)
    assert list(checkpoint.steps("rl", "d1")) == [2]
    assert list(checkpoint.steps("rl", "d1.previous-1")) == [1]


def test_a_polite_stop_saves_the_step_and_the_run_goes_on(base: Path) -> None:
    class Stopping(Letters):
        asked = 0

        def reward(self, i: int, answer: str) -> float:
            self.asked += 1
            if self.asked == 20:  # of 16 a step: in the second one
                os.kill(os.getpid(), signal.SIGTERM)
            return super().reward(i, answer)

    with pytest.raises(KeyboardInterrupt):
        train_rl(RLConfig(**COMMON), (Stopping(), Letters()))
    assert list(checkpoint.steps("rl", "d1")) == [2]
    assert train_rl(RLConfig(**COMMON, resume=True), (Letters(), Letters())).step == 4


def test_a_limit_saves_and_stops(base: Path) -> None:
    with pytest.raises(UserError, match=r"--max_hours=1e-09 is reached at step 1 of 4. Go on by the same command"):
        train_rl(RLConfig(**COMMON, max_hours=1e-9), (Letters(), Letters()))
    assert list(checkpoint.steps("rl", "d1")) == [1]


def test_learning_rates_are_a_share_of_pretrainings(base: Path) -> None:
    peak = json.loads((checkpoint.find("base", "d1") / "train_state.json").read_text())["rates"]["matrix"]
    values = {**COMMON, "num_iterations": 1, "lr_scale": -1.0}
    for source in ("mid", "sft"):
        state = train_rl(RLConfig(**values, source=source), (Letters(), Letters()))  # type: ignore[arg-type]
        assert state.rates["matrix"] == pytest.approx(0.05 * peak)
        assert (state.dataset, state.world_seed, state.rates["weight_decay"]) == ("tinyworld", 0, 0.0)


def test_not_a_number_stops_and_touches_nothing(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Policy.loss
    monkeypatch.setattr(Policy, "loss", lambda *given: real(*given) * float("nan"))
    with pytest.raises(UserError, match="the loss became nan in step 1, on Letters.*no checkpoint yet"):
        train_rl(RLConfig(**COMMON), (Letters(), Letters()))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_samples": 1}, "--num_samples is 1.*2 or more"),
        ({"temperature": 0.0}, "--temperature is 0.0"),
        ({"top_k": -1}, "--top_k is -1"),
        ({"examples_per_step": 0}, "--examples_per_step is 0"),
        ({"max_new_tokens": 0}, "--max_new_tokens is 0"),
        ({"eval_samples": 0}, "--eval_samples is 0"),
        ({"num_epochs": 0.0}, "--num_epochs is 0.0"),
        ({"num_iterations": 0}, "--num_iterations is 0"),
        ({"fp8": True}, "--fp8"),
        ({"task": "HumanEval"}, "no questions to train 'HumanEval' on.*GSM8K"),
        ({"task": "Chess"}, "no questions to train 'Chess' on"),
        ({"model_tag": "d9"}, "no sft checkpoint with the tag 'd9'"),
        ({"model_step": 99}, "has no step 99"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
    ],
)
def test_impossible_settings_are_refused_and_leave_nothing(base: Path, bad: dict[str, Any], message: str) -> None:
    before = sorted(p for p in base.rglob("*"))
    with pytest.raises(UserError, match=message):
        train_rl(RLConfig(**{**COMMON, **bad}))
    assert sorted(p for p in base.rglob("*")) == before


@pytest.mark.parametrize("name", ["SpellingBee", "SimpleSpelling", "TinyWorld"])
def test_tasks_have_training_questions_and_held_out_ones(name: str, base: Path) -> None:
    train, test = open_tasks(name, 0)
    held_out = {str(test[i].without_last()) for i in range(len(test))}
    for i in range(0, len(train), 500):
        assert reward(train, i, train[i].messages[-1].text) == 1.0
        assert str(train[i].without_last()) not in held_out


# Run by every rank; the task is the one above.
PROGRAM = """
import importlib.util, sys

spec = importlib.util.spec_from_file_location("test_rl", sys.argv.pop(1))
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
config = module.RLConfig(**{**module.COMMON, **module.RANKS})
module.train_rl(config, (module.Seldom(), module.Seldom()))
"""
# Rates so small that AdamW, which makes a step of a gradient's sign, does not blow rounding up. Five questions: the
# ranks' shares are unequal.
RANKS: dict[str, Any] = {"lr_scale": 0.001, "examples_per_step": 5, "eval_every": 2}


@pytest.mark.slow
def test_two_ranks_equal_one_rank(base: Path, tmp_path: Path) -> None:
    one = train_rl(RLConfig(**{**COMMON, **RANKS}), (Seldom(), Seldom()))
    alone, steps = weights(), records(base, "step")
    # Questions 0, 2 and 4 of a step are the first rank's, 1 and 3 the second's.
    shares = [[question_at(42, 12, 5 * step + place) % 3 for place in (1, 3)] for step in range(4)]
    assert any(all(share) for share in shares) and any(not all(share) for share in shares)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
            str(program), str(Path(__file__)),
        ],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert furthest(alone, weights("sft")) > 5e-4
    assert furthest(alone, weights()) < 1e-4
    for a, b in zip(steps, records(base, "step"), strict=True):
        for name in ("reward", "uneven", "kl", "length", "finished", "loss", "tokens"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5), name
    summary = records(base, "summary")[-1]
    assert {k: summary[k] for k in one.val} == pytest.approx(one.val)


def test_more_ranks_than_questions_are_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rl_module, "setup", lambda *_: Machine(torch.device("cpu"), torch.float32, Ranks(0, 0, 8)))
    with pytest.raises(UserError, match="8 ranks cannot share 4 questions a step.*--examples_per_step=8"):
        train_rl(RLConfig(**COMMON), (Letters(), Letters()))


@pytest.mark.slow
def test_rewards_rise(base: Path) -> None:
    """More than ten "e" in an answer: never before, nearly always afterwards, also to questions not trained on."""

    class Held(Letters):
        def __getitem__(self, i: int) -> Conversation:
            return super().__getitem__(i + 1000)

        def grade(self, i: int, answer: str) -> dict[str, bool]:
            return {"right": answer.count("e") > 10}

    config = RLConfig(
        device="cpu", dtype="float32", num_iterations=40, examples_per_step=8, num_samples=16, max_new_tokens=16,
        lr_scale=0.3, eval_every=40, eval_examples=50, eval_samples=8,
    )  # fmt: skip
    train_rl(config, (Letters(200), Held(50)))
    before, after = (record["pass@1"] for record in records(base, "eval"))
    assert before < 0.1 and after > 0.7
    steps = records(base, "step")
    assert steps[-1]["reward"] > 2 * steps[0]["reward"]
    assert steps[-1]["kl"] > 0.01
