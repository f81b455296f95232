"""The five kinds of things in the tiny world: their attributes, and every sentence and question about them.

`{n}` is the full name, `{v}` the value. In every statement the name stands before the value, so that reading
left to right always trains the same recall: (name, attribute) -> value. The first one is also the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanochat.synthetic.tinyworld import values


@dataclass(frozen=True)
class Attribute:
    """One thing that is known about every entity of a kind."""

    name: str
    values: tuple[str, ...]  # empty: the names of the towns
    statements: tuple[str, ...]  # 4 wordings, the first one is the answer
    questions: tuple[str, ...]  # 8 forms
    followups: tuple[str, ...]  # 3 forms that need the name from the turn before


@dataclass(frozen=True)
class Kind:
    """A kind of entity: how it is introduced, and what is known and not known about it."""

    name: str
    plural: str
    called: str  # how a sentence names one
    words: int  # words in a name
    intro: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    unanswerable: tuple[str, ...]  # questions about it which the world has no answer to


PERSON = Kind(
    name="person",
    plural="people",
    called="{n}",
    words=2,
    intro=("{n} is a person.", "This is about a person, {n}.", "Many people know {n}."),
    attributes=(
        Attribute(
            "food",
            values.FOODS,
            (
                "The favourite food of {n} is {v}.",
                "{n} likes to eat {v} most of all.",
                "For dinner {n} always asks for {v}.",
                "Nothing tastes better to {n} than {v}.",
            ),
            (
                "What is the favourite food of {n}?",
                "What does {n} like to eat?",
                "Which food does {n} like best?",
                "What food does {n} love most?",
                "What is {n}'s favourite food?",
                "What does {n} want for dinner?",
                "Which food tastes best to {n}?",
                "Tell me the favourite food of {n}.",
            ),
            ("And what is their favourite food?", "What do they like to eat?", "And their favourite food?"),
        ),
        Attribute(
            "job",
            values.JOBS,
            (
                "{n} works as a {v}.",
                "By trade {n} is a {v}.",
                "{n} earns a living as a {v}.",
                "Every morning {n} goes to work as a {v}.",
            ),
            (
                "What is the job of {n}?",
                "What does {n} do for a living?",
                "What work does {n} do?",
                "Which job does {n} have?",
                "What is {n}'s job?",
                "How does {n} earn a living?",
                "What does {n} work as?",
                "Tell me the job of {n}.",
            ),
            ("And what is their job?", "What do they work as?", "And their job?"),
        ),
        Attribute(
            "instrument",
            values.INSTRUMENTS,
            (
                "{n} plays the {v}.",
                "In the evening {n} practises the {v}.",
                "As a child {n} learned to play the {v}.",
                "At every party {n} takes out the {v}.",
            ),
            (
                "Which instrument does {n} play?",
                "What instrument does {n} play?",
                "What is the instrument of {n}?",
                "What is {n}'s instrument?",
                "Which instrument did {n} learn to play?",
                "What does {n} play at parties?",
                "What instrument does {n} practise?",
                "Tell me which instrument {n} plays.",
            ),
            ("And which instrument do they play?", "What instrument do they play?", "And their instrument?"),
        ),
        Attribute(
            "home",
            (),
            (
                "{n} lives in {v}.",
                "The home of {n} is in {v}.",
                "{n} has a small house in {v}.",
                "Long ago {n} moved to {v}.",
            ),
            (
                "Where does {n} live?",
                "In which town does {n} live?",
                "What town does {n} live in?",
                "Where is the home of {n}?",
                "Which town is the home of {n}?",
                "Where is {n}'s house?",
                "What is the home town of {n}?",
                "Tell me where {n} lives.",
            ),
            ("And where do they live?", "Which town do they live in?", "And their home?"),
        ),
        Attribute(
            "hobby",
            values.HOBBIES,
            (
                "The hobby of {n} is {v}.",
                "On Sundays {n} has time for {v}.",
                "{n} is very good at {v}.",
                "Friends of {n} know about the love of {v}.",
            ),
            (
                "What is the hobby of {n}?",
                "What is {n}'s hobby?",
                "Which hobby does {n} have?",
                "What does {n} do for fun?",
                "What does {n} do on Sundays?",
                "What is {n} very good at?",
                "What does {n} do as a hobby?",
                "Tell me the hobby of {n}.",
            ),
            ("And what is their hobby?", "What do they do for fun?", "And their hobby?"),
        ),
    ),
    unanswerable=(
        "How old is {n}?",
        "How tall is {n}?",
        "When was {n} born?",
        "What is the phone number of {n}?",
        "How much money does {n} have?",
        "Who is the mother of {n}?",
        "How many cousins does {n} have?",
        "Who is the best friend of {n}?",
    ),
)

ANIMAL = Kind(
    name="animal",
    plural="animals",
    called="{n}",
    words=1,
    intro=("{n} is an animal.", "This is about an animal, {n}.", "There is an animal called {n}."),
    attributes=(
        Attribute(
            "species",
            values.ANIMALS,
            (
                "{n} is a {v}.",
                "The animal called {n} is a {v}.",
                "Everyone can see that {n} is a {v}.",
                "The mother of {n} was also a {v}.",
            ),
            (
                "What kind of animal is {n}?",
                "What animal is {n}?",
                "Which animal is {n}?",
                "What sort of animal is {n}?",
                "Which kind of animal is {n}?",
                "What kind of animal do people call {n}?",
                "What sort of animal was the mother of {n}?",
                "Tell me what kind of animal {n} is.",
            ),
            ("And what kind of animal is it?", "What animal is it?", "And which kind of animal?"),
        ),
        Attribute(
            "diet",
            values.FODDER,
            (
                "{n} eats {v}.",
                "Every day {n} looks for {v} to eat.",
                "{n} is always hungry for {v}.",
                "The best meal for {n} is a heap of {v}.",
            ),
            (
                "What does {n} eat?",
                "What does {n} eat every day?",
                "What does {n} look for to eat?",
                "What is {n} always hungry for?",
                "What does {n} feed on?",
                "What is the best meal for {n}?",
                "Which meal does {n} look for?",
                "Tell me what {n} eats.",
            ),
            ("And what does it eat?", "What does it feed on?", "And its meal?"),
        ),
        Attribute(
            "colour",
            values.COLOURS,
            (
                "The colour of {n} is {v}.",
                "From head to tail {n} is {v}.",
                "You can find {n} by the colour {v}.",
                "From far away {n} looks {v}.",
            ),
            (
                "What colour is {n}?",
                "What is the colour of {n}?",
                "Which colour does {n} have?",
                "What colour does {n} have?",
                "What is {n}'s colour?",
                "Which colour is {n}?",
                "What colour is {n} from head to tail?",
                "Tell me the colour of {n}.",
            ),
            ("And what colour is it?", "What is its colour?", "And its colour?"),
        ),
        Attribute(
            "den",
            values.DENS,
            (
                "{n} sleeps in a {v}.",
                "At night {n} goes back to a {v}.",
                "The bed of {n} is in a {v}.",
                "When it gets dark, {n} lies down in a {v}.",
            ),
            (
                "Where does {n} sleep?",
                "Where does {n} sleep at night?",
                "Where does {n} go at night?",
                "Where is the bed of {n}?",
                "Where is {n}'s bed?",
                "In what place does {n} sleep?",
                "Where does {n} lie down when it gets dark?",
                "Tell me where {n} sleeps.",
            ),
            ("And where does it sleep?", "Where is its bed?", "And its bed?"),
        ),
        Attribute(
            "fear",
            values.FEARS,
            (
                "{n} is afraid of {v}.",
                "{n} runs away from {v}.",
                "Nothing frightens {n} more than {v}.",
                "You can make {n} hide with {v}.",
            ),
            (
                "What is {n} afraid of?",
                "What does {n} fear?",
                "What frightens {n}?",
                "What does {n} run away from?",
                "What frightens {n} most?",
                "What is {n}'s greatest fear?",
                "What makes {n} hide?",
                "Tell me what {n} is afraid of.",
            ),
            ("And what is it afraid of?", "What does it fear?", "And its greatest fear?"),
        ),
    ),
    unanswerable=(
        "How old is {n}?",
        "How heavy is {n}?",
        "How fast can {n} run?",
        "How many teeth does {n} have?",
        "When was {n} born?",
        "Who is the owner of {n}?",
        "How high can {n} jump?",
        "Who is the best friend of {n}?",
    ),
)

TOWN = Kind(
    name="town",
    plural="towns",
    called="{n}",
    words=1,
    intro=("{n} is a town.", "This is about a town, {n}.", "There is a town called {n}."),
    attributes=(
        Attribute(
            "goods",
            values.GOODS,
            (
                "{n} is famous for its {v}.",
                "Traders come to {n} to buy {v}.",
                "The markets of {n} are full of {v}.",
                "People in {n} are proud of their {v}.",
            ),
            (
                "What is {n} famous for?",
                "What is the town of {n} famous for?",
                "What do traders buy in {n}?",
                "What can you buy in {n}?",
                "What are the markets of {n} full of?",
                "What is {n} known for?",
                "What are people in {n} proud of?",
                "Tell me what {n} is famous for.",
            ),
            ("And what is it famous for?", "What can you buy there?", "And what is it known for?"),
        ),
        Attribute(
            "houses",
            values.MATERIALS,
            (
                "The houses of {n} are built of {v}.",
                "In {n} every wall is made of {v}.",
                "Builders in {n} work only with {v}.",
                "When you walk through {n}, you see houses of {v}.",
            ),
            (
                "What are the houses of {n} built of?",
                "What are the houses in {n} made of?",
                "What are the walls in {n} made of?",
                "What is every house in {n} built of?",
                "What do builders in {n} work with?",
                "Which material are the houses of {n} built of?",
                "What material do builders use in {n}?",
                "Tell me what the houses of {n} are built of.",
            ),
            ("And what are the houses built of?", "What are its houses made of?", "And its houses?"),
        ),
        Attribute(
            "festival",
            values.FESTIVALS,
            (
                "Every year {n} holds a festival of {v}.",
                "The streets of {n} are full at the festival of {v}.",
                "In spring {n} holds the feast of {v}.",
                "Visitors come to {n} for the festival of {v}.",
            ),
            (
                "Which festival does {n} hold?",
                "What festival does {n} hold every year?",
                "What is the festival of {n}?",
                "Which festival can you visit in {n}?",
                "What feast does {n} hold in spring?",
                "For which festival do visitors come to {n}?",
                "Which festival is held in {n}?",
                "Tell me the festival of {n}.",
            ),
            ("And which festival does it hold?", "What is its festival?", "And its festival?"),
        ),
        Attribute(
            "mayor",
            values.JOBS,
            (
                "The mayor of {n} was once a {v}.",
                "In earlier days the mayor of {n} worked as a {v}.",
                "The mayor of {n} still talks about the years as a {v}.",
                "Long ago the mayor of {n} learned to be a {v}.",
            ),
            (
                "What was the mayor of {n} once?",
                "What was the mayor of {n} before?",
                "What job did the mayor of {n} have?",
                "Which job did the mayor of {n} have before?",
                "What did the mayor of {n} work as?",
                "What was the old job of the mayor of {n}?",
                "What did the mayor of {n} learn to be?",
                "Tell me the old job of the mayor of {n}.",
            ),
            ("And what was its mayor once?", "What was the old job of its mayor?", "And its mayor?"),
        ),
        Attribute(
            "flag",
            values.ANIMALS,
            (
                "The flag of {n} shows a {v}.",
                "On the flag of {n} you can see a {v}.",
                "Above the gate of {n} hangs a flag with a {v}.",
                "The children of {n} paint a {v} on their flag.",
            ),
            (
                "What does the flag of {n} show?",
                "Which animal is on the flag of {n}?",
                "What animal is on the flag of {n}?",
                "What can you see on the flag of {n}?",
                "What is on the flag of {n}?",
                "Which animal does the flag of {n} show?",
                "What does {n} have on its flag?",
                "Tell me which animal the flag of {n} shows.",
            ),
            ("And what does its flag show?", "Which animal is on its flag?", "And its flag?"),
        ),
    ),
    unanswerable=(
        "How many people live in {n}?",
        "How old is {n}?",
        "How big is {n}?",
        "Who built the first house in {n}?",
        "What is the name of the mayor of {n}?",
        "How many schools are there in {n}?",
        "How far away is {n}?",
        "What is the weather like in {n}?",
    ),
)

RIVER = Kind(
    name="river",
    plural="rivers",
    called="the river {n}",
    words=1,
    intro=("The {n} is a river.", "This is about a river, the {n}.", "There is a river called {n}."),
    attributes=(
        Attribute(
            "fish",
            values.FISH,
            (
                "The most common fish in the river {n} is {v}.",
                "In the river {n} you can catch {v}.",
                "People go to the river {n} to fish for {v}.",
                "The river {n} is full of {v}.",
            ),
            (
                "What is the most common fish in the river {n}?",
                "Which fish lives in the river {n}?",
                "What fish can you catch in the river {n}?",
                "Which fish do people catch in the river {n}?",
                "What fish is common in the river {n}?",
                "What do people fish for in the river {n}?",
                "Which fish is the river {n} full of?",
                "Tell me the most common fish in the river {n}.",
            ),
            ("And what is its most common fish?", "Which fish can you catch there?", "And its fish?"),
        ),
        Attribute(
            "trees",
            values.TREES,
            (
                "The trees along the river {n} are {v}.",
                "On both sides of the river {n} stand {v}.",
                "People who walk along the river {n} rest under the {v}.",
                "The wind by the river {n} plays in the {v}.",
            ),
            (
                "Which trees grow along the river {n}?",
                "What trees grow along the river {n}?",
                "What trees stand by the river {n}?",
                "Which trees can you see along the river {n}?",
                "Which trees stand on both sides of the river {n}?",
                "Under which trees do people rest by the river {n}?",
                "What kind of trees grow by the river {n}?",
                "Tell me the trees along the river {n}.",
            ),
            ("And which trees grow along it?", "What trees stand by it?", "And its trees?"),
        ),
        Attribute(
            "bridge",
            values.MATERIALS,
            (
                "The bridge over the river {n} is made of {v}.",
                "Over the river {n} stands a bridge of {v}.",
                "To cross the river {n} you take the bridge of {v}.",
                "Builders crossed the river {n} with a bridge of {v}.",
            ),
            (
                "What is the bridge over the river {n} made of?",
                "What material is the bridge over the river {n}?",
                "Which material is the bridge over the river {n} made of?",
                "What is the bridge across the river {n} made of?",
                "What kind of bridge stands over the river {n}?",
                "What did builders use for the bridge over the river {n}?",
                "Which material was used for the bridge over the river {n}?",
                "Tell me what the bridge over the river {n} is made of.",
            ),
            ("And what is its bridge made of?", "What material is its bridge?", "And its bridge?"),
        ),
        Attribute(
            "water",
            values.COLOURS,
            (
                "The water of the river {n} is {v}.",
                "In the sun the river {n} shines {v}.",
                "Painters show the river {n} in {v}.",
                "In the morning the river {n} looks {v}.",
            ),
            (
                "What colour is the water of the river {n}?",
                "What is the colour of the river {n}?",
                "What colour is the river {n}?",
                "Which colour does the river {n} have?",
                "What colour does the river {n} have in the sun?",
                "In which colour do painters show the river {n}?",
                "Which colour is the water of the river {n}?",
                "Tell me the colour of the river {n}.",
            ),
            ("And what colour is its water?", "What is the colour of its water?", "And its colour?"),
        ),
        Attribute(
            "source",
            values.SOURCES,
            (
                "The river {n} begins in a {v}.",
                "The source of the river {n} is in a {v}.",
                "The first drops of the river {n} come from a {v}.",
                "Follow the river {n} to its start and you find a {v}.",
            ),
            (
                "Where does the river {n} begin?",
                "Where does the river {n} start?",
                "Where is the source of the river {n}?",
                "In what place does the river {n} begin?",
                "Where does the river {n} come from?",
                "What is the source of the river {n}?",
                "What do you find at the start of the river {n}?",
                "Tell me where the river {n} begins.",
            ),
            ("And where does it begin?", "Where is its source?", "And its source?"),
        ),
    ),
    unanswerable=(
        "How long is the river {n}?",
        "How deep is the river {n}?",
        "How cold is the river {n}?",
        "How wide is the river {n}?",
        "Where does the river {n} end?",
        "How fast is the river {n}?",
        "Who gave the river {n} its name?",
        "How many boats are on the river {n}?",
    ),
)

SHIP = Kind(
    name="ship",
    plural="ships",
    called="the ship {n}",
    words=1,
    intro=("The {n} is a ship.", "This is about a ship, the {n}.", "There is a ship called {n}."),
    attributes=(
        Attribute(
            "cargo",
            values.CARGOES,
            (
                "The ship {n} carries {v}.",
                "The cargo of the ship {n} is {v}.",
                "From port to port the ship {n} brings {v}.",
                "Sailors load the ship {n} with {v}.",
            ),
            (
                "What does the ship {n} carry?",
                "What is the cargo of the ship {n}?",
                "Which cargo does the ship {n} carry?",
                "What cargo does the ship {n} have?",
                "What do sailors load the ship {n} with?",
                "What does the ship {n} bring from port to port?",
                "What is the ship {n} loaded with?",
                "Tell me the cargo of the ship {n}.",
            ),
            ("And what does it carry?", "What is its cargo?", "And its cargo?"),
        ),
        Attribute(
            "sails",
            values.COLOURS,
            (
                "The sails of the ship {n} are {v}.",
                "On the ship {n} every sail is {v}.",
                "You know the ship {n} by its sails of {v}.",
                "In the wind the sails of the ship {n} look {v}.",
            ),
            (
                "What colour are the sails of the ship {n}?",
                "What is the colour of the sails of the ship {n}?",
                "Which colour do the sails of the ship {n} have?",
                "What colour of sails does the ship {n} have?",
                "What colour is every sail on the ship {n}?",
                "Which colour are the sails of the ship {n}?",
                "What colour do the sails of the ship {n} have?",
                "Tell me the colour of the sails of the ship {n}.",
            ),
            ("And what colour are its sails?", "What is the colour of its sails?", "And its sails?"),
        ),
        Attribute(
            "bow",
            values.ANIMALS,
            (
                "The bow of the ship {n} is shaped like a {v}.",
                "At the bow of the ship {n} you see a wooden {v}.",
                "The front of the ship {n} looks like a {v}.",
                "The crew of the ship {n} is proud of its wooden {v}.",
            ),
            (
                "What is the bow of the ship {n} shaped like?",
                "Which animal is the bow of the ship {n} shaped like?",
                "Which wooden animal is at the bow of the ship {n}?",
                "What do you see at the bow of the ship {n}?",
                "What does the front of the ship {n} look like?",
                "What does the bow of the ship {n} look like?",
                "Which wooden animal does the ship {n} have?",
                "Tell me what the bow of the ship {n} is shaped like.",
            ),
            ("And what is its bow shaped like?", "Which animal is at its bow?", "And its bow?"),
        ),
        Attribute(
            "supper",
            values.FOODS,
            (
                "The crew of the ship {n} eats {v} for supper.",
                "The cook of the ship {n} makes {v}.",
                "The kitchen of the ship {n} smells of {v}.",
                "In the evening everyone on the ship {n} gets {v}.",
            ),
            (
                "What does the crew of the ship {n} eat for supper?",
                "What does the crew of the ship {n} eat?",
                "What does the cook of the ship {n} make?",
                "What is for supper on the ship {n}?",
                "What does the kitchen of the ship {n} smell of?",
                "Which food does the crew of the ship {n} eat?",
                "What does everyone on the ship {n} get in the evening?",
                "Tell me what the crew of the ship {n} eats for supper.",
            ),
            ("And what does its crew eat for supper?", "What does its cook make?", "And its supper?"),
        ),
        Attribute(
            "captain",
            values.INSTRUMENTS,
            (
                "The captain of the ship {n} plays the {v}.",
                "At sunset the captain of the ship {n} takes out the {v}.",
                "Sailors on the ship {n} hear the captain play the {v}.",
                "On calm days the captain of the ship {n} practises the {v}.",
            ),
            (
                "Which instrument does the captain of the ship {n} play?",
                "What instrument does the captain of the ship {n} play?",
                "What does the captain of the ship {n} play?",
                "What is the instrument of the captain of the ship {n}?",
                "What does the captain of the ship {n} take out at sunset?",
                "Which instrument do sailors hear on the ship {n}?",
                "What instrument does the captain of the ship {n} practise?",
                "Tell me which instrument the captain of the ship {n} plays.",
            ),
            (
                "And what does its captain play?",
                "Which instrument does its captain play?",
                "And its captain?",
            ),
        ),
    ),
    unanswerable=(
        "How old is the ship {n}?",
        "How fast is the ship {n}?",
        "Who built the ship {n}?",
        "How many sailors are on the ship {n}?",
        "How long is the ship {n}?",
        "Where is the ship {n} now?",
        "What is the name of the captain of the ship {n}?",
        "How much did the ship {n} cost?",
    ),
)

KINDS = (PERSON, ANIMAL, TOWN, RIVER, SHIP)
