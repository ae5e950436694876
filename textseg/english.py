"""English nouns: articles, number, and the phrase a noun is found by."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# fmt: off
DETERMINERS = frozenset((
    "a", "an", "the", "some", "this", "that", "these", "those", "my", "your", "his", "her", "its",
    "our", "their", "every", "any", "one",
))
PREPOSITIONS = frozenset((
    "on", "in", "at", "with", "of", "from", "near", "next", "behind", "under", "above", "below",
    "beside", "between", "by", "for", "to", "that", "which", "who", "wearing", "holding",
))
_PLURALS = {
    "person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice",
    "snowman": "snowmen", "fireman": "firemen", "policeman": "policemen", "goose": "geese",
    "tooth": "teeth", "foot": "feet", "ox": "oxen", "knife": "knives", "wife": "wives",
    "wolf": "wolves", "leaf": "leaves", "loaf": "loaves", "calf": "calves", "half": "halves",
    "shelf": "shelves", "elf": "elves", "scarf": "scarves", "thief": "thieves", "bus": "buses",
    "potato": "potatoes", "tomato": "tomatoes", "mango": "mangoes", "hero": "heroes",
    "volcano": "volcanoes", "mosquito": "mosquitoes", "lens": "lenses", "quiz": "quizzes",
    "cactus": "cacti", "axe": "axes", "taxi": "taxis", "kiwi": "kiwis", "bikini": "bikinis",
    "menu": "menus", "emu": "emus", "cookie": "cookies", "movie": "movies", "zombie": "zombies",
    "hoodie": "hoodies", "brownie": "brownies", "genie": "genies", "collie": "collies",
}
_SINGULARS = {plural: singular for singular, plural in _PLURALS.items()}
_IRREGULAR_ENDS = (
    "person", "woman", "child", "mouse", "tooth", "foot", "knife", "wolf", "shelf", "scarf",
    "bus", "lens", "wife",
)
_SAME_IN_BOTH = frozenset((
    "sheep", "fish", "deer", "moose", "salmon", "trout", "bison", "swine", "aircraft",
    "spacecraft", "species", "series", "gas", "canvas", "atlas", "news",
))
_ALWAYS_PLURAL = frozenset((
    "scissors", "glasses", "sunglasses", "eyeglasses", "goggles", "pants", "jeans", "shorts",
    "trousers", "tights", "pajamas", "pyjamas", "binoculars", "pliers", "tongs", "tweezers",
    "headphones", "skis", "stairs", "clothes",
))
_OTHER_THINGS = {
    "dog": ("hot", "corn", "prairie"), "bear": ("teddy",), "pig": ("guinea",), "lion": ("sea",),
    "horse": ("sea", "rocking"), "mouse": ("computer",), "boat": ("gravy",),
}
_SILENT_H = ("hour", "honest", "honour", "honor", "heir")
_SAID_AS_CONSONANT = re.compile(r"uni(?![dmn])|us[aeb]|uk|ur[aeiou]|ut[ei]|eu|ewe|one\b|once\b")
# fmt: on


def known_query(
    query: str, nouns: Sequence[str], synonyms: Mapping[str, str]
) -> tuple[str, str, str]:
    """The query in words of a closed vocabulary.

    The last words of its first noun phrase count, the longest that are a noun or a synonym, in the
    singular or the plural; adjectives and what follows a preposition stay.

    Args:
        nouns: the vocabulary; a query for one of them stays as it is.
        synonyms: singular words in lower case, and the noun each is asked as.

    Returns:
        (query, the word that was replaced, its noun); the last two are "" where none was.

    >>> known_query("a red automobile on the grass", ["car"], {"automobile": "car"})
    ('a red car on the grass', 'automobile', 'car')
    >>> known_query("the puppies", ["dog"], {"puppy": "dog"})[0]
    'the dogs'
    """
    found = list(re.finditer(r"[^\W_]+(?:[-'’][^\W_]+)*", query))
    words = [match.group().lower() for match in found]
    start = next((i for i, word in enumerate(words) if word not in DETERMINERS), 0)
    if words[start : start + 2] == ["pair", "of"] and words[start + 2 :]:
        start += 2
    ends = [i for i in range(start + 1, len(words)) if words[i] in PREPOSITIONS]
    end = ends[0] if ends else len(words)
    for first in range(start, end) if synonyms else ():
        phrase = " ".join(words[first:end])
        if object_noun(phrase, nouns) in nouns:
            break
        for word in (phrase, object_noun(phrase)):
            if word in synonyms:
                before, after = query[: found[first].start()], query[found[end - 1].end() :]
                noun = synonyms[word] if word == phrase else _plural_of(synonyms[word])
                article = re.search(r"(?<!\w)an?\s+$", before, re.IGNORECASE)
                if article:
                    before, noun = before[: article.start()], _with_article_like(article[0], noun)
                return f"{before}{noun}{after}", word, synonyms[word]
    return query, "", ""


def replace_noun(text: str, word: str, noun: str) -> str:
    """A text with another noun for a word, in the word's number and with an article that fits.

    >>> replace_noun("An automobile passes two automobiles.", "automobile", "car")
    'A car passes two cars.'
    """

    def swap(match: re.Match[str]) -> str:
        parts = re.fullmatch(
            r"(?:(an?|the)\s+)?(.*?)(['’]s?)?", match[0], re.IGNORECASE | re.DOTALL
        )
        article, phrase, ending = parts.groups("") if parts else ("", match[0], "")
        given = noun if " ".join(phrase.lower().split()) == word else _plural_of(noun)
        if article.lower() in ("a", "an"):
            return _with_article_like(article, given) + ending
        return f"{article} {given}{ending}".lstrip()

    return noun_pattern(word).sub(swap, text)


def _plural_of(noun: str) -> str:
    *before, last = noun.split()
    return " ".join([*before, plural(singular(last))])


def _with_article_like(article: str, noun: str) -> str:
    """The noun with its article, in upper case where the other article is."""
    text = with_article(noun)
    return text[0].upper() + text[1:] if article[0].isupper() else text


def object_noun(query: str, nouns: Sequence[str] = ()) -> str:
    """The bare noun of a query: lower case, without article, singular where that is a word.

    >>> object_noun("The Dogs"), object_noun("an apple"), object_noun("a pair of scissors")
    ('dog', 'apple', 'scissors')
    """
    words = query.lower().strip(" .,!?;:\"'").split()
    while len(words) > 1 and words[0] in DETERMINERS:
        words = words[1:]
    if words[:2] == ["pair", "of"] and words[2:]:
        words = words[2:]
    phrase = " ".join(words)
    for ending in ("", "s", "es"):
        if phrase.removesuffix(ending) in nouns:
            return phrase.removesuffix(ending)
    return " ".join([*words[:-1], singular(words[-1])]) if words else phrase


def with_article(noun: str) -> str:
    """The noun with its indefinite article; plurals have none.

    >>> [with_article(n) for n in ("apple", "dog", "unicorn", "umbrella", "hour", "scissors")]
    ['an apple', 'a dog', 'a unicorn', 'an umbrella', 'an hour', 'scissors']
    """
    last = noun.split()[-1].lower() if noun.split() else ""
    if not last or last in _ALWAYS_PLURAL or last in _SINGULARS:
        return noun
    first = noun.lower()
    vowel = first[0] in "aeiou" and not _SAID_AS_CONSONANT.match(first)
    return f"{'an' if vowel or first.startswith(_SILENT_H) else 'a'} {noun}"


def singular(word: str) -> str:
    """Singular of a lower-case English noun; unknown forms stay as they are.

    >>> [singular(w) for w in ("dogs", "buses", "berries", "people", "glass", "skis", "vases")]
    ['dog', 'bus', 'berry', 'person', 'glass', 'skis', 'vase']
    """
    if word in _SINGULARS:
        return _SINGULARS[word]
    if word in _ALWAYS_PLURAL or word in _SAME_IN_BOTH or word in _PLURALS or len(word) < 4:
        return word
    for one in _IRREGULAR_ENDS:
        if word.endswith(_PLURALS[one]):
            return word.removesuffix(_PLURALS[one]) + one
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zzes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def plural(word: str) -> str:
    """Plural of a lower-case English noun.

    >>> [plural(w) for w in ("dog", "bus", "berry", "person", "glass", "sheep", "boy")]
    ['dogs', 'buses', 'berries', 'people', 'glasses', 'sheep', 'boys']
    """
    if word in _PLURALS:
        return _PLURALS[word]
    if word in _SAME_IN_BOTH or word in _ALWAYS_PLURAL:
        return word
    for one in _IRREGULAR_ENDS:
        if word.endswith(one):
            return word.removesuffix(one) + _PLURALS[one]
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2:-1] not in tuple("aeiou"):
        return word[:-1] + "ies"
    return word + "s"


def noun_pattern(noun: str) -> re.Pattern[str]:
    *before, last = noun.split()
    forms = sorted({last, singular(last), plural(singular(last))}, key=len, reverse=True)
    start = "".join(re.escape(word) + r"\s+" for word in before)
    others = _OTHER_THINGS.get(singular(last), ()) if not before else ()
    guard = "".join(rf"(?<!\b{word}\s)" for word in others)
    ends = "|".join(map(re.escape, forms))
    return re.compile(
        rf"(?<![\w-])(?:(?:an?|the)\s+)?{guard}{start}(?:{ends})(?:['’]s|['’](?=\s))?(?![\w-])",
        re.IGNORECASE,
    )
