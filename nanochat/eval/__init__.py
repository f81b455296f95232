"""How good a model is: bits per byte, CORE, chat tasks, ChatCORE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanochat.doors import lazy
from nanochat.eval.results import (
    RESULT_VERSION,
    EvalResult,
    Score,
    TaskResult,
    centered,
    code_commit,
    describe_checkpoint,
    git_state,
    mean_interval,
    require_counts,
    require_writable,
    wilson,
)

if TYPE_CHECKING:
    from nanochat.eval.base import cost_of_int8, measure_bpb, sample_openings, sample_texts
    from nanochat.eval.bpb import bits_per_byte, count_bits, text_batches, text_bpb
    from nanochat.eval.bundle import missing_bundle
    from nanochat.eval.chat import AnswerSettings, chatcore, equal_answers, evaluate_task, evenly_spread, show_task
    from nanochat.eval.choosing import choose_tasks, task_names
    from nanochat.eval.core import BATCH_TOKENS, evaluate_core, evaluate_items, read_questions, read_tasks
    from nanochat.eval.core_passes import answer_scores
    from nanochat.eval.core_prompts import prompts, rows
    from nanochat.eval.grading import CoreAsked, chosen_parts, grade_core, missing_core
    from nanochat.eval.hf import HFSubject, open_hf
    from nanochat.eval.overlap import corpus_overlap
    from nanochat.eval.subject import Subject, open_subject

__all__ = [
    "BATCH_TOKENS",
    "RESULT_VERSION",
    "AnswerSettings",
    "CoreAsked",
    "EvalResult",
    "HFSubject",
    "Score",
    "Subject",
    "TaskResult",
    "answer_scores",
    "bits_per_byte",
    "centered",
    "chatcore",
    "choose_tasks",
    "chosen_parts",
    "code_commit",
    "corpus_overlap",
    "cost_of_int8",
    "count_bits",
    "describe_checkpoint",
    "equal_answers",
    "evaluate_core",
    "evaluate_items",
    "evaluate_task",
    "evenly_spread",
    "git_state",
    "grade_core",
    "mean_interval",
    "measure_bpb",
    "missing_bundle",
    "missing_core",
    "open_hf",
    "open_subject",
    "prompts",
    "read_questions",
    "read_tasks",
    "require_counts",
    "require_writable",
    "rows",
    "sample_openings",
    "sample_texts",
    "show_task",
    "task_names",
    "text_batches",
    "text_bpb",
    "wilson",
]

__getattr__ = lazy(
    __name__,
    {
        "base": "cost_of_int8 measure_bpb sample_openings sample_texts",
        "bpb": "bits_per_byte count_bits text_batches text_bpb",
        "bundle": "missing_bundle",
        "chat": "AnswerSettings chatcore equal_answers evaluate_task evenly_spread show_task",
        "choosing": "choose_tasks task_names",
        "core": "BATCH_TOKENS evaluate_core evaluate_items read_questions read_tasks",
        "core_passes": "answer_scores",
        "core_prompts": "prompts rows",
        "grading": "CoreAsked chosen_parts grade_core missing_core",
        "hf": "HFSubject open_hf",
        "overlap": "corpus_overlap",
        "subject": "Subject open_subject",
    },
)
