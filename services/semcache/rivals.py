"""What no judge may overrule: words that exclude one another, numbers and names of one question alone, one word for
another in the same sentence.

A judge reads meaning and is seldom wrong where two questions are built differently; of look-alikes that differ in one
place alone it is wrong too often (`training.py` measures both). Those are for the lexical gate, which knows its words.
"""

from __future__ import annotations

import re
from itertools import pairwise

from services.semcache.stem import stem
from services.semcache.words import NUMBERS

WORD = re.compile(r"\w+(?:['’]\w+)?|[^\w\s]")
SPAN = 3
"""Words of a place in which two equally built questions differ."""
NEGATIONS = frozenset("not no non never without neither nor nothing nobody none cannot hardly except n't".split())
DENIED = frozenset(
    """avoid prevent refuse reject deny forbid prohibit ban lack exclude except unless fail miss instead""".split()
)
"""Verbs and others that say "not", by their stems."""
PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "mis", "de", "re")
"""Of words that mean the opposite, or another thing, without them: "possible", "impossible"."""
GROUPS = """
first second third fourth fifth last=latest=final next previous=former earliest current=present initial original
min=minimum=minimal max=maximum=maximal average=mean median total
smallest largest=biggest lowest highest=tallest shortest longest deepest youngest oldest newest best worst most least
smaller larger=bigger lower higher=taller shorter longer older younger newer better worse more less=fewer
small=little large=big short long high=tall low old young new good bad
cheap expensive
cheaper dearer
cheapest dearest
fast=quick slow
faster=quicker slower
fastest=quickest slowest
ascending=ascend descending=descend
increase=raise=grow decrease=reduce=shrink=lower
open close=shut
buy=purchase sell
import export
upload download
send receive
lend borrow
arrive=arrival depart=departure=leave
enter=entry exit=leave
start stop
start=begin end=finish
enable disable
activate deactivate
lock unlock
install uninstall
subscribe unsubscribe
follow unfollow
mute unmute
encrypt decrypt
compress decompress extract
connect disconnect
attach detach
add remove=delete
hide show
push pull
win lose
pass fail
give take
ask answer
teach learn
employer employee
buyer seller
sender recipient=receiver
landlord tenant
teacher student=pupil
doctor patient nurse
before after during until=till since
above=over below=under
inside outside
internal external
indoor=indoors outdoor=outdoors
up down
on off
in out
front back=rear
top bottom middle
left right
north=northern south=southern east=eastern west=western northeast northwest southeast southwest
hot cold warm cool
wet dry
light dark heavy
early late
morning noon afternoon evening night midnight
day weekend week month quarter year decade century
second minute hour
daily hourly weekly monthly yearly=annual=annually
monday tuesday wednesday thursday friday saturday sunday
january february march april june july august september october november december
spring summer autumn=fall winter
christmas easter halloween thanksgiving
today tomorrow yesterday tonight
euro=eur dollar=usd pound=gbp yen=jpy dinar franc=chf krone krona rupee=inr peso ruble won yuan lira zloty rand shekel
dirham forint koruna baht=thb bitcoin=btc euro dollar
meter=metre kilometer=kilometre=km mile yard foot=feet inch centimeter=centimetre=cm millimeter=millimetre=mm
kilogram=kilo=kg gram pound=lb=lbs ounce=oz ton=tonne stone milligram=mg
liter=litre gallon pint cup tablespoon teaspoon milliliter=millilitre=ml ounce
celsius fahrenheit kelvin
byte bit kilobyte=kb megabyte=mb gigabyte=gb terabyte=tb
red green blue yellow black white brown pink purple orange gray=grey
json yaml xml csv toml html markdown pdf docx xlsx parquet avro
jpg=jpeg png gif svg webp
mp3 mp4 wav flac
python java javascript=js typescript=ts kotlin swift rust go=golang ruby php perl scala haskell cpp bash powershell
list tuple set dict=dictionary array map queue stack tree heap
string integer=int float boolean=bool
mysql postgres=postgresql sqlite mongodb redis oracle
windows macos=mac linux android ios ubuntu debian fedora
chrome firefox safari edge
github gitlab bitbucket
docker kubernetes podman
aws azure gcp
iphone ipad macbook laptop desktop tablet
english french german spanish italian portuguese dutch russian polish turkish arabic hebrew chinese=mandarin japanese
hindi swedish danish norwegian finnish greek czech hungarian romanian ukrainian thai vietnamese latin korean english
america=american europe=european asia=asian africa=african australia=australian antarctica=antarctic
mother=mum=mom father=dad brother sister son daughter uncle aunt cousin grandmother grandfather wife husband
man=male=men woman=female=women boy girl
actor actress
king queen prince princess
he=his=him she=her
breakfast lunch dinner=supper
vegetarian vegan
dog cat horse rabbit hamster bird
beef pork chicken lamb
tea coffee
wine beer
car bus train plane bike=bicycle motorcycle boat=ship taxi tram
physical digital
online offline
public private
domestic international
free paid
single double=twin triple
all=every some none=no half only
always never sometimes often rarely usually
cause=reason effect=consequence
advantage=benefit=pro disadvantage=drawback=con
input output
positive negative
singular plural
noun verb adjective adverb
synonym antonym=opposite
width=wide height=tall depth=deep length=long weight=weigh
price=cost size color=colour age name
birth=born death=die
married divorced
alive dead
solid liquid gas
plus minus
multiply divide
addition subtraction multiplication division
numerator denominator
client server
read write
row column
username password
email=e-mail phone address
refund exchange credit replacement
cancel pause postpone=reschedule
accept=approve=allow=permit reject=refuse=deny=forbid=decline=prohibit=ban
enable=activate=turn=switch allow=permit=let
disable=deactivate=turn=switch forbid=prohibit=ban=block
closer=nearer=near greater=farther=further=longer
absorb release=emit
appear vanish=disappear
arrival departure
ascend descend
attack=attacker defend=defense=defence=defender
borrower lender
build=construct=assemble demolish=destroy=dismantle
ceiling floor roof
come go
credit debit
creditor debtor
deposit withdraw=withdrawal
day night
demand supply
entrance exit
expand shrink
expense=expenditure income=revenue profit
fill empty
find lose
float sink
forget remember
friend enemy=foe
full empty
gain loss=lose
guest host
guilty innocent
hardware software
harvest=reap sow=plant
healthy sick=ill
import export
include exclude
inhale exhale
interior exterior
join leave=quit
legal illegal=unlawful
lend repay
lift drop
load unload
love=like hate=dislike
majority minority
maker buyer user
maximum=upper=most=ceiling minimum=lower=least
melt freeze boil evaporate condense
mother child father
near=close far
odd even
offense defense
optimist pessimist
pack unpack
parent child
past present future
peace war
plaintiff defendant
plug unplug
praise criticize=criticise
predator=hunter prey
presence absence
profit loss
promote demote
reward punish=punishment
rich=wealthy poor
rise fall=drop sink set
rural urban
safe dangerous=unsafe
save spend waste
senior junior
simple=easy complex=complicated=difficult=hard
sit stand lie
sleep wake
smooth rough
soft hard
sour sweet bitter salty
strengthen weaken
strength weakness
strong weak
succeed=success fail=failure
sunrise sunset
sharp blunt=dull
thick thin
tight loose
tighten loosen
undo redo
victory=win defeat=loss
virtue vice
visible invisible
wholesale retail
wide=broad narrow
winner loser
zenith nadir
artery vein
acid base=alkali
atom molecule
bacteria virus fungus
comet asteroid meteor planet star moon
deciduous evergreen
herbivore carnivore omnivore
latitude longitude
mammal reptile amphibian
mitosis meiosis
proton neutron electron
radius diameter circumference
stalactite stalagmite
speed acceleration
vowel consonant
"""
"""Words of a line exclude one another, but for those that are joined."""


def _rivals() -> dict[str, list[tuple[int, int]]]:
    """Line and place in it of each word."""
    found: dict[str, list[tuple[int, int]]] = {}
    for line, text in enumerate(GROUPS.strip().splitlines()):
        for place, alike in enumerate(text.split()):
            for word in alike.split("="):
                found.setdefault(stem(word), []).append((line, place))
    return found


RIVALS = _rivals()
DIGITS = {word: number for word, number in NUMBERS.items() if word not in ("one", "zero")}


def excluded(asked: str, known: str) -> str:
    """Why no judge may say that two questions are one: number, negation, rivals, order, place; "" where one may."""
    ours, theirs = (
        [DIGITS.get(word, word) for word in WORD.findall(text.lower().replace("’", "'"))] for text in (asked, known)
    )
    numbers = [sorted(word for word in side if any(letter.isdigit() for letter in word)) for side in (ours, theirs)]
    if numbers[0] != numbers[1] or _counts_another(ours, theirs):
        return "number"
    stems = [stem(word) for word in ours], [stem(word) for word in theirs]
    negations = [
        sum(word in NEGATIONS or word.endswith("n't") or root in DENIED for word, root in zip(side, roots, strict=True))
        for side, roots in ((ours, stems[0]), (theirs, stems[1]))
    ]
    if negations[0] % 2 != negations[1] % 2 or _has_turned(set(stems[0]), set(stems[1])):
        return "negation"
    only = [{at for word in one if word not in two for at in RIVALS.get(word, ())} for one, two in (stems, stems[::-1])]
    if any(line == other and place != another for line, place in only[0] for other, another in only[1]):
        return "rivals"
    if _lines(stems[0], stems[1]) != _lines(stems[1], stems[0]):
        return "order"
    return "place" if _in_one_place(ours, theirs) else ""


def _counts_another(ours: list[str], theirs: list[str]) -> bool:
    """Whether a number stands before a word in one question and before another one, which both have, in the other."""
    follows = [
        {word: stem(after) for word, after in pairwise(side) if word[0].isdigit() and after[0].isalpha()}
        for side in (ours, theirs)
    ]
    has = [{stem(word) for word in side} for side in (ours, theirs)]
    return any(
        one != (two := follows[1].get(number, one)) and one in has[1] and two in has[0]
        for number, one in follows[0].items()
    )


def _has_turned(ours: set[str], theirs: set[str]) -> bool:
    """Whether one question has a word that the other one turns: "possible", "impossible"."""
    ours, theirs = ours - theirs, theirs - ours
    return any(_turned(word) & two for one, two in ((ours, theirs), (theirs, ours)) for word in one)


def _turned(word: str) -> set[str]:
    """The word behind each prefix that turns it, and without what it is full of."""
    prefixed = {f"{prefix}{word}" for prefix in PREFIXES if len(word) > 2}
    return prefixed | {f"{word.removesuffix('ful')}less"}


def _lines(ours: list[str], theirs: list[str]) -> dict[int, list[int]]:
    """Rivals that both have, by line, as they first stand in ours; lines of one of them only do not count."""
    found: dict[int, list[int]] = {}
    for word in ours:
        for line, place in RIVALS.get(word, ()) if word in theirs else ():
            if place not in found.setdefault(line, []):
                found[line].append(place)
    return {line: places for line, places in found.items() if len(places) > 1}


def _in_one_place(ours: list[str], theirs: list[str]) -> bool:
    """Whether two questions are built alike and differ in one place of a few words."""
    one, two = ([word for word in side if word[0].isalnum()] for side in (ours, theirs))
    begin = 0
    while begin < min(len(one), len(two)) and one[begin] == two[begin]:
        begin += 1
    end = 0
    while end < min(len(one), len(two)) - begin and one[-1 - end] == two[-1 - end]:
        end += 1
    return max(len(one), len(two)) - begin - end <= SPAN and begin + end > 0
