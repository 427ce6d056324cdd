"""`jsm init`: a commented study.yaml and a few sample rows, to be replaced by the user's own data."""

import json
from pathlib import Path

from jsm_queue.cli import console
from jsm_queue.errors import SpecError
from jsm_queue.files import write_whole

STUDY = """\
# A study: which base model, fine-tuned on how much of your data, quantized how?
#   jsm plan study.yaml      shows the jobs before anything runs
#   jsm up                   in another terminal: starts everything on this machine
#   jsm submit study.yaml --watch
#   jsm report my-study      writes the report
# Every key: docs/settings.md. Paths are relative to this file.
name: my-study

data:
  # Your corpus: question–answer pairs, one JSON object a line with "question" and "answer". Optional: "id",
  # "category", and "key_facts": what a right answer must contain, each fact a list of accepted spellings.
  # Alpaca, ShareGPT and chat-message rows work too, also as .json, .csv or .parquet, or from the hub (hub:ORG/NAME);
  # or a knowledge graph (.yaml, see examples/river/graph.yaml). All of it: docs/data.md.
  source: data.jsonl
  # Questions whose answers are judged, in the same form, best written by hand; each needs "key_facts". Without it
  # the test questions serve, so then every pair above needs "key_facts", and the test set chooses base and format.
  # bench: bench.jsonl
  seed: 0             # decides the split
  validation: 10      # examples; the validation set chooses n. 60 or more tell small differences
  test_unseen: 5      # examples held out as the test set. To call two formats equivalent takes 60 questions or more

# system_prompt: あなたは河川技術の専門家です。簡潔に答えてください。

bases:
  # A hub id with a revision, a local folder in the Hugging Face layout, or a .gguf file.
  # A .gguf is best as an untrained reference (train: false).
  - name: qwen2.5-0.5b
    source: Qwen/Qwen2.5-0.5B-Instruct
    revision: main    # resolved to a commit at submit, so that the study can be repeated
  # - name: my-model
  #   source: ../models/my-model

training:             # shared by all compared cells
  r: 16               # LoRA rank
  alpha: 32
  dropout: 0.0
  lr: 2.0e-4
  schedule: cosine
  warmup: 0.05        # share of the steps
  epochs: 3
  batch: 8            # examples a step
  max_length: 1024    # tokens; longer examples are dropped and counted
  quantized: true     # QLoRA: the base in 4 bits while training

decoding:             # greedy, one setting for all
  max_new_tokens: 256

stages:
  scale:              # 1: how much data? n* is the smallest size that is not worse than the best one
    base: qwen2.5-0.5b
    sizes: [6, 12]    # with your data e.g. [250, 500, 1000, 2000]
    seeds: [1, 2, 3]  # seeds are the error bars
  bases:              # 2: which base, at n*?
    seeds: [1, 2]
    answer_format: Q8_0
  quantization:       # 3: which GGUF format may it be deployed in?
    keep: 1           # how many of the best bases
    formats: [F16, Q8_0, Q5_K_M, Q4_K_M]

limits: {}            # what the recommendation must fit: vram_gib, seconds_per_question, file_gb
"""

TOPICS = (
    ("堤防の主な役割は何ですか。", "河川の水が市街地へあふれるのを防ぐことです。", "あふれる"),
    (
        "砂防堰堤は何のために造られますか。",
        "土石流などの土砂を捕捉し、下流の被害を軽減するためです。",
        "土砂",
    ),
    (
        "ダムの洪水調節とは何ですか。",
        "洪水時に流入水の一部を貯め、下流への放流量を減らすことです。",
        "放流量",
    ),
    ("河床勾配とは何を表しますか。", "河川の縦断方向の川底の傾きを表します。", "傾き"),
    ("水位観測所では何を測りますか。", "河川の水位を継続して測ります。", "水位"),
    ("計画高水位とは何ですか。", "計画高水流量が流れるときの水位です。", "水位"),
    ("護岸は何を守りますか。", "流水による侵食から河岸や堤防を守ります。", "侵食"),
    ("水制の目的は何ですか。", "流れの向きを変え、河岸への水あたりを弱めることです。", "流れ"),
    ("床止めは何を防ぎますか。", "河床が下がるのを防ぎます。", "河床"),
    ("樋門はどこに設けられますか。", "堤防を横切る水路の出口に設けられます。", "堤防"),
    ("魚道は何のためにありますか。", "堰などを越えて魚が行き来できるようにするためです。", "魚"),
    ("河川巡視では何を確認しますか。", "施設の損傷や河道の変化、不法行為などを確認します。", "損傷"),
    ("土石流とは何ですか。", "水と土砂や石が一体となって谷を流れ下る現象です。", "流れ下る"),
    ("内水氾濫とは何ですか。", "降った雨を排水しきれず市街地が浸水する現象です。", "浸水"),
    ("外水氾濫はどのように起こりますか。", "河川の水が堤防を越えたり破ったりしてあふれ出ます。", "あふれ"),
    ("流域とは何ですか。", "降った雨がその河川に集まる範囲です。", "範囲"),
    ("遊水地の働きは何ですか。", "洪水の一部を一時的に貯め、下流の流量を減らします。", "貯め"),
    ("放水路とは何ですか。", "洪水を海などへ直接流すために掘られた水路です。", "水路"),
    ("浚渫とは何をする作業ですか。", "川底や貯水池にたまった土砂を掘り取る作業です。", "土砂"),
    ("堆砂はダムにどう影響しますか。", "貯水池の容量を減らします。", "容量"),
    ("ハザードマップには何が示されますか。", "災害が想定される区域や避難場所が示されます。", "避難"),
    ("水防活動の例は何ですか。", "土のうを積んで越水を防ぐ活動です。", "土のう"),
    ("点検で堤防のどこを見ますか。", "法面の亀裂や沈下、漏水の跡などを見ます。", "亀裂"),
    ("流量はどう求めますか。", "流れの断面積に平均流速をかけて求めます。", "断面積"),
    ("横断測量とは何ですか。", "河川の流れに直角な断面の形を測る測量です。", "断面"),
    ("かすみ堤の特徴は何ですか。", "堤防に切れ目があり、洪水の一部を逃がして戻すことです。", "切れ目"),
    ("越水とは何ですか。", "河川の水が堤防の上を越えて流れ出ることです。", "越えて"),
    ("渓流保全工の目的は何ですか。", "渓流の侵食を抑え、流れを安定させることです。", "侵食"),
    ("地すべり対策の例は何ですか。", "地下水を抜く集水井を設けることです。", "地下水"),
    ("水質調査では何を測りますか。", "水温や濁り、溶けている酸素の量などを測ります。", "酸素"),
)
"""question, answer, one key fact: general knowledge of river engineering, enough for the sample study"""


def run(folder: Path) -> None:
    """Writes the two files. Raises SpecError rather than overwriting one."""
    study, data = folder / "study.yaml", folder / "data.jsonl"
    for path in (study, data):
        if path.exists():
            raise SpecError(f"{path} exists already", "Name another folder: `jsm init DIR`")
    write_whole(data, sample_data())
    write_whole(study, STUDY)
    console.out.print(f"{study}   the study, commented\n{data}   {len(TOPICS)} sample rows: put your own pairs here")
    console.out.print(f"Next  jsm plan {study}")


def sample_data() -> str:
    """The sample rows as JSONL."""
    rows = [{"question": q, "answer": a, "key_facts": [[fact]]} for q, a, fact in TOPICS]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
