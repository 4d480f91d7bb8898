"""What words mean, as far as wordings of everyday questions go: words of one meaning, and relations.

A group holds only words that may stand for one another whatever the question is about. Opposites, neighbours on a scale
and kinds of one thing never share a group.
"""

from __future__ import annotations


def table(text: str) -> tuple[tuple[str, ...], ...]:
    """Groups of words, one a line."""
    return tuple(tuple(line.split()) for line in text.strip().splitlines())


ACTIONS = table("""
accept
absorb
add
allow permit
answer reply respond response
apply application
arrive arrival
assemble assembly
attach
bake
begin start commence onset
boil
bring
buy purchase
cancel cancellation terminate termination discontinue
celebrate celebration
change switch modify alter amend adjust modification alteration amendment
charge recharge
choose select selection
clean cleaning
close shut
collect collection
consult consultation
combine
complain complaint
configure configuration setup
connect link pair hook-up connection
contact
convert conversion
cook
cover
create build make manufacture produce fabricate construct construction production creation
decrease reduce lower reduction
delete remove erase deletion removal
deliver delivery ship shipping shipment
depart departure leave
disable deactivate deactivation
disconnect unlink unpair
download
drive
eat
enable activate activation
end finish
exchange swap
expire expiry expiration
export
extend extension prolong
fix repair
fulfil fulfill
fly
forbid ban prohibit
freeze
give
grow
graduate graduation
happen occur
help assist assistance
host
hire rent rental
import
include comprise
inform notify
increase raise
install installation
invest investment
join
learn
study
login
logout
lose
measure measurement
melt
merge
move relocate
now current currently nowadays presently
open
order
park parking
participate participation
pause
pay payment
postpone reschedule
print
protect protection
recover recovery retrieve
recycle
refund reimbursement reimburse
register registration sign-up signup enrol enroll enrolment enrollment
renew renewal
repeat retake resit
replace replacement
substitute substitution
report
request
reserve reservation book booking
reset
restart reboot
return
run
save
sell
sort
speak talk
spell
stop
store keep
submit submission lodge
subscribe
swim
track trace
transfer
transmit transmission
translate translation
travel
treat treatment
uninstall
update
upgrade
upload
use usage utilize
verify verification
visit
wash
win
withdraw withdrawal
work function
""")
"""What is done; each line one meaning, the first word stands for all."""

MAKING = table("""
write writer author
paint painter
invent inventor invention
discover discoverer discovery
compose composer
direct director
design designer architect
found founder establish establishment
develop developer
sing singer
win winner
own owner
teach teacher
publish publisher publication
sculpt sculptor
""")
"""What somebody did, and who did it; a work stays written, whatever the tense."""

THINGS = table("""
advantage benefit upside
autumn
baggage luggage
big large huge
biggest largest greatest
bike bicycle
bill invoice
car automobile
child kid
colleague coworker
company firm
customer-service helpdesk
damaged broken faulty defective
difficult hard
disadvantage drawback downside
discount rebate
document paper paperwork
exam examination
doctor physician
drug medication medicine
eligible entitled
employee
famous renowned
fridge refrigerator
fast quick rapid quickly rapidly
fastest quickest
film movie
flat apartment
free gratis complimentary
gift present
headquarters
highest tallest
kind type
holiday vacation
illness disease sickness
immediately instantly
important
item product article merchandise
job occupation
lawyer attorney
main principal
maximum max top
minimum min least lowest
mother mom mum
father dad
overseas abroad
need require necessary mandatory compulsory obligatory
package parcel
phone telephone smartphone cellphone
photo picture photograph
plane airplane aircraft
policy rule
purpose
question
outage blackout
quiet
refuse
shop store
sick ill
sofa couch
subway metro
symptom
teenager
town
user-name username
voucher coupon
wage
salary
trash garbage rubbish
tv television
usa
warranty guarantee
whole entire
within inside
world earth globe
""")
"""Things and their kinds, likewise."""

PERSONS = frozenset(
    """author artist scientist person man woman painter writer inventor composer player actor architect athlete team
    club band singer physicist chemist explorer engineer director designer founder sculptor poet novelist musician
    researcher philosopher mathematician astronomer actress""".split()
)
"""After "which" they ask who; two of them ask for two things."""

RELATIONS = {
    line.split(":")[0].split()[0]: (tuple(line.split(":")[0].split()), frozenset(line.split(":")[1].split()))
    for line in """
price cost expense fare fee: charge pay ask expensive buy
height altitude elevation: reach rise tall high stand measure
depth: reach go deep
long length duration period: take last need require time period
width: measure wide
weight: weigh heavy measure
size: big measure
area: cover square surface
speed: run reach go travel move
age: old reach
temperature: reach get
population inhabitant: live person number
distance: separate apart away lie between
currency: use pay person money official legal tender
language: speak use person
capital: city seat government
warranty guarantee: period last long length
symbol: stand chemical element represent periodic table use letter
meaning mean: stand letter abbreviation acronym full form short
density: dense
frequency often: need
ingredient: contain have need use go
country nation: find lie
continent: find lie
limit allowance: allow maximum amount permit
point:
method: way option
policy rule:
detail information:
""".strip().splitlines()
}
"""What is asked of something, by its first name: its other names, and words that add nothing beside it."""

WITH_ACTIONS = {
    "reset": frozenset("forget lose".split()),
    "found": frozenset("be year".split()),
    "bear": frozenset("birth".split()),
    "happen": frozenset("place".split()),
    "discount": frozenset("get have offer available give eligible receive exist possible".split()),
    "refund": frozenset("get have money receive possible".split()),
    "warranty": frozenset("come".split()),
    "human": frozenset(["body"]),
    "document": frozenset("need submit bring show require present".split()),
    "most": frozenset(["have"]),
    "package": frozenset("deliver arrive".split()),
}
"""What adds nothing beside some other words."""

ONE_SIDED = {
    "long": frozenset("second minute hour day week month year".split()),
    "height": frozenset("meter foot".split()),
    "depth": frozenset("meter foot".split()),
    "distance": frozenset("mile kilometer meter".split()),
    "frequency": frozenset("day week month year".split()),
}
"""What one wording may have beyond the other beside some words."""

MIDDLE = frozenset(
    """begin end open close boil freeze bake cook melt expire change increase decrease work deliver charge stop print
    connect move run arrive depart happen include contain cover""".split()
)
"""What is done to something and what it does by itself: "boil an egg", "an egg boils"."""

UNBOUND = frozenset("need allow bear die more less free possible available valid safe legal".split())
"""May stand anywhere: no other word can take their role. So may superlatives."""

AVAILABLE = "get have obtain receive offer provide give available possible exist availability sell run"
ALLOWED = "allow permit bring welcome come ok okay"
USABLE = "use work valid accept possible redeem function apply"
COUNTED = "have exist total contain consist include belong get"
CONTAINED = "contain include find have present"
LIGHT = {
    "yes-no": (AVAILABLE, ALLOWED, USABLE),
    "where": ("find have", "find see view look", "find get obtain"),
    "when": ("happen occur be",),
    "why": ("happen occur be",),
    "how many": (COUNTED, "allow permit", "allow permit take", "allow permit bring", "play"),
    "how much": (COUNTED, "allow permit", "allow permit take", "allow permit bring"),
    "what": (CONTAINED, "available get have offer come sell"),
    "how": ("get receive",),
}
"""Words that stand for one another or add nothing, by what is asked for; of one group at a time."""

BY_ONESELF = frozenset("get obtain receive bring redeem use see view look pay buy submit show present come".split())
BY_OTHERS = frozenset("offer provide give sell run allow permit accept charge ask".split())
"""Of these and of what adds nothing: only where "I" do the former and "you" the latter; who gives does not get."""

SELF_SERVICE = frozenset(
    """enable disable delete cancel report track redeem download upload export import subscribe unsubscribe register
    login logout reset renew postpone reserve submit review""".split()
)
"""Where one can do these and how is one question."""

SOFT = frozenset(
    """<my> <your> person people customer user someone somebody everyone anyone official
    now usually normally typically generally also too overall exactly total if individual another per very""".split()
)
"""One wording may have these beyond the other; never one of them for another."""
