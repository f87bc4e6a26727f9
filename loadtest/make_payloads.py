"""The texts of loadtest/payloads, written anew: python -m loadtest.make_payloads.

Questions and statements about Python, put together by seeded choice, so that the files are the same everywhere. How
many tokens a text has is a guess by its words; the tests count them. Knows nothing of how the files are read or sent.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from loadtest.workload import PAYLOADS

SEED = 0
QUERIES = 512
DOCUMENTS = 128
MIXED = 384
QUERY_WORDS = (6, 13)
DOCUMENT_WORDS = (210, 235)
MIXED_MEDIAN_WORDS = 24
MIXED_SPREAD = 0.9
"""Standard deviation of a length's logarithm: one text in 20 is more than 4 times as long as the median one."""
MIXED_SLACK_WORDS = 12
NEIGHBOURS = 5
"""Passages that a question of rag asks for."""

QUESTIONS = (
    "what is {}",
    "what does {} do",
    "how do I use {}",
    "when should I use {}",
    "why is {} so slow",
    "how fast is {}",
    "how do I test {}",
    "{} by example",
    "an introduction to {}",
    "common mistakes with {}",
    "is {} thread safe",
    "how can I learn {} quickly",
    "what came before {} in older versions",
    "the difference between {} and a plain function",
    "how do I explain {} to a beginner",
    "where does the manual describe {}",
)

SUBJECTS = (
    "a list comprehension", "a generator expression", "the with statement", "a context manager", "a decorator",
    "the lambda keyword", "a default argument", "a keyword argument", "the global statement", "a class attribute",
    "a property", "a data class", "an abstract class", "multiple inheritance", "the super function", "a metaclass",
    "a descriptor", "the slots attribute", "an exception group", "the finally clause", "the assert statement",
    "a custom exception", "an infinite loop", "the else clause of a loop", "the match statement", "tuple unpacking",
    "a named tuple", "a set operation", "a dictionary view", "the sort function", "a binary search",
    "string formatting", "a regular expression", "unicode text", "a byte string", "a memory view", "integer division",
    "floating point rounding", "a complex number", "the random module", "a virtual environment", "a relative import",
    "the import system", "a type hint", "a protocol class", "an async function", "the event loop", "a thread pool",
    "a process pool", "the global lock", "garbage collection", "a weak reference", "a profile of my program",
    "the debugger", "a unit test", "a log message", "a command line argument", "an environment variable",
    "a temporary file", "a text file", "a network socket", "a subprocess", "a queue", "a cache of results",
)  # fmt: skip

STATEMENTS = (
    "A list comprehension builds a new list in one expression, and it is often easier to read than a loop with append.",
    "A generator hands out one value at a time, so that a file of many gigabytes can be read with little memory.",
    "The with statement makes sure that a file is closed, even when the code inside of it raises an exception.",
    "A decorator takes a function and gives back another one, which usually calls the first and does something more.",
    "Default values are computed once, when the function is defined, so a list as a default is shared by all calls.",
    "Arguments after a star can only be given by name, which keeps calls with many options easy to read.",
    "A name that is assigned anywhere in a function is local to all of it, unless a statement says otherwise.",
    "Attributes of a class are shared by its instances until an instance is given an attribute of the same name.",
    "A property looks like an attribute from outside and runs a method when it is read.",
    "A data class writes the methods that every small class needs, such as the one that compares two of them.",
    "Abstract classes name the methods that others must have, and cannot be made into instances themselves.",
    "With more than one parent class, the order in which methods are looked up is fixed and can be printed.",
    "The class of a class decides what happens when the statement that defines it has been run.",
    "A class that lists its attributes beforehand takes less memory for each instance and refuses any other name.",
    "The clause at the end runs whether or not there was an error, and even when the function returns early.",
    "An assertion states what must be true at this point; it is left out when the program runs with optimisation.",
    "It is better to catch one kind of exception than all of them, since the others are mistakes of your own.",
    "An exception that is raised from another one keeps it as its cause, and both are shown to the reader.",
    "The else clause of a loop runs when the loop has come to its end without a break.",
    "A match statement compares a value with patterns, one after another, and binds the names that stand in them.",
    "The values of a tuple can be given to several names at once, and a star takes all that are left.",
    "Looking up a key in a dictionary takes the same time on average, however many keys there are.",
    "A set holds each value once; whether it holds one is found out much faster than in a list.",
    "Sorting is stable, so that things which compare as equal stay in the order that they had before.",
    "A sorted list can be searched by halves, which needs twenty steps for a million values.",
    "Strings do not change; every method that seems to change one gives back a new string.",
    "To join many pieces of text, collect them in a list and join them once at the end.",
    "A regular expression that is used often should be compiled once and kept under a good name.",
    "Text is made of characters and a file is made of bytes; an encoding says how one becomes the other.",
    "A view of memory lets two objects share the same bytes, so that nothing has to be copied.",
    "Division of two whole numbers gives a fraction, and two slashes give the next whole number below it.",
    "One tenth has no exact value in binary, and so the sum of three of them is not quite what you expect.",
    "Whole numbers have no upper limit, but those of many thousand digits take a long time to print.",
    "A generator of random numbers with a fixed seed gives the same numbers in each run, which helps in tests.",
    "Every project should have an environment of its own, so that its packages do not get in the way of others.",
    "A module is run once, when it is imported for the first time; after that, its names are simply there.",
    "Two modules that import each other work only as long as neither needs the other while it is loaded.",
    "Hints about types are not checked when a program runs, but a checker reads them before it does.",
    "A protocol describes what an object can do, and any class that can do so fits without naming it.",
    "An asynchronous function runs until it has to wait, and then lets others run on the same thread.",
    "A call that blocks inside of the event loop stops every other task for as long as it takes.",
    "Threads wait well for the network and the disk, but only one of them runs code of the language at a time.",
    "A pool of processes uses all cores of the machine, and pays for it by copying what goes in and out.",
    "An object goes away when nothing refers to it any more; cycles are found later by the collector.",
    "A weak reference does not keep its object alive, which is what a cache of large things needs.",
    "Before you make a program faster, measure where its time goes; most guesses turn out to be wrong.",
    "The best time of several runs says more about the code than the mean, which other programs disturb.",
    "A test should fail for one reason only, and its name should say what was expected.",
    "Tests that depend on the clock or on the network fail on days when nothing is wrong with the code.",
    "Messages in the log should say what happened and to what, so that nobody has to read the code at night.",
    "The text that a program prints for a wrong option should name the option and the nearest right one.",
    "Settings that differ from machine to machine belong into the environment and not into the code.",
    "A temporary folder that is made by a context manager is gone again when its block has been left.",
    "Paths are better handled as objects than as strings, since joining them then works on every system.",
    "A read from a socket gives what has come so far, which may be half of a message or one and a half.",
    "Give every call over the network a limit in time, or a server that is silent will hold it forever.",
    "Start other programs with a list of arguments, so that no shell reads a space or a quote in its own way.",
    "A queue between threads that has a limit slows down the one that writes when the reader cannot follow.",
    "A function without side effects can remember its results, as long as its arguments are not too many.",
    "Copying a list copies the references in it; the objects that they refer to are the same ones as before.",
    "Two objects can be equal without being the same one, and only the second can be asked with is.",
    "Slices take the first index and leave out the last, so that two of them that meet share nothing.",
    "The order of keys in a dictionary is the order in which they were put into it.",
    "An iterator can be walked through once; whoever needs its values twice has to keep them in a list.",
)

RAG_QUERIES = (
    "How does the with statement close a file?", "What is the order of evaluation in an expression?",
    "When is the else clause of a for loop executed?", "What happens when break is used inside of a while loop?",
    "How do I catch several kinds of exceptions at once?", "What does the finally clause guarantee?",
    "How is an exception chained to its cause?", "What does raise without an expression do?",
    "How does the import statement find a module?", "What is the difference between a package and a module?",
    "What does from module import star bring in?", "How are relative imports resolved?",
    "When are default parameter values evaluated?", "What does a star before a parameter name mean?",
    "How are keyword arguments matched to parameters?", "What does a function return without a return statement?",
    "What is the scope of a name that a function assigns?", "How does the nonlocal statement differ from global?",
    "What happens when a local variable is read before it is assigned?", "How do free variables of a block get bound?",
    "What is the body of a class executed in?", "How is the metaclass of a class determined?",
    "What does the slots attribute do?", "How is an attribute looked up on an instance?",
    "What is a data descriptor?", "How does super find the next method?",
    "Which methods make an object a context manager?", "Which method makes an object callable like a function?",
    "How do I make an object iterable?", "What has to be true of hash for objects that compare equal?",
    "How does Python decide whether an object is true?", "How are comparisons chained?",
    "What is the difference between is and equals?", "What does the in operator test?",
    "Which operators bind more tightly than others?", "How is integer division rounded for negative numbers?",
    "What does the modulo operator do with floats?", "How does the power operator bind to a unary minus?",
    "How are bitwise operations defined for integers?", "What is the result of shifting by a negative number?",
    "How do I write a hexadecimal integer literal?", "Where may underscores stand in a number?",
    "What is a raw string literal?", "How do formatted string literals evaluate their expressions?",
    "Which conversions does the format mini language know?", "How do I pad a number with zeros in a format string?",
    "What is the difference between bytes and str?", "Which escape sequences are recognised in strings?",
    "How do slices with a negative step work?", "What does deleting a slice of a list do?",
    "Which methods does a mutable sequence have?", "How are dictionary keys compared?",
    "What does a dictionary display with two equal keys hold?", "How is a set written as a literal?",
    "What is a generator expression?", "What does yield from do?",
    "How do I send a value into a generator?", "What happens when a generator is closed?",
    "What is a coroutine?", "Where may await be used?",
    "How does async with differ from with?", "What can stand after the colon of a lambda?",
    "How do assignment expressions work?", "What is augmented assignment to a list element?",
    "How are targets unpacked in an assignment?", "What does the del statement do to a name?",
    "What is the assert statement equivalent to?", "What does the pass statement do?",
    "How are patterns matched against classes?", "What is an irrefutable case block?",
    "How do type annotations of variables work?", "What are the standard types of the hierarchy?",
    "What is the ellipsis object?", "How do I start the debugger at a line?",
    "Which debugger command continues until the next line?", "What do complex numbers support?",
)  # fmt: skip


def files() -> dict[str, str]:
    """The text of every file, by its path in loadtest/payloads."""
    chooser = random.Random(SEED)
    pairs = [question.format(subject) for question in QUESTIONS for subject in SUBJECTS]
    queries = chooser.sample([text for text in pairs if QUERY_WORDS[0] <= count(text) <= QUERY_WORDS[1]], QUERIES)
    documents = [text_of(DOCUMENT_WORDS, chooser) for _ in range(DOCUMENTS)]
    mixed = [_any_length(chooser, pairs) for _ in range(MIXED)]
    return {
        "short_queries/queries.jsonl": _lines({"inputs": text} for text in queries),
        "documents/documents.jsonl": _lines({"inputs": text} for text in documents),
        "mixed/texts.jsonl": _lines({"inputs": text} for text in mixed),
        "rag/queries.jsonl": _lines({"query": text, "k": NEIGHBOURS} for text in RAG_QUERIES),
    }


def text_of(words: tuple[int, int], chooser: random.Random) -> str:
    """Statements in random order whose words and punctuation marks are at least the first and at most the second."""
    least, most = words
    chosen: list[str] = []
    length = 0
    for statement in chooser.sample(STATEMENTS, len(STATEMENTS)):
        if length >= least:
            break
        if length + count(statement) <= most:
            chosen.append(statement)
            length += count(statement)
    return " ".join(chosen)


def count(text: str) -> int:
    """Words and punctuation marks: a tokenizer makes a few more of them."""
    return len(re.findall(r"\w+|[^\w\s]", text))


def main(folder: Path = PAYLOADS) -> None:
    """Write the files."""
    for name, text in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _any_length(chooser: random.Random, questions: list[str]) -> str:
    """Lengths have a long tail, up to a document's; the shortest are questions."""
    words = chooser.lognormvariate(math.log(MIXED_MEDIAN_WORDS), MIXED_SPREAD)
    if words < min(map(count, STATEMENTS)):
        return chooser.choice(questions)
    least = min(round(words), DOCUMENT_WORDS[0])
    return text_of((least, least + MIXED_SLACK_WORDS), chooser)


def _lines(bodies: Iterable[Mapping[str, object]]) -> str:
    return "".join(json.dumps(body) + "\n" for body in bodies)


if __name__ == "__main__":
    main()
