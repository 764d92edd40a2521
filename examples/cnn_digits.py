"""A small CNN on scikit-learn's digits, to over 95 % test accuracy.

    python examples/cnn_digits.py     # needs scikit-learn

Prints the loss of each epoch, then the test accuracy.
"""

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
train_x, test_x, train_y, test_y = (
    torch.as_tensor(part) for part in train_test_split(images / 16, labels, test_size=0.25, random_state=0)
)
train_x, test_x = (x.float().view(-1, 1, 8, 8) for x in (train_x, test_x))

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Linear(512, 10),
).to("trn")  # fmt: skip
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(train_x, train_y), batch_size=64, shuffle=True)

for epoch in range(6):
    for x, y in loader:
        loss = F.cross_entropy(model(x.to("trn")), y.to("trn"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}  loss {loss.item():.4f}")

model.eval()
with torch.no_grad():
    accuracy = (model(test_x.to("trn")).argmax(1) == test_y.to("trn")).float().mean().item()
print(f"test accuracy {accuracy:.1%}")
assert accuracy > 0.95, accuracy
