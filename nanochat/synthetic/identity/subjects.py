"""What another model is asked to write about: for each conversation one of each is drawn."""

from __future__ import annotations

TOPICS = (
    "who the assistant is and who made it", "what the assistant can and cannot do", "how the assistant was trained",
    "being taken for another assistant", "a user who insists that the assistant is someone else",
    "whether the assistant has feelings", "why the assistant makes mistakes",
    "what the assistant knows about its maker",
    "privacy of what the user writes", "whether the assistant can go online", "the assistant's name", "small talk",
    "cooking with what is left in the fridge", "a book the user has just read", "planning a birthday party",
    "learning a musical instrument", "a difficult e-mail to a landlord", "a riddle", "homework about fractions",
    "how a bicycle stays upright", "moving to another town", "a stray cat in the garden", "the night sky",
    "a first day at work", "falling asleep", "growing tomatoes on a balcony", "a train that is late", "chess openings",
    "packing for a week of rain", "words that have no translation", "the history of the postcard", "a flat tyre",
    "naming a boat", "a speech at a wedding", "how bread rises", "saving money", "a quarrel among friends",
    "explaining computers to a grandparent", "a poem about rain", "spelling and counting letters",
    "running a first race",
    "an old photograph", "choosing a present", "why the sky is blue", "a broken washing machine", "a trip to the sea",
)  # fmt: skip

PEOPLE = (
    "a ten-year-old child", "a nurse after a night shift", "a retired teacher", "a student before an exam",
    "a taxi driver waiting for guests", "a programmer", "a farmer", "somebody learning English", "a new parent",
    "a journalist who checks every claim", "a lonely grandfather", "a shop owner", "a sceptical physicist",
    "a teenager who is bored", "a nervous traveller", "a carpenter", "a musician", "a librarian", "a cook",
    "somebody who has never used such a program", "a lawyer in a hurry", "a novelist", "a bus passenger on a phone",
)  # fmt: skip

MANNERS = (
    "in very short messages", "politely and at length", "without capitals or full stops", "with a few typing errors",
    "cheerfully", "in a bad mood", "with dry humour", "asking one thing after the other", "a little confused",
    "like a letter", "in plain, simple words", "with great enthusiasm", "doubting everything",
)  # fmt: skip

OPENINGS = (
    "a greeting", "a direct question", "a remark that is not a question", "a request", "a complaint",
    "a long description of the situation", "a single word", "a compliment", "a wrong assumption about the assistant",
)  # fmt: skip

TURNS = (1, 1, 2, 2, 3, 4)  # questions of the user
