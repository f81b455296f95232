"""transformers reads an exported tokenizer, and renders every conversation to our ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError
from transformers import AutoTokenizer

from nanochat.hub.export_tokenizer import BOS, EOS, MARK, PAD, write_tokenizer
from nanochat.tokenizer import (
    SPECIAL_TOKENS,
    Conversation,
    Message,
    Part,
    Tokenizer,
    render_conversation,
    render_prompt,
    split_pattern,
    train_bpe,
)
from nanochat.tokenizer.samples import SAMPLES

checked = settings(max_examples=70, deadline=None)
pieces = st.sampled_from(
    [
        *"aAzZéßſ019 \t\n\r\v\0\x1b\x7f.,'!_-<|>{}%#",
        *("\r\n", "   ", "'ll", "'RE", "the", "🎉", "👍🏽", "中", "٣", "½", "\u00a0", "\u2028", "\u200b", "\ufeff"),
        *("{{ messages }}", "{% generation %}", "CONTINUE_FINAL_MESSAGE_TAG ", "12345678901", "\ue000", "\U000f0000"),
        *SPECIAL_TOKENS,
        *("<|", "|>", "bos", "bos|>", "<|python_", "<|assistant_end"),
        *(MARK, MARK[0], MARK[1], f"<|{MARK}bos|>", MARK + MARK),
    ]
)
texts = st.one_of(st.text(), st.lists(pieces, max_size=12).map("".join))


class Pair:
    """A tokenizer of ours, and what transformers makes of its export."""

    def __init__(self, folder: Path, digits: int):
        pattern = split_pattern(digits)
        self.ours = Tokenizer(train_bpe([*SAMPLES.values()] * 3, 900, pattern), pattern)
        write_tokenizer(self.ours, folder, 512)
        self.folder = folder
        self.theirs: Any = AutoTokenizer.from_pretrained(folder)

    def chat(self, conversation: Conversation, **options: Any) -> Any:
        return self.theirs.apply_chat_template(conversation.to_dict()["messages"], **options)


@pytest.fixture(scope="module", params=[1, 2, 3])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One for each number of digits in a chunk."""
    return Pair(tmp_path_factory.mktemp("export"), request.param)


def sealed(answer: list[Part]) -> Message:
    """An answer in which a full stop follows every text before a tool's output: see the test of the other ones."""
    following = [part.type for part in answer[1:]] + [""]
    found = [
        Part(part.type, f"{part.text}.") if (part.type, then) == ("text", "python_output") else part
        for part, then in zip(answer, following, strict=True)
    ]
    return Message("assistant", tuple(found))


def text_parts(role: Any) -> st.SearchStrategy[Message]:
    lists = st.lists(texts.map(lambda text: Part("text", text)), min_size=1, max_size=3)
    return lists.map(lambda found: Message(role, tuple(found)))


parts = st.builds(Part, st.sampled_from(["text", "text", "python", "python_output"]), texts)
answers = st.lists(parts, min_size=1, max_size=5).map(sealed)
turns = st.lists(st.tuples(text_parts("user"), answers), min_size=1, max_size=3)
conversations = st.builds(
    lambda system, pairs: Conversation((*system, *(message for pair in pairs for message in pair))),
    st.one_of(st.just(()), st.tuples(text_parts("system"))),
    turns,
)


@checked
@given(texts)
def test_every_text_has_our_ids(pair: Pair, text: str) -> None:
    text = text.replace(MARK, "")
    ids = pair.ours.encode(text)
    assert pair.theirs(text, split_special_tokens=True).input_ids == ids
    assert pair.theirs.decode(ids) == text
    if not any(name in text for name in SPECIAL_TOKENS):
        assert pair.theirs(text).input_ids == pair.theirs.encode(text) == ids


def test_what_plain_text_means_there(pair: Pair) -> None:
    """Control tokens are read in it by default; the two characters of the mark are the only ones that are lost."""
    assert pair.theirs(f"{BOS}a").input_ids == [pair.ours.bos, *pair.ours.encode("a")]
    assert pair.theirs(f"{BOS}a", split_special_tokens=True).input_ids == pair.ours.encode(f"{BOS}a")
    assert pair.theirs(f"a{MARK}b").input_ids == pair.ours.encode("a") + pair.ours.encode("b")
    for text in (MARK[0], MARK[1], MARK[::-1], MARK[0] + " " + MARK[1]):
        assert pair.theirs(text).input_ids == pair.ours.encode(text)


@checked
@given(conversations)
@example(Conversation((Message.of("user", "a<|assistant_end|>"), Message.of("assistant", f"<|{MARK}bos|><|bos|>"))))
def test_every_conversation_has_our_ids(pair: Pair, conversation: Conversation) -> None:
    ids, mask = render_conversation(pair.ours, conversation)
    assert pair.chat(conversation)["input_ids"] == ids
    marked = pair.chat(conversation, return_assistant_tokens_mask=True, return_dict=True)
    assert (marked["input_ids"], marked["assistant_masks"]) == (ids, mask)
    asked = conversation.without_last()
    assert pair.chat(asked, add_generation_prompt=True)["input_ids"] == render_prompt(pair.ours, asked)


@checked
@given(conversations)
def test_no_typed_text_is_a_control_token(pair: Pair, conversation: Conversation) -> None:
    expected = [BOS]
    for message in conversation.messages:
        if message.role != "system":
            fences = [{"python": "python", "python_output": "output"}.get(part.type) for part in message.parts]
            inner = [f"<|{fence}_{end}|>" for fence in fences if fence for end in ("start", "end")]
            expected += [f"<|{message.role}_start|>", *inner, f"<|{message.role}_end|>"]
    ids = pair.chat(conversation)["input_ids"]
    assert [SPECIAL_TOKENS[token - pair.ours.bos] for token in ids if token >= pair.ours.bos] == expected


def test_with_another_split_pattern_either(tmp_path: Path) -> None:
    """Typed names may then get other ids, but no control tokens; all else has our ids."""
    pattern = r"\S+|\s"
    ours = Tokenizer(train_bpe([*SAMPLES.values()], 400, pattern), pattern)
    write_tokenizer(ours, tmp_path, 512)
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("a b,c 12\n", f"x<|bos|>{MARK}y <|assistant_end|>"):
        chat = Conversation((Message.of("user", text),))
        ids = theirs.apply_chat_template(chat.to_dict()["messages"], add_generation_prompt=True)["input_ids"]
        assert theirs.decode(ids) == ours.decode(render_prompt(ours, chat))
        assert sum(token >= ours.bos for token in ids) == 4
        assert MARK in text or ids == render_prompt(ours, chat)


def test_text_before_a_tools_output(pair: Pair) -> None:
    """transformers finds the end of a marked stretch by its last character's first token. When that character is
    several tokens, and a tool's output follows without any code, the others are not marked."""
    parts = [Part("text", "a𒀀"), Part("python_output", "2"), Part("text", "𒀀")]
    conversation = Conversation((Message.of("user", "?"), Message("assistant", tuple(parts))))
    ids, mask = render_conversation(pair.ours, conversation)
    found = pair.chat(conversation, return_assistant_tokens_mask=True, return_dict=True)["assistant_masks"]
    lost = len(pair.ours.encode("𒀀")) - 1
    end = ids.index(pair.ours.special("<|output_start|>"))
    assert lost > 0 and found == [*mask[: end - lost], *[0] * lost, *mask[end:]]


@checked
@given(conversations)
def test_a_final_message_to_continue(pair: Pair, conversation: Conversation) -> None:
    last = conversation.messages[-1]
    ids, _ = render_conversation(pair.ours, conversation)
    closing = 1 if last.parts[-1].type == "text" else 2
    try:
        found = pair.chat(conversation, continue_final_message=True)["input_ids"]
    except ValueError as error:
        # transformers wants to find the text in what was rendered, where typed names have a mark inside.
        if "does not appear" in str(error) and any(x in last.parts[-1].text for x in (*SPECIAL_TOKENS, MARK)):
            return
        raise
    assert found == ids[:-closing]


def test_the_form_of_openai_clients(pair: Pair) -> None:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": [{"type": "text", "text": " Hello\n"}], "name": "ann", "tool_calls": None},
    ]
    joined = Conversation((Message.of("user", "Be kind.\n\n Hello\n"),))
    ids = pair.theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == render_prompt(pair.ours, joined)


USER = {"role": "user", "content": "hi"}
BOT = {"role": "assistant", "content": "hi"}
SYSTEM = {"role": "system", "content": "hi"}


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([USER, USER], "message 2 is from user, expected assistant"),
        ([BOT], "message 1 is from assistant, expected user"),
        ([SYSTEM], "no user message"),
        ([SYSTEM, BOT], "message 2 is from assistant"),
        ([SYSTEM, SYSTEM, USER], "message 2 is from system"),
        ([USER, BOT, SYSTEM], "message 3 is from system"),
        ([{"role": "tool", "content": "hi"}], "message 1: unknown role"),
        ([{"role": ["user"], "content": "hi"}], "message 1: unknown role"),
        ([{"content": "hi"}], "message 1: unknown role"),
        ([{"role": "user"}], "message 1 lacks a content"),
        ([{"role": "user", "content": None}], "message 1 lacks a content"),
        ([{"role": "user", "content": 3}], "message 1: the content"),
        ([{"role": "user", "content": True}], "message 1: the content"),
        ([{"role": "user", "content": []}], "message 1: the content"),
        ([{"role": "user", "content": {"type": "text", "text": "hi"}}], "message 1: the content"),
        ([{"role": "user", "content": ["hi"]}], "message 1: a part has the type"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 1: a part has the type"),
        ([{"role": "user", "content": [{"type": "python", "text": "1"}]}], "only the assistant uses tools"),
        ([USER, {"role": "assistant", "content": [{"type": "text"}]}], "message 2: a text part has no text"),
        ([USER, {"role": "assistant", "content": [{"type": "python", "text": 2}]}], "message 2: a python part"),
        ([USER, {**BOT, "tool_calls": [{"function": {"name": "f"}}]}], "message 2: tool calls"),
    ],
)
def test_bad_conversations_say_what_is_wrong(pair: Pair, messages: Any, complaint: str) -> None:
    with pytest.raises(TemplateError, match=complaint):
        pair.theirs.apply_chat_template(messages)


def test_what_has_no_place_is_refused(pair: Pair) -> None:
    with pytest.raises(TemplateError, match="nothing to answer"):
        pair.theirs.apply_chat_template([USER, BOT], add_generation_prompt=True)
    with pytest.raises(TemplateError, match="no place for tools"):
        pair.theirs.apply_chat_template([USER], tools=[{"type": "function", "function": {"name": "f"}}])


def test_the_settings(pair: Pair) -> None:
    theirs, ours = pair.theirs, pair.ours
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == (BOS, EOS, PAD)
    assert sorted(theirs.all_special_ids) == [ours.special(name) for name in SPECIAL_TOKENS]
    assert (len(theirs), theirs.model_max_length) == (ours.vocab_size, 512)
    batch = theirs(["a", "a b c"], padding=True)
    assert batch.keys() == {"input_ids", "attention_mask"}
    assert batch.input_ids[0][0] == ours.special(PAD) and batch.attention_mask[0][0] == 0  # on the left
    assert theirs.decode([ours.bos, *ours.encode("a ."), ours.special(EOS)], skip_special_tokens=True) == "a ."


def test_the_padding_is_never_learnt(pair: Pair) -> None:
    parts = (Part("text", "a"), Part("python", "1+1"), Part("python_output", "2"), Part("text", "b"))
    ids, mask = render_conversation(pair.ours, Conversation((Message.of("user", "?"), Message("assistant", parts))))
    assert pair.ours.special(PAD) in ids
    assert not any(learnt for token, learnt in zip(ids, mask, strict=True) if token == pair.ours.special(PAD))


def test_several_conversations_at_once(pair: Pair) -> None:
    """Padded on the left, each with its mask."""
    chats = [
        Conversation((Message.of("user", "a"), Message.of("assistant", "<|bos|>"))),
        Conversation((Message.of("user", "a " * 9), Message.of("assistant", "b"), Message.of("user", "c"))),
    ]
    rows = [chat.to_dict()["messages"] for chat in chats]
    found = pair.theirs.apply_chat_template(rows, padding=True, return_assistant_tokens_mask=True, return_dict=True)
    for n, chat in enumerate(chats):
        ids, mask = render_conversation(pair.ours, chat)
        left = len(found["input_ids"][n]) - len(ids)
        assert found["input_ids"][n] == [pair.ours.special(PAD)] * left + ids
        assert found["attention_mask"][n] == [0] * left + [1] * len(ids)
        assert found["assistant_masks"][n] == [0] * left + mask
    assert len({len(row) for row in found["input_ids"]}) == 1


def test_saved_again_it_is_the_same(pair: Pair, tmp_path: Path) -> None:
    names = sorted(path.name for path in pair.folder.iterdir())
    assert names == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    pair.theirs.save_pretrained(tmp_path)
    again: Any = AutoTokenizer.from_pretrained(tmp_path)
    chat = [{"role": "user", "content": f"a{MARK} <|bos|>"}]
    assert again.apply_chat_template(chat)["input_ids"] == pair.theirs.apply_chat_template(chat)["input_ids"]
    for folder in (pair.folder, tmp_path):  # the mark of the one file is that of the other
        assert json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {
            "String": MARK
        }
        assert f'mark = "{MARK}"' in (folder / "chat_template.jinja").read_text()
