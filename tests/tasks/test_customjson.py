"""OpenAI's fine-tuning format in CustomJSON; tests of the own format are in test_mixture.py."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.conversation import Conversation
from nanochat.corpus import Tally, jsonrows
from nanochat.corpus.messages import from_openai
from nanochat.corpus.textfiles import documents
from nanochat.tasks import CustomJSON
from nanochat.tokenizer import Tokenizer, render_conversation, train_bpe


def call(code: str, name: str = "python", number: str = "c1") -> dict[str, Any]:
    arguments = json.dumps({"code": code})
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


USER = {"role": "user", "content": "How much is 6 * 7?"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [call("6*7")]}
SAYS = {"role": "assistant", "content": "It is 42."}


def tool(text: str, number: str = "c1") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": number, "content": text}


def read(tmp_path: Path, *messages: dict[str, Any], **more: Any) -> Conversation:
    path = tmp_path / "openai.jsonl"
    path.write_text(json.dumps({"messages": messages, **more}) + "\n")
    return CustomJSON(path)[0]


def parts(conversation: Conversation) -> list[list[tuple[str, str]]]:
    return [[(part.type, part.text) for part in message.parts] for message in conversation.messages]


def test_plain_chat_with_what_openai_adds(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "jo", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello", "weight": 1, "refusal": None},
        parallel_tool_calls=False,
        tools=[],
    )
    assert [m.text for m in found.messages] == ["Be brief.", "Hi", "Hello"]
    assert found.messages[0].role == "system"


def test_tool_calls_become_parts_of_one_message(tmp_path: Path) -> None:
    found = read(tmp_path, USER, CALLS, tool("42"), SAYS, {"role": "user", "content": "Thanks"}, SAYS)
    assert [m.role for m in found.messages] == ["user", "assistant", "user", "assistant"]
    assert parts(found)[1] == [("python", "6*7"), ("python_output", "42"), ("text", "It is 42.")]


def test_parallel_and_repeated_calls_get_their_own_answers(tmp_path: Path) -> None:
    both = {"role": "assistant", "content": "Let me see.", "tool_calls": [call("1+1"), call("2+2", "calculator", "c2")]}
    again = {"role": "assistant", "tool_calls": [call("2+4", number="c3")]}
    answers = [tool("4", "c2"), tool("2"), again, {**tool("6", "c3"), "content": [{"type": "text", "text": "6"}]}]
    found = read(tmp_path, USER, both, *answers, SAYS)
    assert parts(found)[1] == [
        ("text", "Let me see."),
        *[("python", "1+1"), ("python_output", "2"), ("python", "2+2"), ("python_output", "4")],
        *[("python", "2+4"), ("python_output", "6"), ("text", "It is 42.")],
    ]


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([USER, {**SAYS, "weight": 0}], "all its answers have the weight 0"),
        ([USER, {**SAYS, "weight": 0.5}], "message 2 has the weight 0.5"),
        (
            [USER, {"role": "assistant", "content": None, "function_call": {"name": "f"}}],
            "message 2 has a function_call",
        ),
        ([USER, {"role": "assistant", "function_call": {"name": "python", "arguments": "{}"}}, SAYS], "the old form"),
        ([USER, {**CALLS, "tool_calls": [call("x", "get_weather")]}, tool("1"), SAYS], "function 'get_weather'"),
        ([USER, {**CALLS, "tool_calls": ["x"]}, SAYS], "function None"),
        (
            [USER, {**CALLS, "tool_calls": [{"function": {"name": "python", "arguments": "1+1"}}]}],
            "arguments other than one string",
        ),
        (
            [USER, {**CALLS, "tool_calls": [{"function": {"name": "python", "arguments": "[" * 10**5}}]}],
            "arguments other than",
        ),
        ([USER, CALLS, SAYS], "no answer"),
        ([USER, CALLS], "no answer"),
        ([USER, CALLS, tool("42")], "last message is the tool's"),
        ([USER, CALLS, tool("42", "c9"), SAYS], "answers no call"),
        ([USER, CALLS, tool("42"), tool("42"), SAYS], "answers no call"),
        ([USER, CALLS, {"role": "tool", "tool_call_id": "c1"}, SAYS], "no text"),
        ([USER, tool("42"), SAYS], "tool"),
        ([USER, {"role": "assistant", "content": None}], "neither text nor"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, SAYS], "image_url"),
    ],
)
def test_what_cannot_be_said_here_is_named(tmp_path: Path, messages: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(UserError, match=problem) as error:
        read(tmp_path, *messages)
    assert "line 1" in str(error.value)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(0, 3)
    | st.sampled_from(["user", "assistant", "tool", "python", "c1", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "id", "tool_calls", "function", "name", "arguments"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "system"])}, optional={
    "content": anything, "tool_calls": anything, "tool_call_id": anything, "weight": anything,
}), max_size=5))  # fmt: skip
def test_anything_is_a_conversation_or_a_user_error(messages: list[dict[str, Any]]) -> None:
    with contextlib.suppress(UserError):
        Conversation.from_dict({"messages": from_openai(messages)})


THANKS = {"role": "user", "content": "Thanks"}


@pytest.mark.parametrize("first", [[{**SAYS, "weight": 0}], [{**CALLS, "weight": 0}, tool("42"), SAYS]])
def test_an_answer_of_weight_0_is_read_and_not_learnt(tmp_path: Path, first: list[dict[str, Any]]) -> None:
    ending = [THANKS, {"role": "assistant", "content": "Bye.", "weight": 1}]
    found = read(tmp_path, {**USER, "weight": 0}, *first, *ending)
    assert [message.learnt for message in found.messages] == [True, False, True, True]
    again = Conversation.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    tokenizer = Tokenizer(train_bpe(["It is 42. Bye. Thanks"] * 3, 270))
    ids, mask = render_conversation(tokenizer, found)
    assert len(ids) > 20
    learnt = tokenizer.decode([id for id, one in zip(ids, mask, strict=True) if one])
    assert learnt == "Bye.<|assistant_end|>"
    # text to pretrain on has no mask: it begins after that answer
    assert list(documents(tmp_path / "openai.jsonl")) == ["User: Thanks\n\nAssistant: Bye."]


def test_answers_marked_bad_are_left_out_unless_they_were_corrected(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    rows = [
        {"messages": [USER, SAYS], "rating": "good"},
        {"messages": [USER, {**SAYS, "content": "It is 43."}], "rating": "bad"},
        {"messages": [USER, {**SAYS, "content": "42"}], "rating": "bad", "given": "It is 41."},
        {"messages": [USER, {**SAYS, "content": "Six sevens are 42"}], "rating": None, "given": "It is 41."},
        {"rating": "bad"},  # whatever else it holds
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = CustomJSON(path)
    answers = [conversation.messages[-1].text for conversation in found.conversations]
    assert answers == ["It is 42.", "42", "Six sevens are 42"]
    assert found.marked_bad == 2
    assert [place.split(" of ")[0] for place in found.places] == ["line 1", "line 3", "line 4"]
    tally = Tally()
    assert [text.rpartition("Assistant: ")[2] for text in documents(path, tally=tally)] == answers
    assert tally.dropped == {"marked bad": 2}
    path.write_text(json.dumps(rows[1]))
    with pytest.raises(UserError, match="nothing to learn: 1 answer that was marked bad and not corrected is left out"):
        CustomJSON(path)


def test_what_has_no_messages_is_named_by_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.jsonl"
    path.write_text('{"id": 1, "conversations": [{"from": "human", "value": "Hi"}]}')
    with pytest.raises(UserError, match=r"line 1 of .*sharegpt.jsonl has no messages, but 'id', 'conversations'"):
        CustomJSON(path)


OPEN = "the last message is not the assistant's"  # nothing to learn, but text like any other


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "developer"])}, optional={
    "content": st.none() | st.sampled_from(["a", ""]) | anything, "tool_calls": st.just([call("6*7")]) | anything,
    "tool_call_id": st.sampled_from(["c1"]), "function_call": st.none() | st.just({"name": "python"}),
    "weight": st.sampled_from([None, 0, 1, 2]),
}), min_size=1, max_size=5))  # fmt: skip
def test_an_import_and_data_take_the_same_conversations(messages: list[dict[str, Any]]) -> None:
    for row in ({"messages": messages}, messages):
        line = f"{json.dumps(row)}\n".encode()
        said = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsonrows, "utf8_blocks", lambda path, line=line: iter([line, b""]))
            for door in (lambda: CustomJSON("a.jsonl"), lambda: list(documents(Path("a.jsonl")))):
                try:
                    door()
                    said.append("")
                except UserError as error:
                    said.append(error.problem.split(": ")[-1])
        assert said[0] == said[1] or (said[0] == OPEN and not said[1])


def test_a_tool_call_without_content_through_both_doors(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": [USER, CALLS, tool("42"), SAYS]}) + "\n")
    assert list(documents(path)) == ["User: How much is 6 * 7?\n\nAssistant: It is 42."]
    assert len(CustomJSON(path)) == 1
