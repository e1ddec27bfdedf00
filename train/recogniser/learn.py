"""Train the recogniser: python -m train.recogniser.learn --data runs/data runs/data-pairs runs/data-unseen

It sees squares around subjects, larger and smaller, sharp and blurred, so that what an autoencoder does to a picture
does not confuse it. It is shown the looks that the generator never sees too: kept from them, it learns that they do not
occur, and calls the second colour of a checkered coat the first. What a picture cannot show is not asked: the second
colour of a plain coat, the colour of a hat that nobody wears. Afterwards its accuracy on scenes never trained on is
printed, and the weights are written.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from models.images import to_tensor
from train.miniature.data import SCENE_KINDS, STREAMS, WORLDS, load_chunks, mixed_scene_at
from train.miniature.loop import Budget, Trainer, streams, training_parser
from train.recogniser.network import ATTRIBUTES, JOINTS, RECOGNISER_FILE, TILT, Recogniser, prepare, square_of
from train.world import Scene, Subject, render
from weights.atomic import atomic

JOINT_WEIGHT = 3.0
IGNORED = -100  # cross entropy's mark for a question that is not asked
ONE_OF_EACH = {kind: tuple(float(kind == other) for other in SCENE_KINDS) for kind in SCENE_KINDS}


def answers(scene: Scene, subject: Subject) -> tuple[list[int], list[float]]:
    """The right answer to every attribute, as an index into its values, and the joints."""
    look, pose = subject
    words = {
        "species": look.species,
        "colour": look.colour,
        "pattern": look.pattern,
        "second": None if look.pattern == "plain" else look.second,
        "accessory": look.accessory or "none",
        "accessory_colour": look.accessory_colour if look.accessory else None,
        "facing": pose.facing,
        "place": scene.place,
        "light": scene.light,
    }
    indices = [IGNORED if words[n] is None else values.index(words[n]) for n, values in ATTRIBUTES.items()]  # type: ignore[arg-type]
    return indices, [pose.tilt / TILT, pose.stride, pose.head, pose.tail]


class Questions:
    """Subjects of drawn pictures: where each is, and what is to be said of it."""

    def __init__(self, pictures: list[NDArray[np.uint8]], scenes: list[Scene]) -> None:
        self.pictures = pictures
        self.starts = np.cumsum([0, *(len(chunk) for chunk in pictures)])
        asked = [(i, scene, subject) for i, scene in enumerate(scenes) for subject in scene.subjects]
        self.rows = np.array([i for i, _, _ in asked])
        self.alone = torch.tensor([not scene.others for _, scene, _ in asked])
        poses = [(s.pose.x, s.pose.floor - s.pose.size * 0.45, s.pose.size * 0.55) for _, _, s in asked]
        self.boxes = torch.tensor(poses)
        found = [answers(scene, subject) for _, scene, subject in asked]
        self.labels, self.joints = torch.tensor([f[0] for f in found]), torch.tensor([f[1] for f in found])

    def batch(self, count: int, rng: np.random.Generator, device: str) -> tuple[Tensor, Tensor, Tensor]:
        """Squares (count 3 96 96), half of them mirrored, labels (count attributes) and joints (count 4)."""
        which = torch.from_numpy(rng.integers(len(self.rows), size=count))
        images = torch.stack([torch.from_numpy(self._picture(self.rows[i])) for i in which.tolist()]).to(device)
        images = images.permute(0, 3, 1, 2).float() / 127.5 - 1
        boxes = self.boxes[which].clone()
        jitter = torch.from_numpy(rng.uniform(-1, 1, (count, 3))).float()
        boxes[:, :2] += 0.08 * jitter[:, :2] * boxes[:, 2:]
        boxes[:, 2] *= 1.15 + 0.15 * jitter[:, 2]
        complete = self.alone[which] & torch.from_numpy(rng.random(count) < 0.5)
        boxes[complete] = torch.tensor([0.5, 0.5, 0.5])
        labels, joints = self.labels[which], self.joints[which]
        squares = blurred(prepare(images, boxes.to(device)), rng)
        mirrored = torch.from_numpy(rng.random(count) < 0.5)
        squares = torch.where(mirrored.to(device)[:, None, None, None], squares.flip(-1), squares)
        facing = list(ATTRIBUTES).index("facing")
        labels[:, facing] = torch.where(mirrored, 1 - labels[:, facing], labels[:, facing])
        return squares, labels.to(device), joints.to(device)

    def _picture(self, row: int) -> NDArray[np.uint8]:
        chunk = int(np.searchsorted(self.starts, row, side="right")) - 1
        return np.array(self.pictures[chunk][row - self.starts[chunk]])


def blurred(squares: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the batch seen through a coarser grid, and all of it through a little noise."""
    side = int(rng.integers(squares.shape[-1] // 2, squares.shape[-1]))
    half = len(squares) // 2
    coarse = F.interpolate(squares[:half], side, mode="bilinear", antialias=True)
    coarse = F.interpolate(coarse, squares.shape[-1], mode="bilinear")
    noise = torch.from_numpy(rng.standard_normal(squares.shape, dtype=np.float32)).to(squares.device)
    return torch.cat([coarse, squares[half:]]) + 0.03 * float(rng.random()) * noise


def recognition_loss(model: Recogniser, squares: Tensor, labels: Tensor, joints: Tensor) -> Tensor:
    """Cross entropies of all attributes, each over those who are asked, and the squared error of the joints."""
    scores = model(squares)
    loss = JOINT_WEIGHT * F.mse_loss(scores["joints"], joints)
    for i, name in enumerate(ATTRIBUTES):
        wrong = F.cross_entropy(scores[name], labels[:, i], ignore_index=IGNORED, reduction="sum")
        loss = loss + wrong / (labels[:, i] != IGNORED).sum().clamp(min=1)
    return loss


@torch.no_grad()
def accuracy(model: Recogniser, world: str, kind: str, unseen: bool, count: int = 300) -> dict[str, float]:
    """The share of right answers for each attribute, and the root mean square error of each joint.

    kind: which scenes; those of two subjects are asked about both. unseen: of looks never trained on.
    """
    scenes = [
        mixed_scene_at(WORLDS[world], STREAMS["held out"], i, ONE_OF_EACH[kind], unseen=unseen) for i in range(count)
    ]
    squares, labels, joints = [], [], []
    for scene in scenes:
        drawn = render(scene)
        image = to_tensor(drawn.image)[None]
        for subject, mask in zip(scene.subjects, drawn.masks, strict=True):
            box = torch.tensor([square_of(to_tensor(mask.convert("RGB"))[0] > 0)]) if scene.others else None
            squares.append(prepare(image, box))
            indices, bent = answers(scene, subject)
            labels.append(indices)
            joints.append(bent)
    device = model.joints.weight.device
    scores = model(torch.cat(squares).to(device))
    right = torch.tensor(labels)
    found = {}
    for i, name in enumerate(ATTRIBUTES):
        asked = right[:, i] != IGNORED
        found[name] = (scores[name].argmax(1).cpu() == right[:, i])[asked].float().mean().item()
    error = (scores["joints"].cpu() - torch.tensor(joints)).square().mean(0).sqrt().tolist()
    return found | dict(zip(JOINTS, error, strict=True))


def accuracies(model: Recogniser, world: str, count: int = 300) -> str:
    """A line of accuracies for each kind of scene, of looks seen in training and of looks that were not."""
    lines = []
    for kind in SCENE_KINDS:
        for unseen in (False, True):
            found = accuracy(model, world, kind, unseen, count)
            numbers = ", ".join(f"{name} {found[name]:.1%}" for name in ATTRIBUTES)
            joints = ", ".join(f"{name} {found[name]:.2f}" for name in JOINTS)
            lines.append(f"{kind}, {'unseen' if unseen else 'seen'} looks: {numbers}; errors of {joints}")
    return "\n".join(lines)


def main() -> None:
    parser = training_parser(__doc__, "runs/recogniser", steps=6000, batch=64, lr=4e-3)
    parser.add_argument("--weights", type=Path, default=RECOGNISER_FILE, help="where the finished weights go")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    model = Recogniser().to(args.device).to(memory_format=torch.channels_last)
    trainer = Trainer(model, ("blocks.0.down", "heads", "joints"), args.lr, Budget(args.steps, args.minutes), args.out)
    questions = Questions(*load_chunks(args.data, unseen=True))
    for step, share in trainer.progress():
        rng, _ = streams(args.seed, trainer.team.rank, step)
        loss = recognition_loss(model, *questions.batch(args.batch, rng, args.device))
        trainer.step(loss, share)
        if step % 50 == 0:
            trainer.bar.set_postfix_str(f"step {step} loss {loss.item():.3f}")
        if step % 500 == 0 and trainer.team.leads:
            found = accuracy(finished(trainer.ema), args.world, "single", False, 200)
            tqdm.write(f"step {step} " + ", ".join(f"{name} {found[name]:.1%}" for name in ATTRIBUTES))
    if trainer.team.leads:
        print(accuracies(finished(trainer.ema), args.world))
        with atomic(args.weights) as place:
            save_file({name: tensor.half().cpu().contiguous() for name, tensor in trainer.ema.items()}, place)


def finished(average: dict[str, Tensor]) -> Recogniser:
    """A recogniser of these weights, on the CPU."""
    model = Recogniser()
    model.load_state_dict(average)
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
