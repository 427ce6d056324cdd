"""Who scores answers 0–3: one file a kind of judge, each with `open_judge(work)` → context of a `Judge`."""
