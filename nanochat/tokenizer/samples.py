"""Short texts of several kinds, to compare how far tokenizers compress them."""

from __future__ import annotations

SAMPLES: dict[str, str] = {
    "news": """\
HARBOUR COUNCIL APPROVES $48 MILLION BRIDGE REPAIR

ELLINGTON, March 14 — After a debate that ran past midnight, the city council voted 7-2 on Tuesday to
repair the 61-year-old Ferry Street Bridge, which about 23,400 vehicles cross every day. Work is to begin
in September and should take 18 months, said Maria Okafor, the council's transport chair. "We've postponed
this three times," she told reporters. "We can't do it a fourth." Two members voted against the plan,
citing a rise of 12.5% in the estimated cost since last year's study. Shopkeepers on the eastern bank fear
that they'll lose customers; the mayor's office says it will run free buses.
""",
    "prose": """\
The ferry left the island a little after six, when the harbour lamps were still lit and the gulls had begun to
quarrel over the night's scraps. Anna stood at the rail with her collar up.
"You could have stayed until Sunday,"
her brother had said, and she hadn't known how to answer; there was always one more Sunday. Behind her
the engine found its rhythm, the deck began to hum, and the houses on the hill turned into a row
of small, pale teeth.

Scientists who study rivers say that water has no memory, but the banks do. Every flood leaves a line of sand,
every dry summer a crust of clay, and someone who can read these layers can tell which years were generous
and which weren't.
""",
    "code": """\
from dataclasses import dataclass, field


@dataclass
class Account:
    owner: str
    balance: float = 0.0
    history: list[tuple[str, float]] = field(default_factory=list)

    def withdraw(self, amount: float) -> None:
        if amount <= 0 or amount > self.balance:
            raise ValueError(f"cannot withdraw {amount:.2f} of {self.balance:.2f}")
        self.balance -= amount
        self.history.append(("withdraw", amount))

for (size_t i = 0; i < rows * cols; ++i) { sum[i % cols] += (float)data[i] / rows; }
SELECT name, COUNT(*) AS n FROM visits WHERE day >= '2024-01-01' GROUP BY name ORDER BY n DESC LIMIT 10;
""",
    "math": r"""
Let $f(x) = 3x^2 - 12x + 7$. Completing the square gives $f(x) = 3(x-2)^2 - 5$, so
the minimum is $-5$ at $x = 2$.
\begin{align} \int_0^1 x^n \, dx &= \frac{1}{n+1}, & \sum_{k=1}^{n} k &= \frac{n(n+1)}{2} \end{align}
48 + 79 = 127; 312 * 45 = 14,040; 1,000,000 / 64 = 15,625; 17 is prime, 91 = 7 * 13;
2^10 = 1024; 0.125 = 1/8.
A train covers 250 km in 2 h 30 min, so its speed is 250 / 2.5 = 100 km/h; in 45 minutes it covers 75 km.
""",
    "german": """\
Der Zug hielt auf freier Strecke, und niemand wusste, warum. Draußen lagen verschneite Felder,
dahinter ein Dorf mit einem spitzen Kirchturm. „Das dauert bestimmt länger“, sagte die Frau am Fenster
und holte ihr Frühstück heraus.
""",
    "french": """\
Le marché s'installe dès l'aube sur la place de l'église : on y trouve des fromages, du miel,
des légumes encore couverts de terre. À midi, tout est déjà rangé,
et il ne reste que l'odeur du café et quelques feuilles de salade.
""",
    "russian": """\
Зимой озеро замерзает рано, и дети идут в школу прямо по льду. Старики говорят, что раньше зимы были холоднее,
а рыба крупнее, но проверить это уже никто не может.
""",
    "chinese": """\
清晨的市场里,卖豆腐的老人总是第一个到。他把木桶放好,点上一支烟,慢慢地等着天亮。
""",
    "korean": """\
비가 그치자 골목에 아이들의 웃음소리가 다시 들리기 시작했다. 할머니는 창문을 열고 젖은 이불을 내다 널었다.
""",
    "hindi": """\
गाँव के बाहर एक पुराना बरगद का पेड़ है, जिसके नीचे शाम को लोग बैठकर दिन भर की बातें करते हैं।
""",
    "emoji": """\
see you at 8 🎉🎉 bring the 🍕 & your 🐕‍🦺!! lol 😂😂😂 can't wait ❤️👍🏽 → #party2024 @home :-)
""",
}
