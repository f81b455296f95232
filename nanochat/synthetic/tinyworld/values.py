"""The words that facts are made of: every set has at least 20 plain English words."""

from __future__ import annotations

from nanochat.synthetic.tinyworld.wording import listed

FOODS = listed(
    "plums soup bread rice cheese noodles pancakes beans honey mushrooms carrots cherries dumplings pears "
    "potatoes salad yoghurt walnuts tomatoes pumpkin grapes peas lentils raisins"
)
# Only words that take "a", so that no sentence needs a choice between "a" and "an".
JOBS = listed(
    "baker tailor farmer teacher doctor painter gardener weaver potter miller hunter carpenter blacksmith "
    "librarian butcher shepherd sailor mason jeweller singer nurse plumber printer barber"
)
INSTRUMENTS = listed(
    "flute violin piano drum guitar harp trumpet banjo cello clarinet tuba fiddle lute horn harmonica "
    "bagpipe triangle xylophone mandolin recorder zither trombone saxophone bassoon"
)
HOBBIES = listed(
    "chess swimming fishing sewing dancing knitting cycling climbing rowing skating reading running "
    "juggling archery riding camping drawing wrestling hiking poetry bowling surfing fencing origami"
)
ANIMALS = listed(
    "fox badger rabbit squirrel hedgehog deer bear wolf goat donkey horse pony beaver mouse mole lizard "
    "turtle frog heron raven sparrow duck pigeon camel"
)
FODDER = listed(
    "acorns worms grass seeds clover snails moths leaves berries roots crumbs beetles nuts hay corn moss "
    "apples eggs flies thistles ants barley oats turnips"
)
COLOURS = listed(
    "red blue green yellow white black grey brown purple pink orange golden silver crimson violet scarlet "
    "turquoise cream beige ivory maroon lilac olive indigo"
)
DENS = listed(
    "barn cave cellar basket hedge burrow nest stable box boat chimney ditch tunnel shed tent barrel bush "
    "tower mill wagon well kitchen haystack drawer"
)
FEARS = listed(
    "thunder rain smoke bells dogs snow wind water fire ghosts owls spiders snakes shadows wasps mirrors "
    "brooms mud ice fog trains hail storms umbrellas"
)
GOODS = listed(
    "glass carpets clocks candles boots hats paper soap knives ropes bricks toys lamps perfume silk wool "
    "buttons chairs ink pipes gloves spoons maps needles"
)
MATERIALS = listed(
    "granite marble slate clay sandstone timber straw iron limestone concrete flint bamboo copper steel "
    "turf pebbles plaster chalk basalt tin brass bronze quartz lead"
)
FESTIVALS = listed(
    "lanterns kites masks flowers songs ribbons puppets drums stars feathers balloons roses dances riddles "
    "poems fireworks tulips games giants dragons torches crowns shells clowns"
)
FISH = listed(
    "trout salmon carp perch pike eel bream tench sturgeon minnow bass catfish herring barbel chub "
    "grayling whitefish loach burbot gudgeon zander sardine mullet shad"
)
TREES = listed(
    "willows oaks poplars birches pines elms maples alders beeches chestnuts cedars spruces palms firs "
    "hazels lindens larches cypresses hollies rowans yews laurels figs magnolias"
)
SOURCES = listed(
    "glacier swamp forest valley canyon meadow lake crater desert jungle marsh quarry ravine pond gorge "
    "field park cavern grove bog moor pasture fountain vineyard"
)
CARGOES = listed(
    "salt sugar coffee tea coal cotton wheat pepper spices cocoa cloth gold oil sand flour leather "
    "furniture books lemons bananas ginger rubber vanilla cement"
)
