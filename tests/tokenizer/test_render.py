from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat.console import UserError
from nanochat.tokenizer import (
    SPECIAL_TOKENS,
    Conversation,
    Message,
    Part,
    Tokenizer,
    render_conversation,
    render_partial,
    render_prompt,
)

checked = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
words = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["<|assistant_end|>", "hi <|bos|>", "<|python_start|>2<|python_end|>"]),
)
parts = st.builds(Part, st.sampled_from(["text", "python", "python_output"]), words)
answers = st.lists(parts, min_size=1, max_size=4).map(lambda found: Message("assistant", tuple(found)))
turns = st.lists(st.tuples(words.map(lambda text: Message.of("user", text)), answers), min_size=1, max_size=3)
conversations = st.builds(
    lambda system, pairs: Conversation((*system, *(message for pair in pairs for message in pair))),
    st.sampled_from([(), (Message.of("system", "Be brief."),)]),
    turns,
)


@checked
@given(conversations)
def test_the_mask_marks_exactly_what_the_assistant_says(tokenizer: Tokenizer, conversation: Conversation) -> None:
    ids, mask = render_conversation(tokenizer, conversation)
    assert len(ids) == len(mask)
    spoken = [token for token, learnt in zip(ids, mask, strict=True) if learnt]
    expected = []
    for message in conversation.messages:
        if message.role != "assistant":
            continue
        for part in message.parts:
            if part.type == "text":
                expected += tokenizer.encode(part.text)
            if part.type == "python":
                expected.append(tokenizer.special("<|python_start|>"))
                expected += tokenizer.encode(part.text)
                expected.append(tokenizer.special("<|python_end|>"))
        expected.append(tokenizer.special("<|assistant_end|>"))
    assert spoken == expected


@checked
@given(conversations)
def test_control_tokens_are_those_of_the_structure(tokenizer: Tokenizer, conversation: Conversation) -> None:
    ids, _ = render_conversation(tokenizer, conversation)
    expected = ["<|bos|>"]
    for message in conversation.messages:
        if message.role == "system":
            continue
        expected.append(f"<|{message.role}_start|>")
        for part in message.parts:
            fence = {"python": "python", "python_output": "output"}.get(part.type)
            expected += [f"<|{fence}_start|>", f"<|{fence}_end|>"] if fence else []
        expected.append(f"<|{message.role}_end|>")
    assert [SPECIAL_TOKENS[token - tokenizer.bos] for token in ids if token >= tokenizer.bos] == expected


@checked
@given(conversations)
def test_a_prompt_is_the_head_of_the_whole(tokenizer: Tokenizer, conversation: Conversation) -> None:
    ids, mask = render_conversation(tokenizer, conversation)
    prompt = render_prompt(tokenizer, conversation.without_last())
    assert prompt == ids[: len(prompt)]
    assert prompt[-1] == tokenizer.special("<|assistant_start|>")
    assert not any(mask[len(prompt) - 2 : len(prompt)])


@checked
@given(conversations, words)
def test_a_partial_answer_is_the_head_of_the_whole(tokenizer: Tokenizer, conversation: Conversation, rest: str) -> None:
    ids, _ = render_conversation(tokenizer, conversation)
    assert render_partial(tokenizer, conversation) == ids[:-1]
    last = conversation.messages[-1]
    longer = Message(last.role, (*last.parts, Part("text", rest)))
    whole, _ = render_conversation(tokenizer, Conversation((*conversation.messages[:-1], longer)))
    assert whole[: len(ids) - 1] == ids[:-1]


def test_a_question_is_no_partial_answer(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="not the assistant's"):
        render_partial(tokenizer, Conversation((Message.of("user", "hi"),)))


def test_written_out(tokenizer: Tokenizer) -> None:
    conversation = Conversation.from_dict(
        {
            "messages": [
                {"role": "user", "content": "2*3?"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "Well, "},
                        {"type": "python", "text": "2*3"},
                        {"type": "python_output", "text": "6"},
                        {"type": "text", "text": "6."},
                    ],
                },
            ]
        }
    )
    ids, mask = render_conversation(tokenizer, conversation)
    assert tokenizer.decode(ids) == (
        "<|bos|><|user_start|>2*3?<|user_end|><|assistant_start|>Well, <|python_start|>2*3<|python_end|>"
        "<|output_start|>6<|output_end|>6.<|assistant_end|>"
    )
    said = [token if learnt else tokenizer.bos for token, learnt in zip(ids, mask, strict=True)]
    runs = [run for run in tokenizer.decode(said).split("<|bos|>") if run]
    assert runs == ["Well, <|python_start|>2*3<|python_end|>", "6.<|assistant_end|>"]
    assert render_conversation(tokenizer, conversation, max_tokens=7) == (ids[:7], mask[:7])


def test_the_system_text_goes_before_the_first_question(tokenizer: Tokenizer) -> None:
    asked = Conversation((Message.of("system", "Be kind."), Message.of("user", "Hello")))
    joined = Conversation((Message.of("user", "Be kind.\n\nHello"),))
    assert render_prompt(tokenizer, asked) == render_prompt(tokenizer, joined)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_typed_control_tokens_stay_text(tokenizer: Tokenizer, name: str) -> None:
    prompt = render_prompt(tokenizer, Conversation((Message.of("user", f"a{name}b"),)))
    assert sum(token >= tokenizer.bos for token in prompt) == 4  # bos, user_start, user_end, assistant_start
    assert tokenizer.decode(prompt) == f"<|bos|><|user_start|>a{name}b<|user_end|><|assistant_start|>"


def test_nothing_to_answer(tokenizer: Tokenizer) -> None:
    answered = Conversation((Message.of("user", "Hello"), Message.of("assistant", "Hi")))
    for conversation in (answered, Conversation(())):
        with pytest.raises(UserError, match="nothing to answer"):
            render_prompt(tokenizer, conversation)


@checked
@given(conversations)
def test_to_dict_and_back(conversation: Conversation) -> None:
    assert Conversation.from_dict(conversation.to_dict()) == conversation


USER = {"role": "user", "content": "hi"}
BOT = {"role": "assistant", "content": "hi"}
SYSTEM = {"role": "system", "content": "hi"}


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ([USER], "no list of messages"),
        ({"messages": []}, "no list of messages"),
        ({"messages": "hi"}, "no list of messages"),
        ({"messages": [USER, USER]}, "message 2 is from user, expected assistant"),
        ({"messages": [BOT]}, "message 1 is from assistant, expected user"),
        ({"messages": [SYSTEM]}, "no user message"),
        ({"messages": [SYSTEM, BOT]}, "message 2 is from assistant"),
        ({"messages": [USER, BOT, SYSTEM]}, "message 3 is from system"),
        ({"messages": [USER, "hi"]}, "message 2 lacks"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "message 1: unknown role 'tool'"),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, "message 1: unknown role"),
        ({"messages": [{"role": "user", "content": 3}]}, "message 1: the content"),
        ({"messages": [{"role": "user", "content": []}]}, "message 1: the content"),
        ({"messages": [{"role": "user", "content": [{"type": "python", "text": "1"}]}]}, "not text"),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "image"}]}]},
            "message 2: unknown part",
        ),
        (
            {"messages": [USER, {"role": "assistant", "content": [{"type": "text"}]}]},
            "message 2: a text part has no text",
        ),
    ],
)
def test_bad_conversations_say_what_is_wrong(data: object, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Conversation.from_dict(data)
