"""The Lightning module that trains every system, from region features or from pixels."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from chextriev.errors import InvalidSetting
from chextriev.systems import find_system, new_system, trains_backbone
from chextriev.train.adjacency import cooccurrence_adjacency
from chextriev.train.encoder_output import EncoderOutput
from chextriev.train.encoders import new_encoder, set_adjacency
from chextriev.train.feature_data import Batch, FeatureData
from chextriev.train.learned_backbone import LearnedBackbone, new_learned_backbone
from chextriev.train.losses import split_loss, system_loss
from chextriev.train.system_module import SystemModule, on_cpu
from chextriev.train.validation import mean_auroc, retrieval_precision


class EncoderModule(SystemModule):
    """Train a system as published: Adam, the rate cut where the validation loss stands still.

    Args:
        system: name of a system of the paper, or the settings of a new one (`base` names the one it starts from).
        feature_width: numbers a crop (taken from the data).
        learning_rate: of Adam.
        weight_decay: of Adam, added to the gradient.
        plateau_factor: by which the rate is cut; null keeps it constant.
        plateau_patience: epochs without a lower validation loss before a cut.
        backbone: what to fine-tune, for systems that train a published backbone (default: resnet50).
        weights: where its weights come from, as for `chextriev data features`.
        recompute: hold the activations of two radiographs at a time and compute them twice (default: true).
        provenance: digests of the data (taken from the data).
    """

    monitor: ClassVar = "val_auroc"

    def __init__(
        self,
        system: str | dict[str, Any] = "v6",
        feature_width: int = 2048,
        *,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        plateau_factor: float | None = 0.1,
        plateau_patience: int = 4,
        backbone: str | None = None,
        weights: str | None = None,
        recompute: bool | None = None,
        provenance: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.spec = find_system(system) if isinstance(system, str) else new_system(system)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.plateau_factor, self.plateau_patience = plateau_factor, plateau_patience
        self.backbone: LearnedBackbone | None = None
        provenance = dict(provenance or {})
        if getattr(self.spec, "backbone", "frozen") == "frozen" and (backbone, weights, recompute) != (
            None,
            None,
            None,
        ):
            raise InvalidSetting(
                f"system {self.spec.name} has no backbone to fine-tune; leave backbone, weights and recompute out"
            )
        if trains_backbone(self.spec):
            self.backbone, start = new_learned_backbone(
                self.spec, name=backbone or "resnet50", weights=weights, recompute=recompute is not False
            )
            feature_width = start.spec.width
            provenance |= {"backbone": start.spec.name, "backbone_digest": start.digest}
        self.save_hyperparameters(
            {
                "system": self.spec.as_dict(),
                "feature_width": feature_width,
                "learning_rate": learning_rate,
                "provenance": provenance,
            }
        )
        self.encoder = new_encoder(self.spec, feature_width)

    def setup(self, stage: str) -> None:
        """Compute the adjacency, where the system has one, from the train split alone; checkpoints carry it."""
        if stage == "fit" and getattr(self.spec, "adjacency", "") == "co-occurrence":
            set_adjacency(self.encoder, torch.from_numpy(cooccurrence_adjacency(self._data.train_region_findings())))

    def forward(self, features: Tensor) -> EncoderOutput:
        """Features [B, crops, width] float32, or grey crops [B, crops, size * size] uint8 to a backbone that learns."""
        output: EncoderOutput = self.encoder(features if self.backbone is None else self.backbone(features))
        return output

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Loss of one batch."""
        loss = system_loss(self.spec, self(batch.features), batch.image_findings, batch.region_findings)
        self.log("train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch.row))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        """Keep what the metrics need: they are of the whole split, not means of batches."""
        kept = {**_outputs(self(batch.features)), **batch._asdict()}
        del kept["features"]
        self.keep(kept)

    def on_validation_epoch_end(self) -> None:
        """Loss, AUROC of the findings and retrieval precision of the deployed embedding, over the split."""
        split = self.whole_split()
        output = EncoderOutput(**{name: split[name] for name in EncoderOutput._fields if name in split})
        findings = split["image_findings"].numpy()
        patients = self._data.table.patient_id[split["row"].numpy()]
        loss = split_loss(self.spec, output, split["image_findings"], split["region_findings"])
        # Every process has computed these of all rows: their mean over processes is what each of them has.
        self.log("val_loss", loss, sync_dist=True)
        self.log("val_auroc", mean_auroc(output.finding_logits, findings), prog_bar=True, sync_dist=True)
        precision = retrieval_precision(output.embedding, findings, patients, k=5)
        self.log("val_precision_at_5", precision, prog_bar=True, sync_dist=True)

    def predict_step(self, batch: Batch, _: int) -> dict[str, Tensor]:
        """The embedding of each radiograph and its row of the study table."""
        return {"row": batch.row.cpu(), "embedding": on_cpu(self(batch.features).embedding)}

    def on_train_epoch_end(self) -> None:
        """Cut the rate where it is time, before the epoch's checkpoint: Lightning would do so after it."""
        schedule, metrics = self.lr_schedulers(), self.trainer.callback_metrics
        if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau) and "val_loss" in metrics:
            schedule.step(metrics["val_loss"])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Nothing: see `on_train_epoch_end`."""

    def configure_optimizers(self) -> Any:
        """Adam and the plateau schedule."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        if self.plateau_factor is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=self.plateau_factor, patience=self.plateau_patience
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}

    @property
    def _data(self) -> FeatureData:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, FeatureData):
            raise InvalidSetting(f"EncoderModule trains from FeatureData, not {type(data).__name__}")
        return data


def _outputs(output: EncoderOutput) -> dict[str, Tensor]:
    """What validation needs of an output: all but the region vectors, whose mean is the embedding."""
    wanted = output._replace(region_vectors=None)._asdict()
    return {name: tensor for name, tensor in wanted.items() if tensor is not None}
