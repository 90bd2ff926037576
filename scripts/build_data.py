#!/usr/bin/env python3
"""Rebuild the data sets that mpicomp ships from the files of the UCI Machine Learning Repository.

    scripts/build_data.py --adult adult.data --adult-test adult.test --mushroom agaricus-lepiota.data
    scripts/build_data.py --news 20newsgroups-train.tab --news-test 20newsgroups-test.tab

The first three files are in the archives of https://doi.org/10.24432/C5XW20 (Adult) and https://doi.org/10.24432/C5959T
(Mushroom); the other two hold Twenty Newsgroups, a document a line, and `scripts/fetch_data.py` gets them. Each text must have
the sha256 that `mpicomp.data.DATA_SETS` states; a text with another one is not written.

Adult is coded as LIBSVM's a9a (Platt 1998, "Fast training of support vector machines using sequential minimal
optimization"): one binary feature for each category and for each bin of a number. Mushroom has one for each letter of
each attribute but stalk-root, which has missing values. The documents of Twenty Newsgroups under comp, rec, sci and talk (classes
0 to 3) say which of a thousand words occur in them: those that tell most of the class in the training part.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from math import log
from pathlib import Path

from mpicomp.data.sets import DATA_SETS, FILES

# A field's categories as one string of words, or the lower ends of its bins but the first.
ADULT: dict[str, str | list[int]] = {
    "age": [26, 33, 41, 50],
    "workclass": "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked",
    "fnlwgt": [106648, 158662, 196338, 259873],
    "education": "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th 7th-8th 12th Masters "
    "1st-4th 10th Doctorate 5th-6th Preschool",
    "education-num": [9, 10, 11, 13],
    "marital-status": "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent "
    "Married-AF-spouse",
    "occupation": "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty Handlers-cleaners "
    "Machine-op-inspct Adm-clerical Farming-fishing Transport-moving Priv-house-serv Protective-serv Armed-Forces",
    "relationship": "Wife Own-child Husband Not-in-family Other-relative Unmarried",
    "race": "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black",
    "sex": "Female Male",
    "capital-gain": [1],
    "capital-loss": [1],
    "hours-per-week": [35, 40, 41, 48],
    "native-country": "United-States Cambodia England Puerto-Rico Canada Germany Outlying-US(Guam-USVI-etc) India "
    "Japan Greece South China Cuba Iran Honduras Philippines Italy Poland Jamaica Vietnam Mexico Portugal Ireland "
    "France Dominican-Republic Laos Ecuador Taiwan Haiti Columbia Hungary Guatemala Nicaragua Scotland Thailand "
    "Yugoslavia El-Salvador Trinadad&Tobago Peru Hong Holand-Netherlands",
}
# The letters of each attribute, from cap-shape to habitat; none for stalk-root.
MUSHROOM = (
    "bcfksx fgsy bcegnpruwy ft acflmnpsy af cw bn beghknopruwy et - fksy fksy bcegnopwy bcegnopwy p nowy not eflnp "
    "bhknoruwy acnsvy dglmpuw"
)

TOPICS = ("comp", "rec", "sci", "talk")
NEWS_WORDS, RARE, SHORT = 1000, 20, 2  # words that count; those in fewer documents, or no longer than this, do not

Document = tuple[int, frozenset[str]]


def adult_rows(text: str) -> Iterator[str]:
    """The rows of `adult.data` or `adult.test`, coded; lines that are no record (header, blank) are passed over."""
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != len(ADULT) + 1 or not fields[0].isdigit():
            continue
        before, features = 0, []
        for field, coding in zip(fields, ADULT.values(), strict=False):
            if isinstance(coding, list):
                features.append(before + 1 + bisect_right(coding, int(field)))
                before += len(coding) + 1
            else:
                categories = coding.split()
                if field != "?":
                    features.append(before + 1 + categories.index(field))
                before += len(categories)
        yield _row(_sign(fields[-1].startswith(">50K")), features)


def mushroom_rows(text: str) -> Iterator[str]:
    """The rows of `agaricus-lepiota.data`, coded."""
    for line in text.split():
        kind, *letters = line.split(",")
        before, features = 0, []
        for letter, alphabet in zip(letters, MUSHROOM.split(), strict=True):
            if alphabet != "-":
                features.append(before + 1 + alphabet.index(letter))
                before += len(alphabet)
        yield _row(_sign(kind == "p"), features)


def documents(text: str) -> list[Document]:
    """(class, words) of each document under one of TOPICS; a line is the group, a tab, the words. Three lines of header."""
    found = []
    for line in text.split("\n")[3:]:
        group, _, words = line.partition("\t")
        topic = group.partition(".")[0]
        if topic in TOPICS:
            found.append((TOPICS.index(topic), frozenset(words.split())))
    return found


def vocabulary(training: list[Document]) -> dict[str, int]:
    """Index, from 1 in the order of the alphabet, of the words with the largest mutual information between class and occurrence."""
    N, sizes = len(training), Counter(topic for topic, _ in training)
    having = {topic: Counter(w for t, words in training if t == topic for w in words) for topic in sizes}
    total: Counter[str] = sum(having.values(), Counter())

    def information(word: str) -> float:
        gained = 0.0
        for topic, size in sorted(sizes.items()):
            n = having[topic][word]
            for both, share in ((n, total[word]), (size - n, N - total[word])):
                if both:
                    gained += both / N * log(both * N / (share * size))
        return gained

    counting = [word for word, n in total.items() if n >= RARE and len(word) > SHORT]
    ranked = sorted(counting, key=lambda word: (-round(information(word), 12), word))
    return {word: i for i, word in enumerate(sorted(ranked[:NEWS_WORDS]), 1)}


def news_rows(found: list[Document], index: dict[str, int]) -> Iterator[str]:
    """The rows of some documents, coded."""
    for topic, words in found:
        yield _row(topic, sorted(index[word] for word in words & index.keys()))


def _row(label: object, features: Iterable[int]) -> str:
    return " ".join([str(label), *(f"{feature}:1" for feature in features)]) + "\n"


def _sign(positive: bool) -> str:
    return "+1" if positive else "-1"


def write(name: str, rows: Iterable[str], directory: Path) -> Path:
    """Write the rows as xz, if their sha256 is the one stated for the set."""
    text = "".join(rows).encode()
    digest = hashlib.sha256(text).hexdigest()
    if digest != DATA_SETS[name].sha256:
        raise SystemExit(f"{name}: the text has sha256 {digest}, expected {DATA_SETS[name].sha256}; not written")
    path = directory / f"{name}.svm.xz"
    path.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
    print(f"{path}: {DATA_SETS[name].rows} rows, {path.stat().st_size} bytes")
    return path


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adult", type=Path, help="UCI's adult.data")
    parser.add_argument("--adult-test", type=Path, help="UCI's adult.test")
    parser.add_argument("--mushroom", type=Path, help="UCI's agaricus-lepiota.data")
    parser.add_argument("--news", type=Path, help="20newsgroups-train.tab")
    parser.add_argument(
        "--news-test", type=Path, help="20newsgroups-test.tab (with --news, whose words it is coded by)"
    )
    parser.add_argument("--out", type=Path, default=FILES, help="directory to write to (default: %(default)s)")
    options = parser.parse_args(arguments)
    sources = (("a9a", options.adult, adult_rows), ("a9a.t", options.adult_test, adult_rows))
    for name, path, code in (*sources, ("mushrooms", options.mushroom, mushroom_rows)):
        if path is not None:
            write(name, code(path.read_text()), options.out)
    if options.news is not None:
        training = documents(options.news.read_text())
        index = vocabulary(training)
        write("news4", news_rows(training, index), options.out)
        if options.news_test is not None:
            write("news4.t", news_rows(documents(options.news_test.read_text()), index), options.out)


if __name__ == "__main__":
    main()
