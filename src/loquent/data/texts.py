"""What the synthetic voices say: our own sentences, a small grammar over them, and made-up syllables that cover sounds
which sentences hold rarely."""

from __future__ import annotations

import numpy as np

_SUBJECTS = (
    "the old baker", "my younger brother", "a woman from Bombay", "our neighbour", "the whole team", "nobody here",
    "the boy with the blue umbrella", "Professor Wallace", "your mother", "the mayor of a small village", "she", "he",
    "a famous painter", "the ship's captain", "Victoria", "Thomas and Beth", "the pharmacist", "this machine",
    "a group of five visitors", "the judge", "everyone I know", "the girl next door", "Mr. Fowler", "the pilot",
    "a very patient farmer", "the museum", "that bright yellow bird", "my voice coach", "the chief engineer", "we",
)  # fmt: skip
_VERBS = (
    "bought", "remembered", "almost forgot", "moved", "painted", "pushed", "borrowed", "believed in", "wrapped up",
    "photographed", "measured", "complained about", "laughed about", "put away", "found", "chewed on", "weighed",
    "asked for", "threw out", "polished", "would rather have", "never mentioned", "shouted about", "described",
    "gave up", "improved", "jumped over", "whispered about", "brought back", "opened",
)  # fmt: skip
_OBJECTS = (
    "the purple suitcase", "a bowl of warm soup", "five pairs of shoes", "the map of Africa", "a cheap violin",
    "the first page of the book", "some very thin paper", "her favourite poem", "an apple and a pear", "the moon",
    "every possible solution", "a plate of fresh vegetables", "the broken window", "a cup of jasmine tea", "my camera",
    "three thousand pebbles", "the bathroom mirror", "a fluffy white rabbit", "the problem with the pump", "the gold",
    "an unusual measurement", "both of the maps", "a pair of leather gloves", "the beautiful harbour", "the rumour",
    "a box of old buttons", "the bus to Birmingham", "a thousand small favours", "the weather report", "the noise",
)  # fmt: skip
_TAILS = (
    "before breakfast", "in the middle of the night", "for the very first time", "on a boat", "without a word",
    "because of the storm", "when the music stopped", "at the back of the room", "every other Thursday", "as usual",
    "while it was raining", "under the bridge", "in twenty twenty-four", "with both hands", "over the phone",
    "and then went home", "but nobody was amused", "for about eighteen months", "just to prove a point", "outside",
    "from top to bottom", "if I remember it properly", "long before the war", "somewhere near the river", "at noon",
)  # fmt: skip
_OPENERS = (
    "Well,", "You know,", "To be honest,", "Oh,", "Maybe", "I believe", "Apparently,", "By the way,", "So,",
    "Last week", "Believe me,", "In my opinion,", "Of course", "Hmm,", "Once upon a time", "However,", "Look,",
)  # fmt: skip
_QUESTIONS = (
    "Why do people move to big cities?", "Could you pass me the pepper, please?", "Where have you been all morning?",
    "Do you really believe that?", "What if we both went by bus?", "Who put the bread on my bed?", "How much was it?",
    "Which of these would you prefer, the blue one or the brown one?", "Is that your voice on the tape?",
    "Would you mind if I opened a window?", "Have you ever thought about moving abroad?", "What time is it?",
)  # fmt: skip
_PLAIN = (
    "Welcome, everybody, and thank you for coming.", "Please remember to bring your passport.",
    "Five brave women climbed the mountain above my village.", "The thief thought that nothing would happen.",
    "Put the bowl of peaches by the back porch.", "Vivian's father drives a very fast van.", "I am not so sure.",
    "She usually measures the garage before she buys furniture.", "How now, my dear old friend?", "Yes, of course.",
    "Both of them mumbled something about a bumpy ride.", "Hello, my name is Emma, and I will be your guide today.",
    "We hope that this update makes your work a little bit simpler.", "No, absolutely not!", "Thank you very much.",
    "Warm water flows over smooth white stones.", "The weather will improve from Wednesday on.", "Good morning!",
    "Move the mouse up, press the button, and wait for a moment.", "Pure blue smoke blew through the roof.",
    "Maybe my memory is bad, but I remember a much bigger room.", "Books about birds are popular in Poland.",
    "The boy enjoyed his oysters with soy sauce.", "Chew each cherry, then judge the jam.", "It's over. Let's go.",
    "In theory this is simple; in practice, everything depends on people.", "Oh wow, what a beautiful view!",
    "Peter, Paul, and Mabel both play the piano; I prefer the bass.", "That path is rather smooth and thin.",
    "We measured the pressure, and we were pleasantly surprised.", "Watch out for the wolf, woman!",
    "A penny saved is a penny earned, as my grandmother used to say.", "Few of us ever forget the first love.",
)  # fmt: skip
_UNITS = ("percent", "miles", "people", "pounds", "dollars", "minutes", "volts", "points", "bottles", "votes")

# Short sentences by espeak-ng voice; written for this project.
_SENTENCES: dict[str, tuple[str, ...]] = {
    "de": (
        "Guten Morgen, wie geht es Ihnen heute?", "Wir möchten übermorgen nach München fahren.", "Das ist mir völlig egal.",
        "Meine Mutter backt jeden Sonntag Brot und Pflaumenkuchen.", "Fünf Vögel flogen über das hohe Haus.",
        "Warum bist du so spät gekommen?", "Pass bitte auf, der Boden ist ziemlich glatt.", "Ich glaube, es regnet bald.",
        "Zwölf große Schiffe liegen im Hafen von Hamburg.", "Am Abend wurde es ruhig, und wir gingen nach Hause.",
    ),
    "fr": (
        "Bonjour, je m'appelle Amélie et j'habite à Bordeaux.", "Est-ce que vous pouvez répéter, s'il vous plaît?",
        "Mon oncle a perdu un bouton bleu dans la rue.", "Il fait beau, mais le vent est un peu froid.",
        "Nous avons mangé du pain, des pommes et du fromage.", "Pourquoi ne voulez-vous pas venir avec nous?",
        "La pluie tombe doucement sur les toits du vieux port.", "Huit jeunes filles jouent au bord de la mer.",
    ),
    "es": (
        "Buenos días, ¿cómo está usted?", "Mi hermano vive en un pueblo pequeño cerca del mar.", "No me lo puedo creer.",
        "Ayer por la tarde compramos pan, vino y queso.", "El perro blanco corre por el campo.", "¿Qué hora es?",
        "Me gustaría reservar una mesa para cinco personas.", "Llueve mucho, pero mañana va a mejorar el tiempo.",
    ),
    "it": (
        "Buongiorno a tutti, benvenuti a Bologna.", "Mia madre prepara sempre una zuppa buonissima.", "Che bella vista!",
        "Vorrei due bottiglie di acqua e un bicchiere di vino.", "Il bambino gioca con una palla verde.",
        "Perché non andiamo al mare domani?", "Gli amici di Paolo abitano sopra la piazza.", "Non ho capito bene.",
    ),
    "pt-br": (
        "Bom dia, tudo bem com você?", "Minha avó morava numa casa branca perto do mar.", "Não sei o que fazer.",
        "Amanhã vamos comprar pão, manteiga e um pouco de vinho.", "O menino abriu a porta e viu um passarinho.",
        "Por que você não falou comigo?", "Faz muito frio em São Paulo nesta época.", "Obrigado pela sua paciência.",
    ),
    "pl": (
        "Dzień dobry, bardzo mi miło.", "Moja babcia piecze pyszny chleb.", "Czy możesz powtórzyć to pytanie?",
        "W poniedziałek pojedziemy pociągiem do Poznania.", "Pięć białych ptaków lata nad wodą.", "Nie mam pojęcia.",
        "Proszę zamknąć okno, bo wieje zimny wiatr.", "Szczęście sprzyja odważnym ludziom.",
    ),
    "ru": (
        "Добрый день, меня зовут Павел.", "Моя бабушка живёт в маленькой деревне.", "Почему вы так рано ушли?",
        "Завтра мы поедем на поезде в большой город.", "Пять белых птиц летают над водой.", "Я вас не понимаю.",
        "Пожалуйста, принесите мне стакан воды.", "Было уже поздно, и все пошли домой.",
    ),
    "cmn-latn-pinyin": (
        "ni3 hao3, wo3 jiao4 li3 ming2.", "jin1 tian1 tian1 qi4 hen3 hao3.", "wo3 men5 yi4 qi3 qu4 bei3 jing1 ba5.",
        "qing3 wen4, zhe4 ge5 duo1 shao3 qian2?", "wo3 ma1 ma5 hui4 zuo4 hen3 hao3 chi1 de5 mian4 bao1.",
        "ta1 bu4 zhi1 dao4 ni3 shuo1 shen2 me5.", "ming2 tian1 xia4 wu3 wo3 yao4 mai3 yu2 he2 mi3 fan4.",
    ),
    "ja": (
        "こんにちは、わたしのなまえはまりこです。", "きょうはとてもいいてんきですね。", "ふじさんにのぼりたいとおもいます。",
        "すみません、もういちどおねがいします。", "あしたはともだちとえいがをみにいきます。", "それはむずかしいもんだいです。",
        "パンとバターをかってきました。", "どうもありがとうございました。",
    ),
    "hi": (
        "नमस्ते, आप कैसे हैं?", "मेरा भाई बाज़ार से फल लाया है।", "क्या आप मेरी मदद कर सकते हैं?", "आज मौसम बहुत अच्छा है।",
        "हम कल मुंबई जाएँगे।", "मुझे यह बात बिल्कुल पसंद नहीं आई।", "बच्चे पेड़ के नीचे खेल रहे हैं।", "पानी बहुत ठंडा है।",
    ),
    "ar": (
        "مرحبا، كيف حالك اليوم؟", "أبي يعمل في مكتب صغير.", "أريد كوبا من الماء من فضلك.", "ذهبنا إلى البحر يوم الجمعة.",
        "هذا البيت جميل جدا.", "لماذا لم تخبرني بذلك؟", "اشتريت خبزا وبرتقالا من السوق.",
    ),
    "sw": (
        "Habari za asubuhi, jina langu ni Bahati.", "Mama yangu anapika wali na maharagwe.", "Ninapenda kusoma vitabu.",
        "Kwa nini umefika umechelewa leo?", "Watoto wanacheza mpira pwani.", "Tutaonana kesho mchana, Mungu akipenda.",
    ),
    "tr": (
        "Merhaba, benim adım Mehmet.", "Bugün hava çok güzel, değil mi?", "Babam her sabah bir bardak süt içer.",
        "Köprünün üstünde büyük bir gemi gördüm.", "Lütfen kapıyı kapatır mısınız?", "Bunu bilmiyordum.",
    ),
    "nl": (
        "Goedemorgen, hoe gaat het met u?", "Mijn broer woont boven een bakkerij in Utrecht.", "Dat vind ik heel mooi.",
        "Waarom ben je niet met de bus gekomen?", "Vijf bruine paarden lopen over het veld.", "Het wordt weer kouder.",
    ),
    "sv": (
        "God morgon, hur mår du?", "Min mormor bor i ett rött hus vid sjön.", "Varför kom du så sent?",
        "Vi köpte bröd, smör och sju päron.", "Det är mycket vackert här på sommaren.", "Jag förstår inte riktigt.",
    ),
    "ko": (
        "안녕하세요, 제 이름은 민수입니다.", "오늘 날씨가 아주 좋네요.", "내일 친구와 영화를 보러 갑니다.", "물 한 잔 주세요.",
        "우리 엄마는 빵을 잘 만들어요.", "왜 그렇게 늦게 왔어요?",
    ),
    "fi": (
        "Hyvää huomenta, mitä kuuluu?", "Minun isoäitini asuu pienessä kylässä.", "Ostimme leipää, voita ja mehua.",
        "Miksi sinä tulit niin myöhään?", "Huomenna mennään laivalla saareen.", "En ymmärrä, mitä tarkoitat.",
    ),
    "id": (
        "Selamat pagi, apa kabar?", "Ibu saya membeli buah pepaya di pasar.", "Mengapa kamu datang terlambat?",
        "Besok kami akan pergi ke pantai bersama-sama.", "Cuaca hari ini sangat bagus.", "Saya tidak mengerti.",
    ),
}  # fmt: skip
LANGUAGES = tuple(_SENTENCES)  # that espeak-ng speaks here

# For voices of other engines, which read plain letters only.
_PLAIN_LETTERS = {
    "ca": ("Bon dia, com va tot?", "La meva mare viu a prop del mar.", "Vull una poma i un xic de pa.", "Avui fa bo."),
    "cs": (
        "Dobry den, jmenuji se Pavel.",
        "Moje babicka pece chleba.",
        "Kdy pojedeme do Brna?",
        "Mam rad modrou barvu.",
    ),
    "fi-ascii": (
        "Huomenta, mita kuuluu?",
        "Mummo asuu pienessa kylassa.",
        "Ostimme voita ja mehua.",
        "Nyt sataa vetta.",
    ),
}

# Letters for made-up words, in the writing that the voice reads: consonants and vowels.
_LATIN = ("p b m f v t d n s l k g r w h", "a e i o u ai ou")
_LETTERS = {
    "de": ("p b m f w t d n s l k g r sch h ch z pf", "a e i o u ä ö ü ei au"),
    "fr": ("p b m f v t d n s l c g r ch j", "a é i o u ou eu on an in oi"),
    "pl": ("p b m f w t d n s l k g r sz ż ć cz h", "a e i o u y ą ę"),
    "ru": ("п б м ф в т д н с л к г р ш ж ч х", "а э и о у ы ю я"),
    "ja": ("ま ぶ ぱ び ぼ ふ む み た し つ か ち しゅ じょ", "あ い う え お や ゆ わ"),
    "hi": ("प ब म फ भ त द न स ल क ग र श च ज व", "ा ि ी ु ू े ो ौ"),
    "cmn-latn-pinyin": ("b p m f d t n l g k h zh ch sh z c s", "a1 o2 e4 ai3 ei2 ao1 ou4 an3 ang1 u2"),
}  # fmt: skip
_NO_MADE_UP = ("ar", "ko")


def english_sentence(rng: np.random.Generator) -> str:
    """One English sentence or question; about one in ten million is drawn twice."""
    kind = rng.random()
    if kind < 0.16:
        return _pick(_PLAIN, rng)
    if kind < 0.26:
        return _pick(_QUESTIONS, rng)
    if kind < 0.34:
        return f"{_clause(rng)}, {_pick(('and', 'but', 'so', 'because', 'although'), rng)} {_clause(rng)}."
    if kind < 0.42:
        number = rng.integers(2, 10 ** int(rng.integers(1, 5)) + 10)
        return f"It was about {number} {_pick(_UNITS, rng)}, {_pick(_TAILS, rng)}."
    if kind < 0.50:
        things = [_pick(_OBJECTS, rng) for _ in range(int(rng.integers(2, 5)))]
        return f"{_pick(_SUBJECTS, rng).capitalize()} {_pick(_VERBS, rng)} {', '.join(things)}, and that was all."
    if kind < 0.62:
        return f"Did {_pick(_SUBJECTS, rng)} say something about {_pick(_OBJECTS, rng)} {_pick(_TAILS, rng)}?"
    opener = f"{_pick(_OPENERS, rng)} " if rng.random() < 0.4 else ""
    sentence = f"{opener}{_clause(rng)} {_pick(_TAILS, rng)}"
    return sentence[0].upper() + sentence[1:] + _pick((".", ".", ".", "!"), rng)


def sentence(language: str, rng: np.random.Generator) -> str:
    """One sentence, or a few made-up words, "en" and its kin, one of LANGUAGES, or of festival's voices."""
    if language.startswith("en"):
        return made_up("en", rng) if rng.random() < 0.06 else english_sentence(rng)
    if language not in _NO_MADE_UP and rng.random() < 0.45:
        return made_up(language, rng)
    return _pick((_SENTENCES | _PLAIN_LETTERS)[language], rng)


def made_up(language: str, rng: np.random.Generator) -> str:
    """Three to seven words of random syllables, so that every sound meets every other."""
    consonants, vowels = (letters.split() for letters in _LETTERS.get(language, _LATIN))
    words = []
    for _ in range(int(rng.integers(3, 8))):
        syllables = [_pick(consonants, rng) + _pick(vowels, rng) for _ in range(int(rng.integers(1, 4)))]
        words.append("".join(syllables) + ("," if rng.random() < 0.12 else ""))
    return " ".join(words).rstrip(",") + "."


def _clause(rng: np.random.Generator) -> str:
    return f"{_pick(_SUBJECTS, rng)} {_pick(_VERBS, rng)} {_pick(_OBJECTS, rng)}"


def _pick(options, rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
