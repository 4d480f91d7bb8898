"""Questions in several wordings, and questions that look like them: our own third set beside the generator's halves.

`TUNED` may be read by whoever writes the gate. `MEASURED` was written before the gate that it measures, and its groups
are not used to choose words or rules.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """One question.

    Attributes:
        same: wordings that have one answer.
        other: questions with another answer.
    """

    same: tuple[str, ...]
    other: tuple[str, ...]


def groups(text: str) -> tuple[Group, ...]:
    """Groups apart by empty lines; lines that begin with "!" have another answer."""
    found = []
    for block in text.strip().split("\n\n"):
        lines = block.splitlines()
        same = tuple(line for line in lines if not line.startswith("!"))
        found.append(Group(same, tuple(line[1:].strip() for line in lines if line.startswith("!"))))
    return tuple(found)


TUNED = groups("""
How tall is the Eiffel Tower?
What is the height of the Eiffel Tower?
Tell me how high the Eiffel Tower is.
What height does the Eiffel Tower reach?
! How tall is the Tokyo Tower?
! How old is the Eiffel Tower?
! What is the weight of the Eiffel Tower?

How many people live in Iceland?
What is the population of Iceland?
How large is Iceland's population?
What's the number of inhabitants of Iceland?
! What is the population of Ireland?
! How many people visit Iceland?
! What is the area of Iceland?

Who wrote The Trial?
Who is the author of The Trial?
Which author wrote The Trial?
Name the writer of The Trial.
By whom was The Trial written?
! Who wrote The Castle?
! When was The Trial written?
! Who translated The Trial?

How do I cancel my subscription?
What is the process for cancelling my subscription?
I would like to cancel my subscription. How can I do that?
How can I terminate my subscription?
! How do I renew my subscription?
! How do I change my subscription?
! How can I cancel my order?

What is your return policy?
What are your rules for returns?
Can you explain your return policy?
Tell me about the return policy you have.
! What is your privacy policy?
! What is your shipping policy?

How long does shipping to Canada take?
What is the delivery time to Canada?
When will my order arrive if I ship it to Canada?
How many days does delivery to Canada take?
! How long does shipping from Canada take?
! How much does shipping to Canada cost?
! How long does shipping to Mexico take?

How much does express delivery cost?
What is the price of express delivery?
What do you charge for express delivery?
How expensive is express delivery?
! How much does standard delivery cost?
! How long does express delivery take?

At what temperature does mercury freeze?
What is the freezing point of mercury?
What's mercury's freezing temperature?
How cold must it be for mercury to freeze?
! At what temperature does mercury boil?
! What is the freezing point of bromine?
! What is the boiling point of mercury?

What is the chemical symbol of tungsten?
Which symbol stands for tungsten in the periodic table?
What symbol does tungsten have?
! What is the chemical symbol of titanium?
! What is the atomic number of tungsten?

When was Marie Curie born?
What is Marie Curie's date of birth?
What is the birth date of Marie Curie?
On which day was Marie Curie born?
! When did Marie Curie die?
! Where was Marie Curie born?
! When was Pierre Curie born?

How far is the Moon from the Earth?
What is the distance between the Moon and the Earth?
How many kilometres separate the Moon from the Earth?
What's the distance from the Earth to the Moon?
! How far is the Sun from the Earth?
! How far is Mars from the Earth?

Which currency is used in Hungary?
What is the currency of Hungary?
What money do people use in Hungary?
With what currency do people pay in Hungary?
! What is the currency of Bulgaria?
! What language is spoken in Hungary?

Can I change the delivery address after I ordered?
Is it possible to change the delivery address after ordering?
May I still change the delivery address once I have ordered?
Am I able to change the delivery address after ordering?
! Can I change the delivery address before I ordered?
! Can I change the billing address after I ordered?
! Can't I change the delivery date after I ordered?

Which payment methods do you accept?
What are the accepted payment methods?
How can I pay?
What forms of payment do you take?
! Which payment methods do you not accept?
! Which delivery methods do you offer?

How do I reset my password?
What should I do to reset my password?
I forgot my password, how do I reset it?
What steps do I take to reset my password?
! How do I reset my router?
! How do I change my user name?

Do you ship to Switzerland?
Is shipping to Switzerland available?
Can you deliver to Switzerland?
Is Switzerland among the countries you ship to?
! Do you ship from Switzerland?
! Do you ship to Sweden?
! Do you ship to Switzerland for free?

How long is the warranty on your laptops?
What warranty period do your laptops have?
What is the length of the warranty for your laptops?
For how long are your laptops under warranty?
! How long is the warranty on your phones?
! How heavy are your laptops?

What causes earthquakes?
Why do earthquakes happen?
What is the reason for earthquakes?
How come there are earthquakes?
! Where do earthquakes happen?
! What causes hurricanes?
! What do earthquakes cause?

How many bones does an adult human have?
What is the number of bones in an adult human?
How many bones are there in the adult human body?
! How many teeth does an adult human have?
! How many bones does a newborn human have?

Is a bat a mammal or a bird?
Are bats mammals or birds?
! Is a bat a mammal or a reptile?
! Is a whale a mammal or a fish?

Is parking free after 6 pm?
Can I park for free after 6 pm?
Is there free parking after 6 pm?
Do you offer free parking after 6 pm?
! Is parking free before 6 pm?
! Is parking free after 8 pm?
! Is parking allowed after 6 pm?

How do I change the language of the app to Polish?
How can I set the app's language to Polish?
What are the steps to switch the app to Polish?
How do I switch the language of the app to Polish?
! How do I change the language of the app to Dutch?
! How do I change the language of the app from Polish?

How many feet are in 12 miles?
Convert 12 miles to feet.
What is 12 miles in feet?
12 miles is how many feet?
! How many miles are in 12 feet?
! How many feet are in 13 miles?
! Convert 12 miles to yards.

Is iron heavier than aluminium?
Does iron weigh more than aluminium?
Is the weight of iron greater than that of aluminium?
Is iron's weight higher than aluminium's?
! Is aluminium heavier than iron?
! Is iron lighter than aluminium?
! Is iron heavier than copper?

When did the Second World War end?
In what year did the Second World War end?
What year was the end of the Second World War?
When was the Second World War over?
! When did the Second World War begin?
! When did the First World War end?

Which country has the most lakes?
What country has the greatest number of lakes?
What is the country with the most lakes?
Name the country that has the most lakes.
! Which country has the fewest lakes?
! Which country has the most islands?
! Which continent has the most lakes?

Can I use the voucher in your online shop?
Is the voucher valid in your online shop?
May the voucher be used in your online shop?
Does the voucher work in your online shop?
! Can I buy the voucher in your online shop?
! Can I use the voucher in your local shop?
! Can I not use the voucher in your online shop?

How do I get from the airport to the city centre?
What is the best way to get from the airport to the city centre?
How can I travel from the airport to the city centre?
How do I reach the city centre from the airport?
! How do I get from the city centre to the airport?
! How do I get from the airport to the harbour?

What ingredients are in pesto?
What is pesto made of?
Which ingredients does pesto contain?
What goes into pesto?
! What ingredients are not in pesto?
! What is hummus made of?

Who was the first president of Finland?
What is the name of the first president of Finland?
Who became the first president of Finland?
Name Finland's first president.
! Who was the last president of Finland?
! Who is the president of Finland?
! Who was the first president of Ireland?

What is the boiling point of ethanol in Celsius?
At how many degrees Celsius does ethanol boil?
At what temperature in Celsius does ethanol boil?
! What is the boiling point of ethanol in Fahrenheit?
! What is the melting point of ethanol in Celsius?

How much does it cost to change a ticket?
What is the fee for changing a ticket?
What do I have to pay to change a ticket?
Is there a charge for changing a ticket, and how much is it?
! How much does it cost to cancel a ticket?
! How much does it cost to change a seat?
! How much does a ticket cost?

Where was Chopin born?
What is Chopin's birthplace?
In which place was Chopin born?
What is the place of birth of Chopin?
! When was Chopin born?
! Where did Chopin die?
! Where was Liszt born?

Until when can I check out?
What is the latest check-out time?
By what time do I have to check out?
When is check-out?
! When is check-in?
! What is the earliest check-out time?

Which river flows through Vienna?
What river runs through Vienna?
What is the river that flows through Vienna?
Name the river in Vienna.
! Which river flows through Prague?
! Which river flows from Vienna?
! Which railway runs through Vienna?

How many moons does Saturn have?
What is the number of Saturn's moons?
How many moons orbit Saturn?
How many moons are there around Saturn?
! How many rings does Saturn have?
! How many moons does Jupiter have?

Are your products made in Germany?
Do you manufacture your products in Germany?
Are your products produced in Germany?
Is Germany where your products are made?
! Are your products sold in Germany?
! Are your products made in Austria?

I want to delete my account. What do I have to do?
How do I close my account?
How can I delete my account?
What is the procedure to remove my account?
How can I get rid of my account?
! How do I open an account?
! How do I unlock my account?

Do I need a visa to travel to India?
Is a visa required to travel to India?
Must I have a visa for travelling to India?
Is a visa necessary for a trip to India?
! Do I need a visa to travel from India?
! Do I need a passport to travel to India?
! Do I need a visa to travel to China?

How can I contact customer support?
How do I reach your support team?
How do I get in touch with customer service?
What is the way to contact customer support?
! How can I contact the sales team?
! When can I contact customer support?

What is the difference between a crocodile and an alligator?
How does a crocodile differ from an alligator?
What distinguishes a crocodile from an alligator?
How are crocodiles and alligators different?
! What is the similarity between a crocodile and an alligator?
! What is the difference between a crocodile and a caiman?

In which country is Mount Kilimanjaro?
What country is Mount Kilimanjaro in?
Which country is home to Mount Kilimanjaro?
In what country can you find Mount Kilimanjaro?
! In which country is Mount Kenya?
! On which continent is Mount Kilimanjaro?

How often should I water a cactus?
How frequently does a cactus need water?
How many times a week should I water a cactus?
How often must a cactus be watered?
! How much should I water a cactus?
! How often should I water a fern?

What animal is the fastest on land?
Which land animal is the fastest?
What is the fastest land animal?
Name the fastest animal on land.
! What is the slowest land animal?
! What is the fastest sea animal?
! What is the largest land animal?
""")

MEASURED = groups("""
How deep is Lake Baikal?
What is the depth of Lake Baikal?
What depth does Lake Baikal have?
Tell me Lake Baikal's depth.
! How deep is Lake Victoria?
! How long is Lake Baikal?
! How old is Lake Baikal?

Who painted Guernica?
Who is the painter of Guernica?
Which artist painted Guernica?
Guernica was painted by whom?
! Who painted Sunflowers?
! When was Guernica painted?
! Who bought Guernica?

Where can I find my invoice?
Where do I get my invoice?
How do I find my invoice?
In which place can I see my invoice?
! Where can I find my receipt?
! When do I get my invoice?
! Where can I pay my invoice?

How do I update my credit card details?
What is the procedure for updating my credit card details?
How can my credit card details be updated?
I need to update my credit card information, what do I do?
! How do I delete my credit card details?
! How do I update my shipping details?
! How do I update my debit card details?

Do students get a discount?
Is there a discount for students?
Do you offer a student discount?
Are students eligible for a discount?
! Do teachers get a discount?
! Do students get a refund?
! Is there no discount for students?

When was the Red Cross founded?
In what year was the Red Cross established?
What is the founding year of the Red Cross?
When did the Red Cross come into being?
! When was Greenpeace founded?
! Where was the Red Cross founded?
! Who founded the Red Cross?

What language do people speak in Brazil?
Which language is spoken in Brazil?
What is the language of Brazil?
What is Brazil's official language?
! What language do people speak in Argentina?
! What money do people use in Brazil?

How fast can a cheetah run?
What is the top speed of a cheetah?
What's the maximum speed of a cheetah?
How quickly can cheetahs run?
! How fast can a lion run?
! How far can a cheetah run?
! What is the minimum speed of a cheetah?

What time does the pool open on Sunday?
When does the pool open on Sundays?
On Sundays, at what time does the pool open?
What is the opening time of the pool on Sunday?
! What time does the pool close on Sunday?
! What time does the pool open on Saturday?
! What time does the sauna open on Sunday?

How much luggage can I bring?
What is the luggage allowance?
How much baggage am I allowed to take?
What amount of luggage is permitted?
! How much luggage can I not bring?
! How much does luggage cost?

Can I bring my dog to the hotel?
Are dogs allowed in the hotel?
Is it OK to bring a dog to the hotel?
Does the hotel allow dogs?
! Are cats allowed in the hotel?
! Are dogs allowed in the restaurant?
! Are dogs banned in the hotel?

How do I connect the headset to my phone?
What is the way to connect the headset with my phone?
How can I pair the headset with my phone?
Please explain how to connect the headset to my phone.
! How do I disconnect the headset from my phone?
! How do I connect the headset to my laptop?

What does NATO stand for?
What is the meaning of NATO?
What does the abbreviation NATO mean?
What do the letters NATO stand for?
! What does NASA stand for?
! Where is NATO based?

How long does it take to boil an egg?
For how long should I boil an egg?
How many minutes does an egg need to boil?
What is the boiling time of an egg?
! How long does it take to fry an egg?
! How long does it take to boil a potato?

Why do leaves change colour in autumn?
What makes leaves change colour in autumn?
What is the reason that leaves change colour in autumn?
How come leaves change their colour in the fall?
! Why do leaves fall in autumn?
! Why do leaves change colour in spring?

What is the biggest desert in the world?
Which desert is the largest in the world?
Which is the world's largest desert?
Name the largest desert on Earth.
! What is the smallest desert in the world?
! What is the largest ocean in the world?
! What is the largest desert in Asia?

How do I return a damaged item?
What should I do to return a damaged item?
I received a damaged item. How do I send it back?
How can I send back a damaged product?
! How do I return an unused item?
! How do I repair a damaged item?
! Can I return a damaged item?

Who discovered penicillin?
Who was the discoverer of penicillin?
Penicillin was discovered by whom?
Which scientist discovered penicillin?
! Who discovered insulin?
! When was penicillin discovered?

Is breakfast included in the price?
Does the price include breakfast?
Is breakfast part of the price?
! Is dinner included in the price?
! Is breakfast not included in the price?
! Does the price include parking?

What is the minimum age for renting a car?
How old must I be to rent a car?
What age do I have to be to hire a car?
From what age can I rent a car?
! What is the maximum age for renting a car?
! What is the minimum age for buying a car?
! What is the minimum age for renting a boat?
""")
