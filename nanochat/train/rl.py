"""Reinforcement learning on verifiable rewards: the model answers, the task grades, good answers become likelier.

REINFORCE with the mean reward of a question's answers as the baseline: GRPO (https://arxiv.org/abs/2402.03300) without
ratio and clipping, which fresh samples do not need: each batch of samples gets one update. There is no KL penalty, but
the KL to the starting model is measured. See docs/rl.md.
"""

from __future__ import annotations

import copy
import functools
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat import checkpoint
from nanochat.console import UserError, duration, say, warn
from nanochat.eval import evenly_spread
from nanochat.feed import Step
from nanochat.inference import Completion, Engine, Request, fit_ids
from nanochat.machine import Machine, describe, host_group, setup
from nanochat.model import GPT, load
from nanochat.optim import Schedule
from nanochat.paths import checkpoints_dir
from nanochat.tasks import Task, is_right, open_tasks, pass_at_k, reward
from nanochat.tokenizer import Tokenizer, render_prompt
from nanochat.train import state as states
from nanochat.train.chat import LR_SCALE, rates_after
from nanochat.train.config import RLConfig, check_config, fingerprint, horizon
from nanochat.train.equip import make_optimizer, set_attention
from nanochat.train.fitting import forward_tokens
from nanochat.train.policy import Policy, Rollout, Rollouts, batches, rollouts_of
from nanochat.train.run import Run, Taken
from nanochat.train.saving import require_one_folder
from nanochat.train.state import TrainState
from nanochat.train.step import Outcome, Stepper

LOGITS = 1 << 27  # per forward pass: 512 MiB in float32, kept several times for the backward pass


@functools.lru_cache(maxsize=2)
def _order(seed: int, size: int, epoch: int) -> list[int]:
    order = list(range(size))
    random.Random(f"rl:{seed}:{epoch}").shuffle(order)
    return order


def question_at(seed: int, size: int, position: int) -> int:
    """The question at a position in the endless sequence of epochs, each shuffled differently."""
    epoch, place = divmod(position, size)
    return _order(seed, size, epoch)[place]


class Asking:
    """A feed that never waits: questions are always there. Their answers are sampled when the step is taken."""

    def get(self, seconds: float) -> Step | None:
        return Step([], 0, {})

    def close(self) -> None:
        pass


class Reinforce:
    """A `Method`. state: the run's. answering: a copy of the model in the compute dtype, to sample from; reference: the
    model at the start."""

    unit, units = "steps", 1
    flops = 0  # a step samples, too
    pins = even = False
    more_is_better = True

    def __init__(
        self,
        machine: Machine,
        config: RLConfig,
        model: GPT,
        reference: GPT,
        tokenizer: Tokenizer,
        state: TrainState,
        train_set: Task,
        test_set: Task,
    ) -> None:
        self.machine, self.config, self.model, self.reference = machine, config, model, reference
        self.tokenizer, self.state, self.train_set, self.test_set = tokenizer, state, train_set, test_set
        self.answering = copy.deepcopy(reference)
        self.engine = Engine(self.answering, tokenizer, config.sample_batch_size)
        self.policy = Policy(self.engine.grammar, model.config.vocab_size, machine.device, config.temperature)
        self.tokens = max(1, min(LOGITS // model.config.vocab_size, forward_tokens(model.config.shape, machine)))
        self.facts: Mapping[str, Any] = {"task": train_set.name, "parent": state.parent}
        self.from_start = config.eval_every >= 0  # the curve begins there
        self.warned = False  # whether a step with nothing to learn has been reported

    def feed(self) -> Asking:
        return Asking()

    def schedule(self, steps: int) -> Schedule:
        return Schedule(steps, warmup=0, warmdown=1.0, final=0.0)  # a straight line down, as upstream

    def at(self, step: Step) -> str:
        return f"on {self.train_set.name}"

    def loss(self, ids: Tensor, targets: Tensor, advantages: Tensor, kinds: Tensor, reduction: str) -> Tensor:
        assert reduction == "sum"
        return self.policy.loss(self.model, ids, targets, advantages, kinds)

    def batches(self, answers: Sequence[Rollout]) -> list[Rollouts]:
        return batches(answers, self.config.device_batch_size, self.tokens, self.tokenizer.bos)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the newest weights into the model that samples."""
        for copied, p in zip(self.answering.parameters(), self.model.parameters(), strict=True):
            copied.copy_(p)

    def summed(self, *values: float) -> list[float]:
        """Each value's sum over the ranks."""
        if self.machine.ranks.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=host_group())
        found: list[float] = sums.tolist()
        return found

    def ask(
        self, task: Task, items: Sequence[int], seeds: Sequence[int], n: int, on_token: Callable[[], object]
    ) -> list[tuple[list[int], list[Completion]]]:
        """For each item its prompt and n samples."""
        config, window = self.config, self.engine.window
        requests = []
        for i, seed in zip(items, seeds, strict=True):
            ids = render_prompt(self.tokenizer, task[i].without_last())
            prompt = fit_ids(ids, self.tokenizer.bos, window, config.max_new_tokens)
            requests.append(Request(prompt, config.max_new_tokens, config.temperature, config.top_k, seed, n))
        samples = self.engine.generate(requests, on_token)
        return [(request.prompt, samples[at * n : (at + 1) * n]) for at, request in enumerate(requests)]

    def rollouts(self, on_token: Callable[[], object]) -> list[list[Rollout]]:
        """This rank's share of the questions of the next step, with their answers."""
        config, s = self.config, self.state
        me = self.machine.ranks
        places = range(config.examples_per_step)[me.rank :: me.world]
        first = s.step * config.examples_per_step
        items = [question_at(config.seed, len(self.train_set), first + place) for place in places]
        # Seeded by the position in the run: the same for any number of ranks, and after resuming.
        seeds = [random.Random(f"rl:{config.seed}:{first + place}").getrandbits(62) for place in places]
        groups = []
        asked = self.ask(self.train_set, items, seeds, config.num_samples, on_token)
        for i, (prompt, samples) in zip(items, asked, strict=True):
            rewards = [reward(self.train_set, i, sample.text) for sample in samples]
            groups.append(rollouts_of(self.engine.grammar, prompt, samples, rewards))
        return groups

    @property
    def ks(self) -> list[int]:
        """1, 2, 4, ... up to the samples per held-out question."""
        n = self.config.eval_samples
        return [k for k in (2**power for power in range(n.bit_length())) if k <= n]

    def evaluate(self, on_batch: Callable[[int], None]) -> list[float]:
        """Sums of pass@k over this rank's held-out questions, for each k, and the number of questions.

        The random draws are the same every time, so that two evaluations differ only by the model.
        """
        config, me = self.config, self.machine.ranks
        self.refresh()
        n = config.eval_samples
        items = evenly_spread(len(self.test_set), config.eval_examples)[me.rank :: me.world]
        sums = dict.fromkeys(self.ks, 0.0)
        asked = self.ask(self.test_set, items, items, n, lambda: on_batch(1))
        for i, (_, samples) in zip(items, asked, strict=True):
            right = sum(is_right(self.test_set, i, sample.text) for sample in samples)
            for k in sums:
                sums[k] += pass_at_k(n, right, k)
        return [*sums.values(), len(items)]

    def scores(self, sums: list[float]) -> dict[str, float]:
        *totals, asked = sums
        return {f"pass@{k}": total / asked for k, total in zip(self.ks, totals, strict=True)}

    def take(self, stepper: Stepper, step: Step, valid: int, schedule: Schedule, s: TrainState) -> Taken:
        """Sample, grade and learn; logs figures over all ranks."""
        self.refresh()
        groups = self.rollouts(stepper.on_piece)
        answers = [answer for group in groups for answer in group]
        # One answer per question is enough to measure the KL, here before this step's update.
        firsts = [group[0] for group in groups]
        distance = sum(self.policy.distance(self.answering, self.reference, batch) for batch in self.batches(firsts))
        useful = [answer for answer in answers if answer.advantage]  # the others have no gradient
        count, sampled, rewards, finished, uneven, asked, kl, kl_tokens = self.summed(
            len(answers),
            sum(answer.length for answer in answers),
            sum(answer.reward for answer in answers),
            sum(answer.finished for answer in answers),
            sum(any(answer.advantage for answer in group) for group in groups),
            len(groups),
            distance,
            sum(answer.length for answer in firsts),
        )
        loss = 0.0
        if uneven:  # else there is nothing to learn, and an update would only follow old momentum
            # Divided by the sampled tokens of the whole step: each token weighs the same, in a short or a long answer
            # (DAPO, https://arxiv.org/abs/2503.14476).
            loss = stepper(Step([*self.batches(useful)], 0, {}), round(sampled), schedule, s.step)
        elif not self.warned:
            self.warned = True
            hint = what_to_change(self.config, rewards / count, finished / count)
            warn(f"rl: step {s.step + 1} taught nothing: {hint}")
        logged = {
            "reward": rewards / count,
            "uneven": uneven / asked,
            "kl": kl / max(1.0, kl_tokens),
            "length": sampled / count,
            "finished": finished / count,
        }
        shown = {name: f"{logged[name]:.3f}" for name in ("reward", "uneven", "kl")}
        return Taken(Outcome.known(loss), round(sampled), logged, {**shown, "length": f"{logged['length']:.0f}"})

    def summary(self, s: TrainState, tok_per_s: float) -> dict[str, Any]:
        return {}

    def farewell(self, s: TrainState, summary: Mapping[str, Any], rows: list[dict[str, Any]]) -> None:
        measured = [r for r in rows if r["kind"] == "eval"]
        since = {k: f"{measured[0][k]:.4f} -> " for k in s.val} if len(measured) > 1 else {}
        val = ", ".join(f"{k} {since.get(k, '')}{v:.4f}" for k, v in s.val.items())
        say(f"rl: {s.step} steps, {s.tokens:,} sampled tokens in {duration(s.seconds)}, held-out {val}")
        if still := [r for r in rows if r["kind"] == "step" and not r.get("uneven", 1)]:
            left = ", so that the model is what it was" if len(still) == s.step else ""
            reward, finished = (statistics.mean(r[name] for r in still) for name in ("reward", "finished"))
            hint = what_to_change(self.config, reward, finished)
            warn(f"rl: {len(still)} of {s.step} steps taught nothing{left}: {hint}")


def train_rl(
    config: RLConfig,
    tasks: tuple[Task, Task] | None = None,
    begun: Callable[[TrainState], None] = lambda state: None,
) -> TrainState:
    """Train the newest (or the named) chat model on a task's rewards; see RLConfig.

    tasks: questions to train on and held-out ones, instead of those that config.task names. begun: called when the run
    begins.
    """
    check_config(config)
    machine = setup(config.device, config.dtype, config.deterministic)
    require_one_folder(checkpoints_dir("rl"), machine.ranks)
    step = config.model_step if config.model_step >= 0 else None
    parent = checkpoint.find(config.source, config.model_tag or None, step)
    parent_hash = checkpoint.verify(parent).hash
    before = states.read(parent)
    tokenizer = Tokenizer.load(parent / "tokenizer")
    name = tasks[0].name if tasks else config.task or ("SpellingBee" if before.dataset == "tinyworld" else "GSM8K")
    if tasks is None:
        states.shared(lambda: bool(open_tasks(name, before.world_seed)))  # the first rank downloads
        tasks = open_tasks(name, before.world_seed)
    train_set, test_set = tasks
    for questions, use in ((train_set, "to train on"), (test_set, "to measure with")):
        if not len(questions):
            raise UserError(f"{name} has no questions {use}", "Get its data again", "Choose another --task")
    world = machine.ranks.world
    if config.examples_per_step < world:
        raise UserError(
            f"{world} ranks cannot share {config.examples_per_step} questions a step",
            f"Use --examples_per_step={world} or more",
        )
    rates = rates_after(before, config.lr_scale if config.lr_scale > 0 else LR_SCALE["rl"])
    plan = TrainState(
        "rl",
        checkpoint.tag_of(parent),
        steps=_steps(config, len(train_set)),
        batch_tokens=config.examples_per_step * config.num_samples * config.max_new_tokens,  # at most
        rates=asdict(rates),
        dataset=before.dataset,
        world_seed=before.world_seed,
        settings={**fingerprint(config), "task": name, "questions": len(train_set), "parent": parent_hash},
        parent=str(parent),
        horizon=horizon(config),
    )
    with states.alone("rl", plan.tag):
        resumed = states.find_resumable(plan, config)
        if resumed:
            plan = states.continued(states.read(resumed), plan, config)
            say(f"Resuming {resumed} at step {plan.step} of {plan.steps}")
        model = load(resumed or parent, machine.device, machine.dtype).train()
        states.require_hash(parent, parent_hash)
        # Weights in the compute dtype: sampling reads them all for every token, and need not cast them.
        reference = load(parent, machine.device, machine.dtype).to(machine.dtype).requires_grad_(False)
        # A fresh optimiser: the old one's momentum points to where fine-tuning went.
        set_attention(model, config.attention, machine)
        optimizer = make_optimizer(model, plan, config, machine)
        if resumed:
            states.load_optimizer(resumed, optimizer)
        say(
            f"rl: {name} from {parent}, {plan.steps} steps of {config.examples_per_step} questions with "
            f"{config.num_samples} answers each, on {describe(machine)}"
        )
        method = Reinforce(machine, config, model, reference, tokenizer, plan, train_set, test_set)
        return Run(machine, config, model, tokenizer, optimizer, plan, method, begun=begun).go()


def _steps(config: RLConfig, questions: int) -> int:
    if config.num_iterations > 0:
        return config.num_iterations
    return max(1, round(config.num_epochs * questions / config.examples_per_step))


def what_to_change(config: RLConfig, reward: float, finished: float) -> str:
    """Why steps taught nothing when all answers to a question got the same reward, and what helps.

    reward: the mean reward. finished: share of answers that ended by themselves.
    """
    if reward == 0:
        why = "no answer was right"
        what = "fine-tune on such questions first, choose an easier --task, or raise --num_samples"
    elif reward == 1:
        why = "every answer was right"
        what = "choose a harder --task, or raise --temperature"
    else:
        why = f"the answers to each question were all worth the same (on average {reward:.2f})"
        what = "raise --temperature or --num_samples"
    if config.top_k == 1:
        what = "leave --top_k=1 out, which makes all answers to a question the same"
    elif finished == 0 and reward < 1:
        what = f"raise --max_new_tokens={config.max_new_tokens}, at which every answer was cut; or {what}"
    return f"{why}, and only differences teach. To change that, {what}"
