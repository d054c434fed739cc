"""What a model tells about its training images: as a table, for the terminal, the report and the model card."""

from common.attacks.threat import radius
from simulations.reports.accuracy import Record, share
from simulations.reports.sheets import Sheet

TITLE = "What the model tells about its training images"
_NAMES = {"loss": "loss", "adversarial-loss": "loss under {attack}", "lira": "LiRA"}
_HEADER = ("trained on", "attack", "n", "AUC", "95 % interval")


def privacy_sheet(record: Record, unit: str) -> Sheet | None:
    """Return the AUC and the true positive rates of each attack on each group of images.

    Args:
        record: ``privacy.json``; may be empty.
        unit: of the run: round or epoch.

    Returns:
        None where nothing was measured.
    """
    if not record:
        return None
    rows = []
    for group in record["groups"].values():
        for attack, found in group["attacks"].items():
            name = _NAMES.get(attack, attack).format(attack=record["attack"])
            low, high = found["interval"]
            figures = f"{found['auc']:.3f}", f"[{low:.3f}, {high:.3f}]"
            rows.append([group["what"], name, f"{group['n']:,}", *figures, *map(share, found["tpr"].values())])
    (tpr, *_) = (found["tpr"] for group in record["groups"].values() for found in group["attacks"].values())
    header = [*_HEADER, *(f"TPR at {100 * float(rate):g} % FPR" for rate in tpr)]
    return Sheet(f"{TITLE}, after {unit} {record['round']}", header, rows, [*_gaps(record), *_notes(record)], 2)


def _gaps(record: Record) -> list[str]:
    """Say how much better the model is on images that it was trained on: the generalization gap."""
    return [
        f"{group['what']}: {_gap(group, 'natural', 'accuracy')}{_gap(group, 'robust', ', under attack')}"
        for group in record["groups"].values()
    ]


def _gap(group: Record, name: str, what: str) -> str:
    members, others = group["members"][name], group["others"][name]
    if members is None or others is None:
        return ""
    return f"{what} {share(members)} %, on test images {share(others)} % (gap {100 * (members - others):+.1f} points)"


def _notes(record: Record) -> list[str]:
    told = [
        "AUC: how often an image of the training gets a higher score than a test image, with as many of each class; "
        "0.5 is guessing. The intervals (Newcombe's, from Hanley and McNeil's variance) are for the sample of images, "
        "not for another training seed",
        "TPR in %: the share of the training images that are recognised where 1 % (0.1 %) of the others are taken for "
        "such; guessing gives 1 (0.1). It needs n = 100 (1,000), a dash where there are fewer, and is rough below ten "
        "times as many",
    ]
    if record["attack"]:
        told.append(f"{record['attack']} within epsilon {radius(record['epsilon-255'], record['norm'])}")
    if shadows := record["shadows"]:
        told.append(
            f"LiRA, offline, with {shadows['count']} shadow models, each trained for {shadows['epochs']} epochs on "
            f"{shadows['images']:,} images; each image was new to {shadows['count'] // 2} of them"
        )
    else:
        told.append("LiRA was left out (--shadows 0): a stronger attack may find more")
    return [*told, *record["notes"]]
