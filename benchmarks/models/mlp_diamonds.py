"""A regression: the price of diamonds, from plotnine's copy of the diamonds data (53,940 rows)."""

import csv
import io

import numpy as np
import torch
from sources import wheel, write
from torch import nn
from training import export, train

GRADES = {
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": list("JIHGFED"),
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}
SIZES = ("carat", "depth", "table", "x", "y", "z")

text = wheel("plotnine==0.15.9").read("plotnine/data/diamonds.csv").decode()
# Some stones are listed twice; none may both calibrate and judge.
rows = list({tuple(row.values()): row for row in csv.DictReader(io.StringIO(text))}.values())
table = np.array([[float(row[k]) for k in SIZES] + [GRADES[k].index(row[k]) for k in GRADES] for row in rows])
price = np.log(np.array([float(row["price"]) for row in rows]))
_, unique = np.unique(table, axis=0, return_index=True)
unique = np.random.default_rng(0).permutation(unique)
x = ((table - table.mean(0)) / table.std(0)).astype(np.float32)[unique]
y = ((price - price.mean()) / price.std()).astype(np.float32)[unique]
held = 10_000
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(9, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(),
                      nn.Linear(128, 1))  # fmt: skip
train(model, x[held:], y[held:, None], nn.MSELoss(), epochs=12)
write(
    "mlp_diamonds",
    export(model, torch.zeros(1, 9), "features", "log_price"),
    {"features": x[held : held + 512]},
    {"features": x[:held], "y": y[:held]},
    metric="r2",
    edgepack={"metric": "own_metrics:r2"},
    family="regression (MLP)",
    source="trained here on the diamonds data of the package plotnine 0.15.9",
)
